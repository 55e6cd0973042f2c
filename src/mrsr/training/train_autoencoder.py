"""Train the disentangling auto-encoder of one dataset at one scale (section 3.3, Eq. 3 to 6).

    python -m mrsr.training.train_autoencoder --settings @job.json --train train.h5 \\
        --validation validation.h5 --test test.h5 \\
        --out results/demo/checkpoints/phantom_t1/x2/autoencoder/best.pt

The terms are in `disentangle.py`; the weights printed are 1, 0.7, 0.7 (Eq. 6). Learns from the
training subjects only. Log, state, resume and signals are those of `train_sr.py`.

`best.pt` has the weights of the lowest weighted sum, on the validation slices, of the terms that
need no discriminator: an adversarial loss says something about its opponent of that step only.

Settings of its own: `network` (options of `models/autoencoder.py`), `weights`, `intensity_range`
(unit of the pixel terms, `disentangle.py`), `patch_n` (LR pixels of the centre patch),
`discriminator` (`opponent.py`, and `crop`: it looks at one random square of that many pixels, 0 =
at everything), `patch` (HR pixels of a training image; 0 = the largest square, up to the network's
size, that every slice has), `augment` (random flips), `test_curve` (log the test slices too),
`place` (where slices lie: `batches.py`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import checkpoint, compute, models
from mrsr.console import Progress, clock, numbers, say
from mrsr.errors import Interrupted, UserError, guarded
from mrsr.files import alone
from mrsr.method import disentangling, features, gradients
from mrsr.method.adversarial import frozen
from mrsr.models.autoencoder import MULTIPLE, unprepare
from mrsr.params.settings import digest, job, plain
from mrsr.slices import batches, holding, store
from mrsr.tracking.background import Delivery
from mrsr.training import divergence, opponent, optimizers, resume, session
from mrsr.training.log import Log

REQUIRED = (
    *("experiment", "dataset", "scale", "degradation", "network", "weights", "optimizer"),
    *("intensity_range", "patch", "patch_n", "augment", "steps", "batch", "micro_batch"),
    *("schedule", "clip_gradient", "seed", "validate_every", "validation_slices", "test_curve"),
    *("checkpoint_every", "log_every", "gradient_norms_every", "place"),
    *("precision", "compile", "channels_last", "device", "threads", "explode"),
)
COUNTS = ("steps", "batch", "validate_every", "checkpoint_every", "log_every", "patch_n")
FREE = ("tracking", "log_every", "checkpoint_every", "place", "device", "threads")
DISCRIMINATOR = {**opponent.DEFAULTS, "base": 32, "crop": 0}
MODEL = "autoencoder"
GROUP = 4  # slices that validation looks at together, on a CPU and on a GPU


def image_size(slices: holding.Slices, patch: int, size: int) -> int:
    """HR pixels of the square training images; see `patch` in the module's docstring."""
    if patch:
        return patch
    side = int(slices.sizes.min())
    side = min(side, size) if size else side
    multiple = slices.scale if size else int(np.lcm(slices.scale, MULTIPLE))
    return side // multiple * multiple


