"""Train a super-resolution network on one dataset at one scale (Eq. 9, section 4.1, appendix E).

    python -m mrsr.training.train_sr --settings @job.json --train train.h5 \\
        --validation validation.h5 --test test.h5 \\
        --out results/demo/checkpoints/phantom_t1/x2/srresnet/best.pt

The losses `vit`, `structure` and `texture` use frozen networks: `--vit best.pt`,
`--autoencoder best.pt` (`method/features.py`). The loss `adversarial` adds a discriminator, which
is trained alternately with the generator. A generator that has the two networks inside
(`models/fused.py`) gets their weights from the same files.

A guided method also gets `--guide FOLDER` with the stores of its second contrast, named like the
others; a joint one may have undersampled LR images (`acceleration`).

Several GPUs: `torchrun --nproc-per-node 4 -m mrsr.training.train_sr ...`; `batch` is the batch of
all together.

`--out` gets the weights of the best validation PSNR when all steps are done; `session.py` lists the
files next to it. Killed at any moment and started again with the same command, the training resumes
and ends with the same weights. The test slices give a curve for Fig. 7 and never decide anything.

Needs torch, numpy, h5py and tqdm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from mrsr import compute, models
from mrsr.method import features, gradients, losses
from mrsr.params.jobs import SuperResolution, read
from mrsr.slices import batches
from mrsr.training import command, opponent, optimizers
from mrsr.training.session import Session, digests_of
from mrsr.training.validation import evaluate, held_out, remarks


def train(
    settings: SuperResolution,
    stores: dict[str, Path],
    out: Path,
    frozen_paths: features.Paths,
    guide: Path | None = None,
) -> None:
    """Train from the first step, or from where the last run stopped, to the last step.

    Args:
        stores: slice stores by split: train, validation and perhaps test.
        out: the checkpoint to write; log and state are in the same folder.
        frozen_paths: checkpoints of the networks that losses use, or that are inside the
            generator: vit, autoencoder.
        guide: folder of the second contrast's stores, named as the others.

    Raises:
        UserError: a setting or a store is wrong. Diverged: a loss is NaN or exploded.
        Interrupted: SIGTERM or SIGUSR1; the state is written.
    """
    weights = losses.active(settings.losses)
    warmup = settings.adversarial.warmup if settings.adversarial else 0
    warmup = losses.warmup(weights, warmup, settings.steps)
    models.check_guide(settings.model.name, guide is not None)
    name, options = settings.model.name, settings.model.options
    within = features.inside(name, options)
    origin = features.digests(weights, frozen_paths, within)
    machine = compute.start(settings)
    compute.share(settings.batch, machine)
    compute.seed(settings.seed)
    network = models.trainable(name, settings.scale, options)
    features.fill(network, within, frozen_paths, options)
    network = compute.synchronised(machine.place(network), machine)
    forward = torch.compile(network) if settings.compile else network
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    parts = {"network": network, "optimizer": optimizer}
    frozen = features.load(weights, settings.features, frozen_paths, machine, settings.seed)
    compared = frozen.settings
    adversary = discriminator = None
    if "adversarial" in weights and settings.adversarial:
        patches = compared.validation_patches
        adversary = opponent.build(settings, settings.adversarial, machine, patches)
        discriminator = adversary.discriminator
        parts |= {"discriminator": discriminator, "opponent": adversary.optimizer}
    compute.seed(settings.seed + 1, machine.rank)
    slices = batches.load_for(settings, stores["train"], machine, guide)
    held = held_out(settings, stores, machine, guide)
    if calibrate := getattr(network, "calibrate", None):
        calibrate(batches.sample(slices, settings, machine))

    with Session(
        settings, machine, out,
        label=f"{settings.dataset} x{settings.scale} {settings.method}",
        parts=parts, terms=[*weights, "total"], origin=origin,
        data=digests_of([*stores.values(), *_guides(stores, guide)]),
    ) as session:  # fmt: skip
        network.train()
        for step in session.steps():
            # batch
            lr, hr, *second = batches.draw(slices, settings, step, machine)
            rate = optimizers.set_scheduled_rate(optimizer, settings, step)
            optimizer.zero_grad()
            acting = losses.pixel(weights) if step <= warmup else weights
            names = [*acting, "total"]
            terms = torch.zeros(len(names), dtype=machine.dtype, device=machine.device)
            norms_are_due = gradients.due(step, compared.gradient_norms_every)
            gradient = torch.zeros((), dtype=machine.dtype, device=machine.device)
            generated = []

            # generator: forward, loss, backward
            for lr_part, hr_part, portion, *second_part in compute.micro_batches(
                lr, hr, settings.micro_batch, *second
            ):
                given = batches.seen(slices, lr_part, second_part)
                with machine.autocast():
                    sr, side = models.outputs((network if norms_are_due else forward)(*given))
                models.check_size(name, sr, lr_part, settings.scale)
                sr = sr.to(hr.dtype)
                context = losses.Context(
                    lr=lr_part,
                    clean=second_part[0] if slices.role == "clean" else lr_part,
                    guide=given[-1],
                    side_outputs=side,
                    codes=features.pair(frozen, acting, lr_part, sr, hr_part),
                    discriminator=discriminator,
                    autocast=machine.autocast,
                )
                total, each = losses.weighted(acting, sr, hr_part, context)
                if norms_are_due:
                    gradient = gradient + portion * gradients.of_terms(each, network)
                (total * portion).backward()
                terms += torch.stack([*each.values(), total]).detach() * portion
                generated.append(sr.detach())
            terms = compute.average(network, terms, machine)

            # discriminator: true images against the generator's new ones
            if adversary and "adversarial" in acting:
                fake = torch.cat(generated)
                scores = opponent.update(adversary, step, hr, fake, settings, machine)
                terms, names = torch.cat([terms, scores]), [*names, *opponent.TERMS]
            session.add(terms, names)

            # step
            if settings.clip_gradient:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_gradient)
            optimizer.step()

            # log, validate, save
            norms = gradients.norms(gradient, [*acting], machine) if norms_are_due else {}
            session.log({"lr": rate}, norms, due=step == warmup)  # because the terms change
            if session.validation_is_due:
                with session.paused():
                    for split, of_split in held.items():
                        metrics = evaluate(
                            network, of_split, machine, settings, weights, frozen, discriminator
                        )
                        score = [metrics["psnr"]]
                        session.validated(split, metrics, score=score, network=network)
            session.save()
        for remark in remarks(network, held, machine, settings, session.best["metrics"]):
            session.remark(remark)
        session.finish(
            network=network,
            model_name=name,
            options=options,
            scale=settings.scale,
            learned=stores["train"],
        )


def _guides(stores: dict[str, Path], guide: Path | None) -> list[Path]:
    return [guide / path.name for path in stores.values()] if guide else []


def _start(settings: SuperResolution, given: argparse.Namespace) -> None:
    paths = {name: getattr(given, name) for name in features.NETWORKS.values()}
    train(settings, command.stores(given), given.out, paths, given.guide)


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = command.parser("train_sr", "Train one method on one dataset.")
    command.add_stores(parser)
    parser.add_argument("--vit", type=Path, help="for the loss vit, or a generator")
    parser.add_argument("--autoencoder", type=Path, help="for structure and texture")
    parser.add_argument("--guide", type=Path, help="folder of the second contrast's stores")
    command.run(parser, arguments, lambda text: read(SuperResolution, text), _start)


if __name__ == "__main__":
    main()
