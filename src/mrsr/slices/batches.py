"""Slice store -> pairs of LR and HR images, whole or as random patches, on the device.

Whole slices are degraded first and cropped afterwards: LR at (i, j), HR at (s*i, s*j). The images
are kept where they fit (`place`), which never changes a bit of a batch:

- "device": all HR and LR slices in the memory of the GPU (or of the CPU, if it is the device);
- "host": in the computer's memory, patches are sent to the device;
- "stream": on disk; the slices of a batch are read and degraded on demand;
- "auto": the first of these that fits.

A batch is a pure function of (store, seed, step): a training resumed at step n gets the
same batches as an uninterrupted one, and no loader state is saved. Slices are kept as float32, 4
bytes per pixel; `dtype` torch.float16 halves that.

Some methods use a second image of each slice: the guide (another contrast at HR, from a separate
store with the same slices), or, if the LR input is undersampled, the clean LR image. It is cropped,
rotated and flipped with the pair, and returned after it.

By hand: `python -c "from mrsr.slices import batches, holding; s = holding.load('train.h5', scale=2,
degradation='bicubic', device='cpu'); print(batches.batch(s, 0, batch=4, patch=48, seed=0,
augment=True)[0].shape)"`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.params.jobs import SuperResolution
from mrsr.slices.holding import Piece, Slices, _fetch, load


def _usable_slices(slices: Slices, patch: int) -> np.ndarray:
    """(n,) the slices that are large enough for a patch; all of them for patch 0."""
    if patch not in slices._usable:
        s = slices.scale
        if patch < 0 or patch % s:
            raise UserError(f"patch {patch} must be 0 or a positive multiple of the scale {s}")
        if patch == 0 and len(np.unique(slices.sizes, axis=0)) > 1:
            raise UserError(
                f"{slices.path} has slices of several sizes: whole slices (patch 0) cannot be "
                "batched; set a patch size"
            )
        fits = (slices.sizes // s * s >= patch).all(axis=1)
        if not fits.any():
            height, width = slices.sizes.max(axis=0)
            raise UserError(
                f"patch {patch} is larger than every slice of {slices.path} "
                f"(at most {height}x{width}); set a smaller patch"
            )
        if not fits.all():
            print(
                f"{slices.path}: {(~fits).sum()} of {slices.count} slices are smaller than the "
                f"patch of {patch} pixels and are not used",
                file=sys.stderr,
            )
        slices._usable[patch] = np.flatnonzero(fits)
    return slices._usable[patch]


def _order(slices: Slices, seed: int, epoch: int, n: int) -> np.ndarray:
    """The permutation of n usable slices in one epoch."""
    key = (seed, epoch, n)
    if key not in slices._orders:
        if len(slices._orders) > 3:
            slices._orders.clear()
        slices._orders[key] = np.random.default_rng([seed, epoch, 0]).permutation(n)
    return slices._orders[key]


def batch(
    slices: Slices,
    step: int,
    *,
    batch: int,
    patch: int,
    seed: int,
    augment: bool,
    rotate: bool = False,
    rank: int = 0,
    world: int = 1,
) -> list[Tensor]:
    """LR (b, 1, p/s, p/s) and HR (b, 1, p, p) float32 on the device, b = batch / world.

    The second image follows if there is one: a guide of HR size, or a clean LR image.

    The permutations of all epochs form an endless stream of slices; batch number `step` has its
    entries step * batch ... (step + 1) * batch - 1. Every rank takes an equal part of that batch,
    for any number of ranks.

    patch: HR pixels, a multiple of the scale; 0 takes whole slices, padded to one.
    augment: random flips. rotate: also random transposition (with flips: all eight orientations).

    Raises:
        UserError: the batch does not divide by world, or the patch does not fit (see the message).
    """
    if batch < 1 or batch % world:
        raise UserError(f"batch {batch} does not divide evenly over {world} processes")
    usable = _usable_slices(slices, patch)
    n, s = len(usable), slices.scale
    stream = np.arange(step * batch, (step + 1) * batch)
    index = np.empty(batch, dtype=np.int64)
    for epoch in range(stream[0] // n, stream[-1] // n + 1):
        there = stream // n == epoch
        index[there] = usable[_order(slices, seed, epoch, n)[stream[there] % n]]
    chance = np.random.default_rng([seed, step, 1]).random((batch, 5))  # one row per sample
    mine = slice(rank * (batch // world), (rank + 1) * (batch // world))
    index, chance = index[mine], chance[mine]

    if patch:
        size = np.array([patch // s, patch // s])
        corner = (chance[:, :2] * (slices.sizes[index] // s - size + 1)).astype(np.int64)
    else:
        size = -(-slices.sizes[0] // s)
        corner = np.zeros((len(index), 2), dtype=np.int64)
    flips = (chance[:, 2:4] < 0.5) & augment
    (hr, lr, *second), where = _fetch(slices, index)
    images = [(lr, 1), (hr, s), *((one, s if slices.role == "guide" else 1) for one in second)]
    cut = [_crop(image, where, corner * f, size * f, flips) for image, f in images]
    if rotate and size[0] == size[1]:
        turn = torch.from_numpy(chance[:, 4] < 0.5).to(hr.device)[:, None, None]
        cut = [torch.where(turn, image.mT, image) for image in cut]
    return [_deliver(slices, image) for image in cut]


def load_for(settings: SuperResolution, path: Path, machine: Machine, guide: Path | None) -> Slices:
    """Load a store for a super-resolution training. guide: folder of the guides' stores."""
    return load(
        path,
        scale=settings.scale,
        degradation=settings.degradation,
        device=machine.device,
        place=settings.place,
        guide=guide / path.name if guide else None,
        acceleration=settings.acceleration,
    )


