"""Drawing batches: the slice store's own beside MONAI's CacheDataset and torch's DataLoader."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import synthetic
from peers import monai_batches, textbook
from side_by_side import Row, compare

from mrsr.slices import batches, holding

SCALE, PATCH, BATCH = 2, 96, 16


def rows(small: bool) -> list[Row]:
    """Batches of patches from a store that fits into memory, on the CPU."""
    count = 2 if small else 20
    with tempfile.TemporaryDirectory() as folder:
        path = synthetic.store(Path(folder) / "train.h5", 64 if small else 256)
        slices = holding.load(path, scale=SCALE, degradation="bicubic", device="cpu")
        pairs = textbook.Pairs(path, scale=SCALE, patch=PATCH)
        cached = monai_batches.dataset(path, patch=PATCH)
        steps = itertools.count()

        def ours() -> None:
            for _ in range(count):
                batches.batch(
                    slices, next(steps), batch=BATCH, patch=PATCH, seed=0, augment=True, rotate=True
                )

        def by_torch() -> None:
            for _ in textbook.loader(pairs, batch=BATCH, count=count):
                pass

        def by_monai() -> None:
            for _ in monai_batches.batches(cached, batch=BATCH, scale=SCALE, count=count):
                pass

        what = f"{count} batches of {BATCH} patches of {PATCH} pixels, {SCALE}x"
        return [
            compare(what, ("mrsr", ours), other)
            for other in (("DataLoader", by_torch), ("MONAI CacheDataset", by_monai))
        ]
