"""Train the disentangling auto-encoder of one dataset at one scale (section 3.3, Eq. 3 to 6).

    python -m mrsr.training.train_autoencoder --settings @job.json --train train.h5 \\
        --validation validation.h5 --test test.h5 \\
        --out results/demo/checkpoints/phantom_t1/x2/autoencoder/best.pt

The terms are in `method/disentangling.py`; the published weights are 1, 0.7, 0.7 (Eq. 6). Learns
from the training subjects only. Log, state, resume and signals are those of `train_sr.py`.

`best.pt` has the weights with the lowest weighted sum, on the validation slices, of the terms that
need no discriminator: adversarial losses of different steps do not compare.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrsr import compute, models
from mrsr.errors import UserError
from mrsr.method import disentangling, gradients
from mrsr.params.jobs import Autoencoder, read
from mrsr.training import command, opponent, optimizers
from mrsr.training.autoencoder_batches import batch_numbers, draw, image_size, load, random_crop
from mrsr.training.session import Session, digests_of
from mrsr.training.validate_autoencoder import evaluate

MODEL = "autoencoder"


def train(settings: Autoencoder, stores: dict[str, Path], out: Path) -> None:
    """Train from the first step, or from where the last run stopped, to the last step.

    Args:
        stores: slice stores by split: train, validation and perhaps test.
        out: the checkpoint to write; log and state are in the same folder.

    Raises:
        UserError: a setting or a store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    weights = disentangling.active(asdict(settings.weights), settings.intensity_range)
    judged = {name for name in ("adversarial", "swap") if name in weights}
    unjudged = {name: value for name, value in weights.items() if name not in judged}
    discriminating = settings.discriminator
    machine = compute.start(settings)
    if compute.share(settings.batch, machine) % 2 or settings.micro_batch % 2:
        raise UserError("batch of each process and micro_batch must be even: images come in pairs")
    compute.seed(settings.seed)
    network = machine.place(models.build(MODEL, settings.scale, asdict(settings.network)))
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer}
    slices = load(stores["train"], settings, machine)
    side = image_size(slices, settings.patch, network.size)
    usable = (slices.sizes // settings.scale * settings.scale >= side).all(axis=1).sum()
    order = batch_numbers(int(usable), settings.batch, settings.steps)
    wanted = ("validation", "test") if settings.test_curve else ("validation",)
    splits = [split for split in wanted if machine.first and split in stores]
    held_out = {split: load(stores[split], settings, machine) for split in splits}
    adversary = None
    if judged:
        canvas = network.size or side
        seen = replace(settings, patch=min(discriminating.crop or canvas, canvas))
        adversary = opponent.build(seen, discriminating, machine)
        parts |= {"discriminator": adversary.discriminator, "opponent": adversary.optimizer}
    compute.seed(settings.seed + 1, machine.rank)

    with Session(
        settings, machine, out,
        label=f"{settings.dataset} x{settings.scale} {MODEL}",
        parts=parts, terms=[*weights, "total"], data=digests_of([*stores.values()]),
    ) as session:  # fmt: skip
        network.train()
        for step in session.steps():
            # batch
            lr, hr = draw(slices, settings, int(order[step - 1]), side, machine)
            rate = optimizers.set_scheduled_rate(optimizer, settings, step)
            optimizer.zero_grad()
            active = adversary if step > discriminating.warmup else None
            acting = weights if step > discriminating.warmup else unjudged
            names = [*acting, "total"]
            terms = torch.zeros(len(names), dtype=machine.dtype, device=machine.device)
            norms_are_due = gradients.due(step, settings.gradient_norms_every)
            gradient = torch.zeros((), dtype=machine.dtype, device=machine.device)
            crop = random_crop(discriminating.crop, settings.seed, step)
            logits = opponent.judge(active.discriminator, machine, crop) if active else None
            real, fake = [], []

            # encoder and decoder: forward, loss, backward
            for lr_part, hr_part, portion, *_ in compute.micro_batches(
                lr, hr, settings.micro_batch
            ):
                with machine.autocast():
                    each, made = disentangling.terms(
                        network, lr_part, hr_part, acting, settings.patch_n, logits
                    )
                each = {name: each[name].to(machine.dtype) for name in acting}
                total = sum((acting[name] * term for name, term in each.items()), hr.new_zeros(()))
                if norms_are_due:
                    gradient = gradient + portion * gradients.of_terms(each, network)
                (total * portion).backward()
                terms += torch.stack([*each.values(), total]).detach() * portion
                if active:  # of its false images, half are reconstructions and half are swapped
                    half = len(hr_part) // 2
                    real.append(crop(made[0]))
                    fake.append(crop(torch.cat([made[1][:half], made[-1][half:]]).detach()))
            terms = compute.average(network, terms, machine)

            # discriminator
            if active:
                scores = opponent.update(
                    active, step, torch.cat(real), torch.cat(fake), settings, machine
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
            options=session.recorded["network"],
            scale=settings.scale,
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = command.parser("train_autoencoder", "Train the auto-encoder.")
    command.add_stores(parser)
    command.run(
        parser,
        arguments,
        lambda text: read(Autoencoder, text),
        lambda settings, given: train(settings, command.stores(given), given.out),
    )


if __name__ == "__main__":
    main()
