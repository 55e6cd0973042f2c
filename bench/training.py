"""A training's step: against a textbook loop, and what the data and the precision cost.

The demo's SRResNet (32 maps, 4 blocks) and twice its width and depth, at the demo's batch and
patch, on one thread, as trainings side by side run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from peers import textbook
from side_by_side import Row, compare
from synthetic import store
from torch.nn import functional as F

from mrsr import compute, models
from mrsr.params import loading
from mrsr.params.jobs import Model, SuperResolution
from mrsr.slices import batches
from mrsr.training import optimizers, train_sr

SIZES = {"32 maps, 4 blocks": (32, 4), "64 maps, 8 blocks": (64, 8)}


def job(size: str, steps: int) -> SuperResolution:
    """The demo's SRResNet at this size, for some steps, with one validation at the end."""
    features, blocks = SIZES[size]
    settings = loading.load("params.yaml", "demo").super_resolution("phantom_t1", 2, "srresnet")
    model = Model(
        name="srresnet",
        options=dict(settings.model.options) | {"features": features, "blocks": blocks},
    )
    return replace(
        settings, model=model, steps=steps, log_every=steps, validate_every=steps,
        checkpoint_every=steps, validation_slices=1, test_curve=False, threads=1,
        tracking=replace(settings.tracking, enabled=False),
    )  # fmt: skip


def steps(settings: SuperResolution, path: Path, drawn: bool) -> Callable[[], None]:
    """Steps on batches that are drawn as in training, or on one batch again and again."""
    machine = compute.start(settings)
    network = models.trainable(settings.model.name, settings.scale, settings.model.options)
    network = machine.place(network)
    optimizer = optimizers.optimizer_for(network, settings.optimizer)
    slices = batches.load_for(settings, path, machine, None)
    constant = batches.draw(slices, settings, 1, machine)

    def work() -> None:
        for step in range(1, settings.steps + 1):
            lr, hr = batches.draw(slices, settings, step, machine) if drawn else constant
            optimizer.zero_grad()
            with machine.autocast():
                sr = network(lr)
            F.l1_loss(sr.float(), hr).backward()
            optimizer.step()

    return work


def rows(small: bool) -> list[Row]:
    """`small`: two steps of the small network."""
    found, count, rounds = [], 2 if small else 30, 2 if small else 5
    with tempfile.TemporaryDirectory() as folder:
        stores = {split: store(Path(folder) / f"{split}.h5") for split in ("train", "validation")}
        for size in list(SIZES)[: 1 if small else None]:
            settings = job(size, count)
            pairs = textbook.Pairs(stores["train"], scale=2, patch=settings.patch)

            def ours(settings: SuperResolution = settings) -> None:
                out = Path(folder) / "best.pt"
                train_sr.train(settings, stores, out, {})

            def theirs(settings: SuperResolution = settings, pairs: textbook.Pairs = pairs) -> None:
                network = models.trainable("srresnet", 2, settings.model.options)
                textbook.steps(network, pairs, batch=settings.batch, count=settings.steps)

            images = f"{settings.batch} patches of {settings.patch}"
            found.append(compare(
                f"train SRResNet ({size}), {count} steps of {images}",
                ("mrsr's training, validation and saving included", ours),
                ("textbook loop: DataLoader, fp32, loss.item()", theirs),
                target=1.7, threads=1, rounds=rounds,
            ))  # fmt: skip
        settings = job("32 maps, 4 blocks", count)
        found.append(compare(
            f"{count} steps with their data, SRResNet (32 maps, 4 blocks)",
            ("batches drawn from the store", steps(settings, stores["train"], True)),
            ("one batch again and again", steps(settings, stores["train"], False)),
            target=0.95, threads=1, rounds=rounds,
        ))  # fmt: skip
        if compute.has_bf16(torch.device("cpu")):
            reduced = replace(settings, precision="bf16")
            full = replace(settings, precision="fp32")
            found.append(compare(
                f"{count} steps in bf16, SRResNet (32 maps, 4 blocks)",
                ("bf16", steps(reduced, stores["train"], True)),
                ("fp32", steps(full, stores["train"], True)),
                target=1.8, threads=1, rounds=rounds,
            ))  # fmt: skip
    return found
