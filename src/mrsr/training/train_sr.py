"""Train a super-resolution network on one dataset at one scale (Eq. 9, section 4.1, appendix E).

    python -m mrsr.training.train_sr --settings @job.json --train train.h5 --validation validation.h5 \\
        --test test.h5 --out results/demo/checkpoints/phantom_t1/x2/srresnet/best.pt

Losses `vit`, `structure` and `texture` look through networks that were trained before and stay as
they are: `--vit best.pt`, `--autoencoder best.pt` (`features.py`). The loss `adversarial` brings a
discriminator, which is trained in turn with the generator.

A guided method also gets `--guide FOLDER`, where stores of its second contrast lie under the names
of the others; a joint one may have undersampled LR images (`acceleration`).

Several GPUs: `torchrun --nproc-per-node 4 -m mrsr.training.train_sr ...`; the batch stays the global one.

Beside `--out` (the weights of the best validation PSNR, written only when all steps are done) lie
`last.pt`, `log.jsonl` and, while the training runs, its state: killed at any moment and started
again with the same command, it goes on from there and ends with the same weights. SIGTERM and
SIGUSR1 write that state and end with exit code 75. The test slices give a curve for Fig. 7, never
a choice.

Needs torch, numpy, h5py and tqdm.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mrsr import checkpoint, compute, models
from mrsr.console import Progress, clock, numbers, say
from mrsr.errors import Interrupted, UserError, guarded
from mrsr.files import alone
from mrsr.method import features, gradients, losses
from mrsr.params.settings import digest, job, plain
from mrsr.slices import batches, holding
from mrsr.slices.store import attributes
from mrsr.tracking.background import Delivery
from mrsr.training import divergence, opponent, optimizers, resume, session
from mrsr.training.log import Log
from mrsr.training.validation import evaluate

# what a job must be told; `config.py` gives all of it, by hand one forgets
REQUIRED = (
    *("experiment", "dataset", "scale", "method", "degradation", "model", "losses", "optimizer"),
    *("steps", "batch", "micro_batch", "patch", "schedule", "clip_gradient", "augment", "seed"),
    *("validate_every", "validation_slices", "test_curve", "checkpoint_every", "log_every"),
    *("precision", "compile", "channels_last", "device", "threads", "explode"),
)
COUNTS = ("steps", "batch", "validate_every", "checkpoint_every", "log_every")
# may change between two starts without changing what is trained (`resume.compare` says what may
# change its last bits)
FREE = ("tracking", "log_every", "checkpoint_every", "place", "device", "threads")


def train(
    settings: SimpleNamespace,
    train_path: Path,
    validation_path: Path,
    test_path: Path | None,
    out: Path,
    frozen_paths: features.Paths,
    guide: Path | None = None,
) -> None:
    """Train, from the first step or from where the last run was stopped, to the last step.

    Args:
        settings: see `REQUIRED`. train_path, validation_path, test_path: slice stores.
        out: the checkpoint to write; its folder holds the log and the state.
        frozen_paths: checkpoints of the networks that losses look through: vit, autoencoder.
        guide: folder of the second contrast's stores, named as the others.

    Raises:
        UserError: a setting or a store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    began = time.monotonic()
    weights = losses.active(settings.losses)
    rivalry = features.table(settings, "adversarial", opponent.DEFAULTS)
    watched = features.table(settings, "features", features.DEFAULTS)
    warmup = rivalry.warmup if losses.learned(weights) else 0
    if warmup and not losses.pixel(weights):
        raise UserError("adversarial.warmup needs a pixel loss, such as l1: 1; or set it to 0")
    models.check_guide(settings.model.name, guide is not None)
    origin = features.digests(weights, frozen_paths)
    machine = compute.start(settings)
    share = compute.share(settings.batch, machine)
    resume.seed(settings.seed)
    network = machine.place(
        models.build(settings.model.name, settings.scale, settings.model.options)
    )
    if not any(True for _ in network.parameters()):
        raise UserError(f"model '{settings.model.name}' has nothing to train; evaluate it directly")
    network = compute.synchronised(network, machine)
    forward = torch.compile(network) if settings.compile else network
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    parts = {"network": network, "optimizer": optimizer}
    frozen = features.load(weights, watched, frozen_paths, machine, settings.seed)
    rival = None
    if "adversarial" in weights:
        rival = opponent.build(settings, rivalry, machine, watched.validation_patches)
    discriminator = rival.discriminator if rival else None
    parts |= {"discriminator": discriminator, "opponent": rival.optimizer} if rival else {}
    resume.seed(settings.seed + 1, machine.rank)

    slices = _load(train_path, settings, machine, guide)
    curves = {}
    if machine.first:
        curves["validation"] = _load(validation_path, settings, machine, guide)
        if settings.test_curve and test_path is not None:
            curves["test"] = _load(test_path, settings, machine, guide)

    stores = [path for path in (train_path, validation_path, test_path) if path is not None]
    stores += [guide / path.name for path in stores] if guide else []
    folder, key = out.parent, _digest(settings, stores, origin)
    provenance = {
        **checkpoint.provenance(),
        "device": machine.device.type,
        "processes": machine.world,
        **{f"{name}_sha256": value for name, value in origin.items()},
    }
    best: dict[str, Any] = {"psnr": float("-inf"), "step": 0, "weights": {}}
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
            name.unlink(missing_ok=True)  # a complete-looking folder means a complete training

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
    label = f"{settings.dataset} x{settings.scale} {settings.method}"
    progress = Progress(label, settings.steps, first, active=machine.first)
    images, since = 0, time.monotonic()

    with session.Stop() as stop, progress, log:
        network.train()
        for step in range(first + 1, settings.steps + 1):
            # batch
            lr, hr, *second = batches.batch(
                slices,
                step - 1,
                batch=settings.batch,
                patch=settings.patch,
                seed=settings.seed,
                augment=settings.augment,
                rotate=settings.augment,
                rank=machine.rank,
                world=machine.world,
            )
            lr, hr, *second = (image.to(machine.dtype) for image in (lr, hr, *second))
            rate = optimizers.learning_rate(
                step - 1, settings.steps, settings.optimizer.lr, settings.schedule
            )
            optimizers.set_rate(optimizer, rate)
            optimizer.zero_grad()
            acting = losses.pixel(weights) if step <= warmup else weights
            terms = torch.zeros(len(acting) + 1, dtype=machine.dtype, device=machine.device)
            watch.names = [*acting, "total"]
            every = watched.gradient_norms_every
            measured = bool(every) and step % every == 0
            pulls, fakes = torch.zeros((), dtype=machine.dtype, device=machine.device), []

            # generator: forward, loss, backward
            micro = compute.micro_batches(lr, hr, settings.micro_batch, *second)
            for lr_part, hr_part, portion, *second_part in micro:
                given = batches.seen(slices, lr_part, second_part)
                with machine.autocast():
                    sr, aside = models.outputs((network if measured else forward)(*given))
                sr = sr.to(hr.dtype)
                context = SimpleNamespace(lr=lr_part, step=step, autocast=machine.autocast)
                context.aside, context.guide = aside, given[-1]
                context.clean = second_part[0] if slices.role == "clean" else lr_part
                context.discriminator = discriminator
                context.codes = features.pair(frozen, acting, lr_part, sr, hr_part)
                total, each = losses.weighted(acting, sr, hr_part, context)
                if measured:
                    pulls = pulls + portion * gradients.of_terms(each, network)
                (total * portion).backward()
                terms += torch.stack([*each.values(), total]).detach() * portion
                fakes.append(sr.detach())
            terms = compute.average(network, terms, machine)

            # discriminator: the true images against what the generator made just now
            if rival and "adversarial" in acting:
                opponent.set_rate(rival, settings, step)
                for _ in range(rivalry.updates):
                    scores = opponent.update(rival, hr, torch.cat(fakes), settings, machine)
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
            # a warm-up ends with a line of its own: the terms after it are others
            if step % settings.log_every == 0 or last or step == warmup:
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
                    metrics = evaluate(
                        network, held, machine, settings, weights, frozen, discriminator
                    )
                    log.metrics(step, split, metrics)
                    progress.show(metrics, split)
                    if split == "validation" and metrics["psnr"] > best["psnr"]:
                        best = {
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
                raise UserError(f"{validation_path}: no slice gave a PSNR; check the store")
            log.write(
                {
                    "event": "end",
                    "time": time.time(),
                    "best_step": best["step"],
                    "seconds": seconds + time.monotonic() - began,
                }
            )
            common = {
                "model_name": settings.model.name,
                "options": settings.model.options,
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
            say(
                f"{label}: best validation {numbers({'psnr': best['psnr']})} at step "
                f"{best['step']}, {clock(seconds + time.monotonic() - began)}, {out}"
            )
    tracker.finish()


def _load(
    path: Path, settings: SimpleNamespace, machine: compute.Machine, guide: Path | None
) -> holding.Slices:
    return holding.load(
        path,
        scale=settings.scale,
        degradation=settings.degradation,
        device=machine.device,
        place=getattr(settings, "place", "auto"),
        guide=guide / path.name if guide else None,
        acceleration=getattr(settings, "acceleration", 1),
    )


def _digest(settings: SimpleNamespace, stores: list[Path], origin: dict[str, str]) -> str:
    """Changes with every setting that changes the training, with the slices and frozen networks."""
    fixed = {key: value for key, value in plain(settings).items() if key not in FREE}
    data = [str(attributes(path).get("digest", "")) for path in stores]
    networks = {"networks": origin} if origin else {}
    return digest({"settings": fixed, "data": data, **networks})


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mrsr.training.train_sr", description="Train a super-resolution network."
    )
    parser.add_argument("--settings", required=True, help="JSON object, or @file")
    parser.add_argument("--train", required=True, type=Path, help="slice store to learn from")
    parser.add_argument("--validation", required=True, type=Path, help="slice store to choose by")
    parser.add_argument("--test", type=Path, help="slice store for the logged test curve")
    for name in dict.fromkeys(features.NETWORKS.values()):
        parser.add_argument(f"--{name}", type=Path, help="frozen network of the feature losses")
    parser.add_argument("--guide", type=Path, help="folder of the second contrast's stores")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write: .../best.pt")
    given = parser.parse_args(arguments)
    try:
        paths = {name: getattr(given, name) for name in features.NETWORKS.values()}
        stores = (given.train, given.validation, given.test)
        settings = job(given.settings, REQUIRED, COUNTS)
        with alone(given.out.parent):
            train(settings, *stores, given.out, paths, given.guide)
    finally:
        compute.finish()


if __name__ == "__main__":
    main()
