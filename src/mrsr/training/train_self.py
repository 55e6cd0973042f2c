"""Train a network on the LR slices of each test volume alone (methods of type `self`, SMORE).

    python -m mrsr.training.train_self --settings @job.json --slices test.h5 \\
        --out results/benchmark/checkpoints/openms_t1/x2/smore/best.pt

The slices of a store are degraded as for every other method; their HR versions are never used,
and the LR slices are degraded once more: the network learns to undo that and is applied to the
LR slices afterwards. `steps` is the budget of one volume. Nothing chooses among the steps, since
there is no truth to choose by: the last weights are kept.

`--out` holds the network of every volume, named by the volume's key in the store. Killed at any
moment and started again with the same command, it goes on and ends with the same weights; SIGTERM
and SIGUSR1 write the state and end with exit code 75.

Needs torch, numpy, h5py and tqdm.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import checkpoint, compute, models, resampling
from mrsr.console import Progress, clock, say
from mrsr.errors import UserError, guarded
from mrsr.files import alone
from mrsr.method import losses
from mrsr.params.jobs import SuperResolution, read
from mrsr.slices import batches, holding
from mrsr.training import optimizers, resume
from mrsr.training.divergence import Watch, check_weights
from mrsr.training.session import Session, digests_of


def train(settings: SuperResolution, slices: Path, out: Path) -> None:
    """Train a network for every volume of a store, one after the other.

    Args:
        settings: as for `train_sr.train`; `steps` are of one volume.
        slices: the test store. out: the checkpoint to write; its folder holds log and state.

    Raises:
        UserError: a setting or the store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    weights = _pixel(settings)
    machine = compute.start(settings)
    if machine.world > 1:
        raise UserError("a volume's own training runs in one process; ask for one GPU")
    held = holding.load(
        slices, scale=settings.scale, degradation=settings.degradation, device=machine.device
    )
    steps, count = settings.steps, len(held.volumes)
    with Session(
        settings, machine, out,
        label=f"{settings.dataset} x{settings.scale} {settings.method}",
        parts=begin(settings, machine), terms=[*weights, "total"],
        data=digests_of([slices]), steps=steps * count,
    ) as session:  # fmt: skip
        finished: dict[str, Tensor] = (session.state or {}).get(
            "finished", {}
        )  # weights, by volume
        pairs: holding.Slices | None = None
        for step in session.steps():
            number, own = divmod(step - 1, steps)  # which volume, and its own step
            if own == 0 and step > 1:
                session.parts, pairs = begin(settings, machine), None
            if pairs is None:
                lr = _lr(held, number)
                pairs = pairs_of(lr, settings, held.volumes[number])
            session.add(train_step(session.parts, pairs, own, weights, settings, machine))
            ends = own == steps - 1
            session.log(due=ends)
            if ends:
                network = session.parts["network"]
                check_weights(network, step)
                key = held.volumes[number].key
                finished |= checkpoint.part_of(key, checkpoint.to_cpu(network.state_dict()))
            session.save(due=ends, finished=finished)
        session.complete(
            finished,
            session.total,
            model_name=settings.model.name,
            options=settings.model.options,
            scale=settings.scale,
            volumes={volume.key: volume.path for volume in held.volumes},
        )
        say(f"{session.label}: {count} volumes, {clock(session.spent)}, {out}")
        session.tracker.finish()


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
        total, each = losses.weighted(weights, sr.to(hr.dtype), hr_part)
        (total * portion).backward()
        terms += torch.stack([*each.values(), total]).detach() * portion
    if settings.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
    optimizer.step()
    return terms


def begin(settings: SuperResolution, machine: compute.Machine) -> dict[str, Any]:
    """A fresh network and its optimizer; every volume starts from the same seed."""
    resume.seed(settings.seed)
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
    weights = _pixel(settings)
    pairs, parts = pairs_of(lr, settings), begin(settings, machine)
    watch = Watch([*weights, "total"], settings.explode)
    with Progress(label, settings.steps, 0, active=True) as progress:
        for step in range(settings.steps):
            watch.add(step + 1, train_step(parts, pairs, step, weights, settings, machine))
            progress.step()
    check_weights(parts["network"], settings.steps)
    return parts["network"].eval()


def pairs_of(lr: Tensor, settings: SuperResolution, volume: Any = None) -> holding.Slices:
    """The pairs that a volume gives of itself: its LR slices as HR, degraded once more as LR.

    lr: (n, h, w) normalised, on the device. volume: what the store says of it, where there is one.

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


def _pixel(settings: SuperResolution) -> dict[str, float]:
    weights = losses.active(settings.losses)
    if losses.learned(weights) or len(losses.validated(weights)) < len(weights):
        raise UserError("a method of type self takes pixel losses only, such as l1: 1")
    return weights


def _lr(held: holding.Slices, number: int) -> Tensor:
    """The LR slices (n, h, w) of one volume, unpadded up to the scale."""
    height, width = (-(-size // held.scale) for size in held.volumes[number].shape[1:])
    own = [lr for _, lr, *_ in batches.whole(held, only=number)]
    return torch.cat(own)[:, 0, :height, :width]


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mrsr.training.train_self", description="Train on each test volume itself."
    )
    parser.add_argument("--settings", required=True, help="JSON object, or @file")
    parser.add_argument("--slices", required=True, type=Path, help="the test store")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write: .../best.pt")
    given = parser.parse_args(arguments)
    settings = read(SuperResolution, given.settings)
    with alone(given.out.parent):
        train(settings, given.slices, given.out)


if __name__ == "__main__":
    main()
