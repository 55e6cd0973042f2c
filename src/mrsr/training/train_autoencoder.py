"""Train the disentangling auto-encoder of one dataset at one scale (section 3.3, Eq. 3 to 6).

    python -m mrsr.training.train_autoencoder --settings @job.json --train train.h5 \\
        --validation validation.h5 --test test.h5 \\
        --out results/demo/checkpoints/phantom_t1/x2/autoencoder/best.pt

The terms are in `method/disentangling.py`; the published weights are 1, 0.7, 0.7 (Eq. 6). Learns
from the training subjects only. Log, state, resume and signals are those of `train_sr.py`.

`best.pt` has the weights of the lowest weighted sum, on the validation slices, of the terms that
need no discriminator: an adversarial loss says something about the discriminator of that step only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import compute, models
from mrsr.errors import UserError, guarded
from mrsr.files import alone
from mrsr.method import disentangling, gradients
from mrsr.method.adversarial import frozen
from mrsr.models.autoencoder import MULTIPLE
from mrsr.params.jobs import Autoencoder, read
from mrsr.params.typed import plain
from mrsr.slices import batches, holding
from mrsr.training import opponent, optimizers, resume
from mrsr.training.session import Session, digests_of
from mrsr.training.validate_autoencoder import evaluate

MODEL = "autoencoder"


def train(settings: Autoencoder, stores: dict[str, Path], out: Path) -> None:
    """Train, from the first step or from where the last run was stopped, to the last step.

    Args:
        stores: slice stores by split: train, validation and perhaps test.
        out: the checkpoint to write; its folder holds the log and the state.

    Raises:
        UserError: a setting or a store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    weights = disentangling.active(plain(settings.weights), settings.intensity_range)
    judged = {name for name in ("adversarial", "swap") if name in weights}
    unjudged = {name: value for name, value in weights.items() if name not in judged}
    discriminating = settings.discriminator
    machine = compute.start(settings)
    if compute.share(settings.batch, machine) % 2 or settings.micro_batch % 2:
        raise UserError("batch of each process and micro_batch must be even: images come in pairs")
    resume.seed(settings.seed)
    network = machine.place(models.build(MODEL, settings.scale, plain(settings.network)))
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
    slices = _load(stores["train"], settings, machine)
    side = image_size(slices, settings.patch, network.size)
    usable = (slices.sizes // settings.scale * settings.scale >= side).all(axis=1).sum()
    order = batch_numbers(int(usable), settings.batch, settings.steps)
    wanted = ("validation", "test") if settings.test_curve else ("validation",)
    splits = [split for split in wanted if machine.first and split in stores]
    held_out = {split: _load(stores[split], settings, machine) for split in splits}
    adversary = None
    if judged:
        canvas = network.size or side
        seen = replace(settings, patch=min(discriminating.crop or canvas, canvas))
        adversary = opponent.build(seen, discriminating, machine)
        parts |= {"discriminator": adversary.discriminator, "opponent": adversary.optimizer}
    resume.seed(settings.seed + 1, machine.rank)

    with Session(
        settings, machine, out,
        label=f"{settings.dataset} x{settings.scale} {MODEL}",
        parts=parts, terms=[*weights, "total"], data=digests_of([*stores.values()]),
    ) as session:  # fmt: skip
        network.train()
        for step in session.steps():
            # batch
            lr, hr = _draw(slices, settings, int(order[step - 1]), side, machine)
            rate = optimizers.set_scheduled_rate(optimizer, settings, step)
            optimizer.zero_grad()
            active = adversary is not None and step > discriminating.warmup
            acting = weights if step > discriminating.warmup else unjudged
            names = [*acting, "total"]
            terms = torch.zeros(len(names), dtype=machine.dtype, device=machine.device)
            norms_are_due = gradients.due(step, settings.gradient_norms_every)
            gradient = torch.zeros((), dtype=machine.dtype, device=machine.device)
            crop = random_crop(discriminating.crop, settings.seed, step)
            logits = judge(adversary.discriminator, machine, crop) if active else None
            real, fake = [], []

            # encoder and decoder: forward, loss, backward
            for lr_part, hr_part, portion, *_ in compute.micro_batches(lr, hr, settings.micro_batch):
                with machine.autocast():
                    each, made = disentangling.terms(
                        network, lr_part, hr_part, acting, settings.patch_n, logits
                    )
                each = {name: each[name].to(machine.dtype) for name in acting}
                total = sum(acting[name] * term for name, term in each.items())
                if norms_are_due:
                    gradient = gradient + portion * gradients.of_terms(each, network)
                (total * portion).backward()
                terms += torch.stack([*each.values(), total]).detach() * portion
                if active:  # half of what it judges false are reconstructions, half are swapped
                    half = len(hr_part) // 2
                    real.append(crop(made[0]))
                    fake.append(crop(torch.cat([made[1][:half], made[-1][half:]]).detach()))
            terms = compute.average(network, terms, machine)

            # discriminator
            if active:
                opponent.set_rate(adversary, settings, step)
                for _ in range(discriminating.updates):
                    scores = opponent.update(
                        adversary, torch.cat(real), torch.cat(fake), settings, machine
                    )
                terms, names = torch.cat([terms, scores]), [*names, *opponent.TERMS]
            session.add(terms, names)

            # step
            if settings.clip_gradient:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
            optimizer.step()

            # log, validate, save
            norms = gradients.norms(gradient, [*acting], machine) if norms_are_due else {}
            session.log({"lr": rate}, norms, due=step == discriminating.warmup)
            if session.validation_is_due:
                with session.paused():
                    for split, held in held_out.items():
                        metrics = evaluate(network, held, machine, settings, unjudged)
                        score = [-metrics["total"]]
                        session.validated(split, metrics, score=score, network=network)
            session.save()
        session.finish(
            network=network,
            model_name=MODEL,
            options=plain(settings.network),
            scale=settings.scale,
        )


def image_size(slices: holding.Slices, patch: int, size: int) -> int:
    """HR pixels of the square training images.

    patch: taken as it is; 0: the largest square, up to the network's `size`, of every slice.
    """
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


def _draw(
    slices: holding.Slices,
    settings: Autoencoder,
    number: int,
    side: int,
    machine: compute.Machine,
) -> list[Tensor]:
    """LR and HR images; a part of the first half of the batch and of the second.

    So x1 meets the same x2 on any number of GPUs.
    """
    halves = [
        batches.batch(
            slices,
            number,
            batch=settings.batch,
            patch=side,
            seed=settings.seed,
            augment=settings.augment,
            rank=machine.rank + half * machine.world,
            world=2 * machine.world,
        )
        for half in (0, 1)
    ]
    return [torch.cat(part).to(machine.dtype) for part in zip(*halves, strict=True)]


def _load(path: Path, settings: Autoencoder, machine: compute.Machine) -> holding.Slices:
    return holding.load(
        path,
        scale=settings.scale,
        degradation=settings.degradation,
        device=machine.device,
        place=settings.place,
    )


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
        splits = ("train", "validation", "test")
        stores = {name: getattr(given, name) for name in splits if getattr(given, name)}
        settings = read(Autoencoder, given.settings)
        with alone(given.out.parent):
            train(settings, stores, given.out)
    finally:
        compute.finish()


if __name__ == "__main__":
    main()
