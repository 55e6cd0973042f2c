"""Enhance one scan in a MONAI bundle: MONAI reads and writes it, the network sees its slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from .applying import Enhancer


def slice_axis(shape: tuple[int, ...], affine: np.ndarray) -> int:
    """An axis of length 1, else that of the largest voxel size (ties: the last), as mrsr does."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    single = [axis for axis in range(3) if shape[axis] == 1]
    among = single or [0, 1, 2]
    thick = max(sizes[axis] for axis in among) * (1 - 1e-3)
    return [axis for axis in among if sizes[axis] >= thick][-1]


class ScanEnhancer:
    """{"image": MetaTensor (1, x, y, z)} to the same with "pred", finer in the plane of slices.

    axis: that slices are stacked along, 0, 1 or 2; None: see `slice_axis`.
    """

    def __init__(self, file: str, scale: int, percentile: float, axis: int | None = None) -> None:
        self.enhancer, self.axis = Enhancer(file, scale, percentile), axis

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        scan = data["image"]
        volume = np.asarray(scan[0], np.float32)
        if volume.ndim == 2:
            volume = volume[..., None]
        if volume.ndim != 3:
            raise ValueError(f"expected a 3D scan, not one of shape {volume.shape}")
        affine = np.array(scan.affine, np.float64)
        first = slice_axis(volume.shape, affine) if self.axis is None else int(self.axis)
        plane = [axis for axis in (2, 1, 0) if axis != first]
        fine = self.enhancer(np.ascontiguousarray(volume.transpose(first, *plane)))
        back = np.argsort([first, *plane])
        # voxel j of the finer grid has its centre at (j + 1/2) / scale - 1/2 of the old one
        scale, finer = self.enhancer.scale, np.eye(4)
        for axis in plane:
            finer[axis, axis], finer[axis, 3] = 1 / scale, (1 / scale - 1) / 2
        image = torch.from_numpy(np.ascontiguousarray(fine.transpose(back)))[None]
        meta = {**scan.meta, "spatial_shape": np.array(image.shape[1:])}
        return {
            **data,
            "pred": MetaTensor(image, affine=torch.from_numpy(affine @ finer), meta=meta),
        }
