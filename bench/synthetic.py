"""A slice store of made-up, noisy slices, for benchmarks that need no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrsr.slices.store import Sliced, describe, new_store, write_volume


def store(path: Path, slices: int = 32, size: int = 160, in_volume: int = 16) -> Path:
    """Write `slices` slices of `size` x `size` int16 pixels; the path.

    The volumes repeat a few different slices, so that a large store is made in seconds.
    """
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 900, size)[:, None] + random.normal(0, 30, (in_volume, size, size))
    data = ramp.clip(1).astype(np.int16)
    with new_store(path) as file:
        describe(file, dataset="made_up", organ="brain", contrast="T1", split="train", digest="0")
        file.create_group("volumes")
        for number, start in enumerate(range(0, slices, in_volume)):
            count = min(in_volume, slices - start)
            sliced = Sliced(
                data=data[:count], scale=900.0, slope=1.0, intercept=0.0,
                slice_index=list(range(count)), affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0),
            )  # fmt: skip
            write_volume(file, number, sliced, subject=f"s{number}", visit="", path=f"{number}.nii")
    return path
