"""The auto-encoder's batches: pairs x1, x2 of different slices, half a batch apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.models.autoencoder import MULTIPLE
from mrsr.params.jobs import Autoencoder
from mrsr.slices import batches, holding


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


def draw(
    slices: holding.Slices,
    settings: Autoencoder,
    number: int,
    side: int,
    machine: Machine,
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


def load(path: Path, settings: Autoencoder, machine: Machine) -> holding.Slices:
    """A store as the auto-encoder's training wants it."""
    return holding.load(
        path,
        scale=settings.scale,
        degradation=settings.degradation,
        device=machine.device,
        place=settings.place,
    )
