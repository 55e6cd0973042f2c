"""Train a network on the LR slices of each test volume alone (methods of type `self`, SMORE).

    python -m mrsr.training.train_self --settings @job.json --slices test.h5 \\
        --out results/benchmark/checkpoints/openms_t1/x2/smore/best.pt

The slices of a store are degraded as for every other method; their HR versions are never looked
at, and the LR slices are degraded once more: the network learns to undo that and is applied to the
LR slices afterwards. `steps` is the budget of one volume. Nothing chooses among the steps, since
there is no truth to choose by: the last weights are kept.

`--out` holds the network of every volume, named by the volume's key in the store. Killed at any
moment and started again with the same command, it goes on and ends with the same weights; SIGTERM
and SIGUSR1 write the state and end with exit code 75.

Needs torch, numpy, h5py and tqdm.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import checkpoint, compute, models, resampling
from mrsr.console import Progress, clock, say
from mrsr.errors import Interrupted, UserError, guarded
from mrsr.files import alone
from mrsr.method import losses
from mrsr.params.settings import digest, job, plain
from mrsr.slices import batches, holding
from mrsr.slices.store import attributes
from mrsr.tracking.background import Delivery
from mrsr.training import divergence, optimizers, resume, session
from mrsr.training.log import Log
from mrsr.training.train_sr import COUNTS, FREE, REQUIRED


def pairs_of(lr: Tensor, settings: SimpleNamespace, volume: Any = None) -> holding.Slices:
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
        canvas=tuple(fine.shape[1:]),
        sizes=np.tile([height, width], (count, 1)),
        volume=np.zeros(count, dtype=int),
        position=np.arange(count),
        hr=fine.contiguous(),
        lr=coarse.contiguous(),
    )


def step_once(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    pairs: holding.Slices,
    step: int,
    weights: dict[str, float],
    settings: SimpleNamespace,
    machine: compute.Machine,
) -> Tensor:
    """One optimizer step (counted from 0) on one volume; the unweighted terms and their total."""
    lr, hr = batches.batch(
        pairs,
        step,
        batch=settings.batch,
        patch=settings.patch,
        seed=settings.seed,
        augment=settings.augment,
        rotate=settings.augment,
    )
    lr, hr = lr.to(machine.dtype), hr.to(machine.dtype)
    rate = optimizers.learning_rate(step, settings.steps, settings.optimizer.lr, settings.schedule)
    optimizers.set_rate(optimizer, rate)
    optimizer.zero_grad()
    terms = torch.zeros(len(weights) + 1, dtype=machine.dtype, device=machine.device)
    for lr_part, hr_part, portion in compute.micro_batches(lr, hr, settings.micro_batch):
        with machine.autocast():
            sr, _ = models.outputs(network(lr_part))
        total, each = losses.weighted(weights, sr.to(hr.dtype), hr_part)
        (total * portion).backward()
        terms += torch.stack([*each.values(), total]).detach() * portion
    if settings.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
    optimizer.step()
    return terms


def start(settings: SimpleNamespace, machine: compute.Machine) -> dict[str, Any]:
    """A fresh network and its optimizer; every volume starts from the same seed."""
    resume.seed(settings.seed)
    network = machine.place(
        models.build(settings.model.name, settings.scale, settings.model.options)
    )
    network.train()
    return {"network": network, "optimizer": optimizers.optimizer_for(network, settings.optimizer)}


def fit(lr: Tensor, settings: SimpleNamespace, machine: compute.Machine, label: str) -> nn.Module:
    """A network for one scan, trained on its own slices lr (n, h, w), normalised, on the device."""
    weights = _pixel(settings)
    pairs, parts = pairs_of(lr, settings), start(settings, machine)
    watch = divergence.Watch([*weights, "total"], settings.explode)
    with Progress(label, settings.steps, 0, active=True) as progress:
        for step in range(settings.steps):
            terms = step_once(
                parts["network"], parts["optimizer"], pairs, step, weights, settings, machine
            )
            watch.add(step + 1, terms)
            progress.step()
    divergence.check_weights(parts["network"], settings.steps)
    return parts["network"].eval()


def train(settings: SimpleNamespace, slices: Path, out: Path) -> None:
    """Train a network for every volume of a store, one after the other.

    Args:
        settings: as for `train_sr.train`; `steps` are of one volume.
        slices: the test store. out: the checkpoint to write; its folder holds log and state.

    Raises:
        UserError: a setting or the store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    began = time.monotonic()
    weights = _pixel(settings)
    machine = compute.start(settings)
    if machine.world > 1:
        raise UserError("a volume's own training runs in one process; ask for one GPU")
    held = holding.load(
        slices, scale=settings.scale, degradation=settings.degradation, device=machine.device
    )
    fixed = {key: value for key, value in plain(settings).items() if key not in FREE}
    key = digest({"settings": fixed, "data": str(attributes(slices).get("digest", ""))})
    folder = out.parent
    provenance = {**checkpoint.provenance(), "device": machine.device.type, "processes": 1}
    steps, total = settings.steps, settings.steps * len(held.volumes)
    done: dict[str, Tensor] = {}  # weights of the volumes that are finished
    first, seconds, text = 0, 0.0, ""
    watch = divergence.Watch([*weights, "total"], settings.explode)
    parts = start(settings, machine)
    state = resume.load(folder, machine, digest=key)
    if state is not None:
        first = resume.restore(state, machine, parts)
        done, seconds, text = state["done"], state["seconds"], state["log"]
        watch.window = state["window"]
        say(f"going on at step {first} of {total}")
        resume.compare(state["provenance"], provenance)
    out.unlink(missing_ok=True)

    log = Log(folder / "log.jsonl", text, active=True)
    if not text:
        log.write(
            {
                "event": "start",
                "time": time.time(),
                "settings": plain(settings),
                "provenance": provenance,
                "digest": key,
            }
        )
    tracker = Delivery(folder, settings, active=True)
    label = f"{settings.dataset} x{settings.scale} {settings.method}"
    progress = Progress(label, total, first, active=True)
    images, since = 0, time.monotonic()
    with session.Stop() as stop, progress, log:
        pairs: holding.Slices | None = None
        for step in range(first + 1, total + 1):
            number, own = divmod(step - 1, steps)  # which volume, and its own step
            if own == 0 and step > 1:
                parts, pairs = start(settings, machine), None
            if pairs is None:
                pairs = pairs_of(_lr(held, number), settings, held.volumes[number])
            terms = step_once(
                parts["network"], parts["optimizer"], pairs, own, weights, settings, machine
            )
            watch.add(step, terms)
            progress.step()
            images += settings.batch

            # log
            if step % settings.log_every == 0 or own == steps - 1:
                means = watch.means()
                means |= {"images_per_second": images / (time.monotonic() - since)}
                progress.show(means)
                log.metrics(step, "train", means)
                images, since = 0, time.monotonic()

            # save
            if own == steps - 1:
                divergence.check_weights(parts["network"], step)
                name = held.volumes[number].key
                done |= checkpoint.part_of(name, checkpoint.to_cpu(parts["network"].state_dict()))
            asked = stop.asked(machine)
            if step % settings.checkpoint_every == 0 or own == steps - 1 or asked:
                watch.look()
                resume.save(
                    folder,
                    machine,
                    step=step,
                    digest=key,
                    parts=parts,
                    done=done,
                    log=log.text,
                    window=watch.window,
                    provenance=provenance,
                    seconds=seconds + time.monotonic() - began,
                )
                tracker.nudge()
            if asked and step < total:
                raise Interrupted(
                    f"stopped by {stop.name} after step {step} of {total}; the state is in "
                    f"{folder}, the same command goes on from it"
                )
        spent = seconds + time.monotonic() - began
        log.write({"event": "end", "time": time.time(), "best_step": total, "seconds": spent})
        checkpoint.save(
            out,
            model_name=settings.model.name,
            options=settings.model.options,
            scale=settings.scale,
            settings=plain(settings),
            weights=done,
            provenance={
                **provenance,
                "settings_digest": key,
                "steps": steps,
                "step": total,
                "volumes": {volume.key: volume.path for volume in held.volumes},
            },
        )
        resume.clear(folder)
        say(f"{label}: {len(held.volumes)} volumes, {clock(spent)}, {out}")
    tracker.finish()


def _pixel(settings: SimpleNamespace) -> dict[str, float]:
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
    settings = job(given.settings, REQUIRED, COUNTS)
    with alone(given.out.parent):
        train(settings, given.slices, given.out)


if __name__ == "__main__":
    main()