def draw(slices: Slices, settings: SuperResolution, step: int, machine: Machine) -> list[Tensor]:
    """The images of a training's step, counted from 1: this process's share, LR, HR, second."""
    images = batch(
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
    if settings.noise:
        images[0] = images[0] + _noise(images[0], settings, step, machine)
    return [image.to(machine.dtype) for image in images]


def sample(slices: Slices, settings: SuperResolution, machine: Machine, count: int = 64) -> Tensor:
    """LR images (count, 1, h, w) of a training, as its network gets them, to measure codes by.

    The same in every process, whatever their number.
    """
    lr, *_ = batch(
        slices, 0, batch=count, patch=settings.patch, seed=settings.seed, augment=settings.augment
    )
    return lr.to(machine.dtype)


def _noise(lr: Tensor, settings: SuperResolution, step: int, machine: Machine) -> Tensor:
    """This process's share of the noise of a step: a pure function of seed and step, as batches."""
    random = np.random.default_rng([settings.seed, step, 2])
    shape = (settings.batch, *lr.shape[1:])
    levels = settings.noise * random.random((settings.batch, 1, 1, 1), dtype=np.float32)
    noise = levels * random.standard_normal(shape, dtype=np.float32)
    mine = slice(machine.rank * len(lr), (machine.rank + 1) * len(lr))
    return torch.from_numpy(noise[mine]).to(lr)


def _crop(
    images: Tensor, where: np.ndarray, corner: np.ndarray, size: np.ndarray, flips: np.ndarray
) -> Tensor:
    """Patches (b, *size) of images (n, H, W) by one gather; a flip is a reversed index."""
    lines = []
    for axis in (0, 1):
        offset = np.arange(size[axis])
        offset = np.where(flips[:, axis, None], offset[::-1], offset)
        lines.append(torch.from_numpy(corner[:, axis, None] + offset).to(images.device))
    which = torch.from_numpy(where).to(images.device)
    return images[which[:, None, None], lines[0][:, :, None], lines[1][:, None, :]]


def _deliver(slices: Slices, images: Tensor) -> Tensor:
    return images[:, None].to(slices.device, non_blocking=True).float()


def whole(
    slices: Slices,
    *,
    batch: int = 16,
    limit: int = 0,
    only: int | None = None,
    which: Sequence[int] | None = None,
) -> Iterator[tuple[Piece, Tensor, Tensor, *tuple[Tensor, ...]]]:
    """Whole slices, volume by volume: (piece, LR (n, 1, h, w), HR (n, 1, s*h, s*w)), n <= batch.

    The second image follows if there is one, as in `batch`. All are float32 on the device and
    padded to a multiple of the scale; `piece.size` is the unpadded HR size, for the metrics.
    limit: only that many slices, spread evenly over the store (0: all). only: the number of one
    volume; the others are not read. which: numbers of slices in the store's order, increasing, in
    place of all.
    """
    chosen = np.arange(slices.count) if which is None else np.asarray(which, dtype=int)
    if 0 < limit < slices.count:
        chosen = np.unique(np.round(np.linspace(0, slices.count - 1, limit + 2)[1:-1]).astype(int))
    s = slices.scale
    for number, volume in enumerate(slices.volumes):
        if only not in (None, number):
            continue
        of_volume = chosen[slices.volume[chosen] == number]
        height, width = -(-volume.shape[1] // s), -(-volume.shape[2] // s)
        for start in range(0, len(of_volume), batch):
            index = of_volume[start : start + batch]
            piece = Piece(
                volume=volume, size=volume.shape[1:], positions=slices.position[index].tolist()
            )
            (hr, lr, *second), where = _fetch(slices, index)
            rows = torch.from_numpy(where).to(hr.device)
            factors = [1, s, *(s if slices.role == "guide" else 1 for _ in second)]
            images = [
                image.index_select(0, rows)[:, : height * f, : width * f].contiguous()
                for image, f in zip([lr, hr, *second], factors, strict=True)
            ]
            lr, hr, *second = (_deliver(slices, image) for image in images)
            yield piece, lr, hr, *second


def reach(hr: Tensor) -> Tensor:
    """(n,) the range of intensities of images (n, 1, H, W): their maximum; 0 for blank ones.

    From the image's lowest value where that is negative, as in `metrics.definitions`.
    """
    lowest, highest = hr.flatten(1).aminmax(dim=1)
    return highest - lowest.clamp(max=0)


def seen(slices: Slices, lr: Tensor, second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs of a network's forward: the LR images, and the guides of a guided method."""
    return (lr, *second) if slices.role == "guide" else (lr,)
