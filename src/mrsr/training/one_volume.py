"""Train a network on the LR slices of one volume or scan alone (methods of type `self`, SMORE)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import compute, models, resampling
from mrsr.console import Progress, say
from mrsr.errors import UserError
from mrsr.method import losses
from mrsr.params.jobs import SuperResolution
from mrsr.params.typed import build
from mrsr.slices import batches, holding
from mrsr.training import optimizers
from mrsr.training.divergence import Watch, check_weights


def train_step(
    parts: dict[str, Any],
    pairs: holding.Slices,
    step: int,
    weights: dict[str, float],
    settings: SuperResolution,
    machine: compute.Machine,
) -> Tensor:
    """One optimizer step (counted from 0) on one volume; the unweighted terms and their total."""
    network, optimizer = parts["network"], parts["optimizer"]
    lr, hr = batches.draw(pairs, settings, step + 1, machine)
    optimizers.set_scheduled_rate(optimizer, settings, step + 1)
    optimizer.zero_grad()
    terms = torch.zeros(len(weights) + 1, dtype=machine.dtype, device=machine.device)
    for lr_part, hr_part, portion, *_ in compute.micro_batches(lr, hr, settings.micro_batch):
        with machine.autocast():
            sr, _ = models.outputs(network(lr_part))
        models.check_size(settings.model.name, sr, lr_part, settings.scale)
        total, each = losses.weighted(weights, sr.to(hr.dtype), hr_part)
        (total * portion).backward()
        terms += torch.stack([*each.values(), total]).detach() * portion
    if settings.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
    optimizer.step()
    return terms


def begin(settings: SuperResolution, machine: compute.Machine) -> dict[str, Any]:
    """A new network and its optimizer; every volume starts from the same seed."""
    compute.seed(settings.seed)
    network = machine.place(
        models.build(settings.model.name, settings.scale, settings.model.options)
    )
    network.train()
    return {
        "network": network,
        "optimizer": optimizers.optimizer_for(network, settings.optimizer),
    }


def fit(lr: Tensor, settings: SuperResolution, machine: compute.Machine, label: str) -> nn.Module:
    """A network for one scan, trained on its own slices lr (n, h, w), normalised, on the device."""
    weights = pixel_losses(settings)
    pairs, parts = pairs_of(lr, settings), begin(settings, machine)
    watch = Watch([*weights, "total"], settings.explode)
    with Progress(label, settings.steps, 0, active=True) as progress:
        for step in range(settings.steps):
            watch.add(step + 1, train_step(parts, pairs, step, weights, settings, machine))
            progress.step()
    check_weights(parts["network"], settings.steps)
    return parts["network"].eval()


def fit_scan(
    image: np.ndarray, settings: dict[str, Any], device: torch.device, name: str
) -> nn.Module:
    """Train a network on the slices (n, h, w) of this scan, as for the checkpoint's volumes.

    The checkpoint's weights belong to the volumes it was measured on and are not used.

    Raises:
        UserError: the checkpoint's settings cannot train again.
    """
    try:
        job = build(SuperResolution, {**settings, "device": str(device)}, strict=False)
    except ValueError as error:
        raise UserError(f"the checkpoint's settings cannot train again: {error}") from None
    say(f"{name}: the method learns from the scan itself: training on it, {job.steps} steps")
    machine = compute.start(job)
    lr = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(machine.device)
    return fit(lr, job, machine, f"{name} {job.method}").float()


def pairs_of(lr: Tensor, settings: SuperResolution, volume: Any = None) -> holding.Slices:
    """Training pairs from one volume: its LR slices as HR, and degraded once more as LR.

    lr: (n, h, w) normalised, on the device. volume: its record in the store, if there is one.

    Raises:
        UserError: the slices are smaller than the patch.
    """
    s = settings.scale
    fine, (height, width) = resampling.pad_to(lr, s)
    coarse = torch.stack([resampling.degrade(one, s, settings.degradation) for one in fine])
    count = len(lr)
    return holding.Slices(
        path=Path(getattr(volume, "path", "the scan")),
        volumes=[volume],
        scale=s,
        degradation=settings.degradation,
        device=lr.device,
        place="device",
        dtype=torch.float32,
        canvas=(fine.shape[1], fine.shape[2]),
        sizes=np.tile([height, width], (count, 1)),
        volume=np.zeros(count, dtype=int),
        position=np.arange(count),
        hr=fine.contiguous(),
        lr=coarse.contiguous(),
    )


def pixel_losses(settings: SuperResolution) -> dict[str, float]:
    """The active loss terms of a method of type `self`.

    Raises:
        UserError: one of them needs another network or a side output.
    """
    weights = losses.active(settings.losses)
    if losses.learned(weights) or len(losses.validated(weights)) < len(weights):
        raise UserError("a method of type self takes pixel losses only, such as l1: 1")
    return weights
