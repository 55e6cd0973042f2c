"""A slice store of noise, for benchmarks: how fast a step is does not depend on what it shows."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def store(path: Path, slices: int = 32, size: tuple[int, int] = (192, 192)) -> Path:
    """Write one volume of int16 slices, complete enough to train from."""
    data = np.random.default_rng(0).integers(0, 1000, (slices, *size), dtype=np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset="synthetic", organ="brain", contrast="T1")
        file.attrs.update(split=path.stem, settings="{}", digest="")
        group = file.create_group("volumes/0000")
        group.create_dataset("data", data=data, chunks=(1, *size))
        group.attrs.update(subject="one", visit="", path="one.nii", slope=1.0, intercept=0.0)
        group.attrs.update(scale=1000.0, affine=np.eye(4), voxel_size=[1.0, 1.0, 1.0])
        group.attrs.update(slice_index=np.arange(slices))
    return path
