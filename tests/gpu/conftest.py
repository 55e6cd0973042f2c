"""What the tests on a GPU share; torch, numpy and h5py are all that they need.

Without a GPU they are skipped. MRSR_TEST_DEVICE=cpu runs them on the CPU, to see that they work.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    """cuda, or what MRSR_TEST_DEVICE names."""
    name = os.environ.get("MRSR_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here; MRSR_TEST_DEVICE=cpu runs these tests on the CPU")
    return name


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of smooth int16 slices, 8 of 64 x 48 pixels, by split."""
    folder, found = tmp_path_factory.mktemp("stores"), {}
    rows, columns = np.mgrid[:64, :48] / 10
    for seed, split in enumerate(("train", "validation", "test")):
        draws = np.random.default_rng(seed).uniform(0, 2, (8, 2))
        waves = np.stack([np.sin(rows * a + b) * np.cos(columns * b + a) for a, b in draws])
        found[split] = folder / f"{split}.h5"
        with h5py.File(found[split], "w") as file:
            file.attrs.update(format=1, dataset="toy", organ="brain", contrast="T1", split=split)
            file.attrs.update(settings="{}", digest=split)
            group = file.create_group("volumes/0000")
            data = (1000 + 900 * waves).astype(np.int16)
            group.create_dataset("data", data=data, chunks=(1, 64, 48))
            group.attrs.update(subject=f"s{seed}", visit="", path="s.nii", slope=1.0, intercept=0.0)
            group.attrs.update(scale=2000.0, affine=np.eye(4), slice_index=np.arange(8))
            group.attrs.update(voxel_size=[1.0, 1.0, 1.0])
    return found
