"""Batches by MONAI's usual route: CacheDataset, dictionary transforms, its DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandFlipd, RandRotate90d, RandSpatialCropd
from torch import Tensor
from torch.nn import functional as F

from mrsr.slices import store


def dataset(path: Path, *, patch: int) -> CacheDataset:
    """All slices in memory, with random crops, flips and quarter turns."""
    items = []
    for volume in store.read_store(path):
        images = store.normalised(store.read_slices(path, volume), volume)
        items += [{"hr": one[None]} for one in images]
    steps = [
        RandSpatialCropd(keys="hr", roi_size=(patch, patch), random_size=False),
        RandFlipd(keys="hr", prob=0.5, spatial_axis=0),
        RandFlipd(keys="hr", prob=0.5, spatial_axis=1),
        RandRotate90d(keys="hr", prob=0.5),
    ]
    return CacheDataset(items, Compose(steps), progress=False, num_workers=None)


def batches(data: CacheDataset, *, batch: int, scale: int, count: int) -> Iterator[list[Tensor]]:
    """`count` batches of LR and HR; LR is torch's bicubic downsampling of HR."""
    made = 0
    while made < count:
        for item in DataLoader(data, batch_size=batch, shuffle=True, num_workers=0):
            hr = item["hr"].as_tensor()
            lr = F.interpolate(hr, scale_factor=1 / scale, mode="bicubic", antialias=True)
            yield [lr, hr]
            made += 1
            if made == count:
                return