def batch_numbers(count: int, batch: int, steps: int) -> np.ndarray:
    """(steps,) numbers of the batches to take: those that lie within one epoch.

    A batch across two epochs could hold a slice twice, and x1 and x2 must differ.
    """
    if batch % 2 or batch > count:
        raise UserError(
            f"batch {batch} must be even and at most the {count} training slices: x1 and x2 differ"
        )
    candidates = np.arange(steps * 2 + 2 * (count // batch) + 2)
    whole = candidates * batch // count == ((candidates + 1) * batch - 1) // count
    return candidates[whole][:steps]


def judge(
    discriminator: nn.Module, machine: compute.Machine, crop: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Images to logits; gradients reach the images and not the discriminator's weights."""

    def logits(images: Tensor) -> Tensor:
        with frozen(discriminator), machine.autocast():
            return discriminator(crop(images))

    return logits


def random_crop(size: int, seed: int, step: int) -> Callable[[Tensor], Tensor]:
    """The same random square of every image; a function of (seed, step), so nothing to resume."""
    where = np.random.default_rng([seed, step, 2]).random(2)

    def crop(images: Tensor) -> Tensor:
        if not size or size >= min(images.shape[-2:]):
            return images
        top, left = (
            int(at * (length - size + 1))
            for at, length in zip(where, images.shape[-2:], strict=True)
        )
        return images[..., top : top + size, left : left + size]

    return crop


def train(
    settings: SimpleNamespace,
    train_path: Path,
    validation_path: Path,
    test_path: Path | None,
    out: Path,
) -> None:
    """Train, from the first step or from where the last run was stopped, to the last step.

    Raises:
        UserError: a setting or a store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    began = time.monotonic()
    weights = disentangling.active(plain(settings.weights), float(settings.intensity_range))
    adversarial = {name: weights[name] for name in ("adversarial", "swap") if name in weights}
    calm = {name: value for name, value in weights.items() if name not in adversarial}
    rivalry = features.table(settings, "discriminator", DISCRIMINATOR)
    machine = compute.start(settings)
    share = compute.share(settings.batch, machine)
    if share % 2 or settings.micro_batch % 2:
        raise UserError("batch of each process and micro_batch must be even: images come in pairs")
    resume.seed(settings.seed)
    network = machine.place(models.build(MODEL, settings.scale, plain(settings.network)))
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer}

    slices = _load(train_path, settings, machine)
    side = image_size(slices, settings.patch, network.size)
    usable = (slices.sizes // settings.scale * settings.scale >= side).all(axis=1).sum()
    order = batch_numbers(int(usable), settings.batch, settings.steps)
    curves = {"validation": _load(validation_path, settings, machine)} if machine.first else {}
    if machine.first and settings.test_curve and test_path is not None:
        curves["test"] = _load(test_path, settings, machine)

    rival = None
    if adversarial:
        seen = min(rivalry.crop or (network.size or side), network.size or side)
        job = SimpleNamespace(**{**vars(settings), "patch": seen})
        rival = opponent.build(job, rivalry, machine)
        parts |= {"discriminator": rival.discriminator, "opponent": rival.optimizer}
    resume.seed(settings.seed + 1, machine.rank)

    folder, key = out.parent, _digest(settings, (train_path, validation_path, test_path))
    provenance = {
        **checkpoint.provenance(),
        "device": machine.device.type,
        "processes": machine.world,
    }
    best: dict[str, Any] = {"loss": float("inf"), "step": 0, "weights": {}, "psnr": 0.0}
    first, seconds, text = 0, 0.0, ""
    watch = divergence.Watch([*weights, "total"], settings.explode)
    state = resume.load(folder, machine, digest=key)
    if state is not None:
        first = resume.restore(state, machine, parts)
        best, seconds, text = state["best"], state["seconds"], state["log"]
        watch.window = state["window"]
        if machine.first:
            say(f"going on at step {first} of {settings.steps}")
            resume.compare(state["provenance"], provenance)
    if machine.first:
        for name in (out, folder / "last.pt"):
            name.unlink(missing_ok=True)

    log = Log(folder / "log.jsonl", text, active=machine.first)
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
    tracker = Delivery(folder, settings, active=machine.first)
    label = f"{settings.dataset} x{settings.scale} {MODEL}"
    progress = Progress(label, settings.steps, first, active=machine.first)
    images, since = 0, time.monotonic()
    every = settings.gradient_norms_every

    with session.Stop() as stop, progress, log:
        network.train()
        for step in range(first + 1, settings.steps + 1):
            # batch
            # a part of the first half and of the second: x1 meets the same x2 on any number of GPUs
            halves = [
                batches.batch(
                    slices,
                    int(order[step - 1]),
                    batch=settings.batch,
                    patch=side,
                    seed=settings.seed,
                    augment=settings.augment,
                    rank=machine.rank + half * machine.world,
                    world=2 * machine.world,
                )
                for half in (0, 1)
            ]
            lr, hr = (torch.cat(part).to(machine.dtype) for part in zip(*halves, strict=True))
            rate = optimizers.learning_rate(
                step - 1, settings.steps, settings.optimizer.lr, settings.schedule
            )
            optimizers.set_rate(optimizer, rate)
            optimizer.zero_grad()
            acting = weights if step > rivalry.warmup else calm
            watch.names = [*acting, "total"]
            measured = bool(every) and step % every == 0
            pulls = torch.zeros((), dtype=machine.dtype, device=machine.device)
            terms = torch.zeros(len(acting) + 1, dtype=machine.dtype, device=machine.device)
            crop = random_crop(rivalry.crop, settings.seed, step)
            active = rival is not None and step > rivalry.warmup
            look = judge(rival.discriminator, machine, crop) if active else None
            real, fake = [], []

            # encoder and decoder
            for lr_part, hr_part, portion in compute.micro_batches(lr, hr, settings.micro_batch):
                with machine.autocast():
                    each, made = disentangling.terms(
                        network, lr_part, hr_part, acting, settings.patch_n, look
                    )
                each = {name: each[name].to(machine.dtype) for name in acting}
                total = sum(acting[name] * term for name, term in each.items())
                if measured:
                    pulls = pulls + portion * gradients.of_terms(each, network)
                (total * portion).backward()
                terms += torch.stack([*each.values(), total]).detach() * portion
                if active:  # half of what it judges false are reconstructions, half are swapped
                    half = len(hr_part) // 2
                    real.append(crop(made[0]))
                    fake.append(crop(torch.cat([made[1][:half], made[-1][half:]]).detach()))
            terms = compute.average(network, terms, machine)

            # discriminator
            if active:
                opponent.set_rate(rival, settings, step)
                for _ in range(rivalry.updates):
                    scores = opponent.update(
                        rival, torch.cat(real), torch.cat(fake), settings, machine
                    )
                terms = torch.cat([terms, scores])
                watch.names += opponent.TERMS
            watch.add(step, terms)

            # step
            if settings.clip_gradient:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
            optimizer.step()
            progress.step()
            images += share * machine.world

            # log
            last = step == settings.steps
            metrics = gradients.norms(pulls, [*acting], machine) if measured else {}
            if step % settings.log_every == 0 or last or step == rivalry.warmup:
                means = watch.means()
                means |= {"lr": rate, "images_per_second": images / (time.monotonic() - since)}
                progress.show(means)
                metrics = means | metrics
                images, since = 0, time.monotonic()
            if metrics:
                log.metrics(step, "train", metrics)

            # validate
            if step % settings.validate_every == 0 or last:
                watch.look()
                paused = time.monotonic()
                for split, held in curves.items():
                    metrics = evaluate(network, held, machine, settings, calm)
                    log.metrics(step, split, metrics)
                    progress.show(metrics, split)
                    if split == "validation" and metrics["total"] < best["loss"]:
                        best = {
                            "loss": metrics["total"],
                            "psnr": metrics["psnr"],
                            "step": step,
                            "weights": checkpoint.to_cpu(network.state_dict()),
                        }
                since += time.monotonic() - paused

            # save
            asked = stop.asked(machine)
            if step % settings.checkpoint_every == 0 or last or asked:
                watch.look()
                for part in parts.values():
                    if isinstance(part, nn.Module):
                        divergence.check_weights(part, step)
                resume.save(
                    folder,
                    machine,
                    step=step,
                    digest=key,
                    parts=parts,
                    best=best,
                    log=log.text,
                    window=watch.window,
                    provenance=provenance,
                    seconds=seconds + time.monotonic() - began,
                )
                tracker.nudge()
            if asked and not last:
                raise Interrupted(
                    f"stopped by {stop.name} after step {step} of {settings.steps}; the state is "
                    f"in {folder}, the same command goes on from it"
                )

        if machine.first:
            if not best["weights"]:
                raise UserError(f"{validation_path}: no pair of slices to validate with")
            spent = seconds + time.monotonic() - began
            log.write(
                {"event": "end", "time": time.time(), "best_step": best["step"], "seconds": spent}
            )
            common = {
                "model_name": MODEL,
                "options": plain(settings.network),
                "scale": settings.scale,
                "settings": plain(settings),
            }
            where = {**provenance, "settings_digest": key, "steps": settings.steps}
            checkpoint.save(
                folder / "last.pt",
                **common,
                weights=network.state_dict(),
                provenance={**where, "step": settings.steps},
            )
            # last of all: where this file is, the training is complete
            checkpoint.save(
                out, **common, weights=best["weights"], provenance={**where, "step": best["step"]}
            )
            resume.clear(folder)
            shown = numbers({"loss": best["loss"], "psnr": best["psnr"]})
            say(f"{label}: best validation {shown} at step {best['step']}, {clock(spent)}, {out}")
    tracker.finish()


@torch.no_grad()
def evaluate(
    network: nn.Module,
    held: holding.Slices,
    machine: compute.Machine,
    settings: SimpleNamespace,
    weights: dict[str, float],
) -> dict[str, float]:
    """The terms that need no discriminator, their weighted sum and the reconstruction's PSNR.

    On `validation_slices` whole slices (0: all), each met by another of its shape. Blank slices are
    left out. PSNR in dB per slice, data range the slice's maximum.
    """
    network.eval()
    rows: list[Tensor] = []
    counts: list[int] = []
    pieces = batches.whole(held, batch=GROUP, limit=settings.validation_slices)
    for lr, hr in _groups((lr, hr) for _, lr, hr in pieces):
        lr, hr = lr.to(machine.dtype), hr.to(machine.dtype)
        with machine.autocast():
            each, made = disentangling.terms(network, lr, hr, weights, settings.patch_n)
        total = sum(weights[name] * each[name] for name in weights)
        grid = (hr.shape[-2], hr.shape[-1])
        error = (unprepare(made[1], grid) - unprepare(made[0], grid)).square()
        peak = hr.amax(dim=(1, 2, 3)).square()
        psnr = (10 * torch.log10(peak / error.mean(dim=(1, 2, 3)))).mean()
        rows.append(torch.stack([*(each[name] for name in weights), total, psnr]) * len(hr))
        counts.append(len(hr))
    network.train()
    names = [*weights, "total", "psnr"]
    if not rows:
        return dict.fromkeys(names, float("nan"))
    means = (torch.stack(rows).sum(dim=0) / sum(counts)).tolist()
    return dict(zip(names, means, strict=True))


def _groups(pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Slices of one shape by `GROUP`, without the blank ones, which have no range.

    Whom a slice meets follows from its group, so the groups are the same on every device. The last
    of a shape takes the rest too; the only slice of its shape meets nobody and is left out.
    """
    waiting: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for lr, hr in pieces:
        mine = waiting.setdefault(hr.shape[1:], [])
        seen = (hr.amax(dim=(1, 2, 3)) > 0).tolist()
        mine += [pair for pair, kept in zip(zip(lr, hr, strict=True), seen, strict=True) if kept]
        while len(mine) >= 2 * GROUP:
            yield _stack(mine[:GROUP])
            del mine[:GROUP]
    for mine in waiting.values():
        if len(mine) > 1:
            yield _stack(mine)


def _stack(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    lr, hr = zip(*pairs, strict=True)
    return torch.stack(lr), torch.stack(hr)


def _load(path: Path, settings: SimpleNamespace, machine: compute.Machine) -> holding.Slices:
    return holding.load(
        path,
        scale=settings.scale,
        degradation=settings.degradation,
        device=machine.device,
        place=settings.place,
    )


def _digest(settings: SimpleNamespace, stores: tuple[Path | None, ...]) -> str:
    fixed = {key: value for key, value in plain(settings).items() if key not in FREE}
    data = [str(store.attributes(path).get("digest", "")) for path in stores if path is not None]
    return digest({"settings": fixed, "data": data})


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mrsr.training.train_autoencoder", description="Train the auto-encoder."
    )
    parser.add_argument("--settings", required=True, help="JSON object, or @file")
    parser.add_argument("--train", required=True, type=Path, help="slice store to learn from")
    parser.add_argument("--validation", required=True, type=Path, help="slice store to choose by")
    parser.add_argument("--test", type=Path, help="slice store for the logged test curve")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write: .../best.pt")
    given = parser.parse_args(arguments)
    try:
        settings = job(given.settings, REQUIRED, COUNTS)
        with alone(given.out.parent):
            train(settings, given.train, given.validation, given.test, given.out)
    finally:
        compute.finish()


if __name__ == "__main__":
    main()
