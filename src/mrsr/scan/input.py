"""Read a scan of one's own, and say what had to be decided about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.raw.volume import Volume


def check_axis(axis: int | None) -> None:
    """Raise a `UserError` unless the axis is None, 0, 1 or 2."""
    if axis not in (None, 0, 1, 2):
        raise UserError(f"axis is {axis}, it must be 0, 1 or 2: an axis of the file")


def read_scan(path: Path, axis: int | None = None, *, sliced: bool = True) -> Volume:
    """One scan, its slices along `axis` of the file (None: see `raw.nifti.read_nifti`).

    Says that complex values are used as magnitudes and, unless `sliced` is False (their direction
    does not matter), which axis was taken where the voxel sizes leave it open.
    """
    from mrsr.raw.nifti import read_nifti

    check_axis(axis)
    volume = read_nifti(path, subject="", contrast="", organ="", slice_axis=axis)
    if (guessed := volume.attributes.get("guessed")) and sliced:
        say(f"{path.name}: nearly isotropic voxels, sliced along {guessed}; --axis names another")
    if np.iscomplexobj(volume.stored):
        say(f"{path.name}: complex values, their magnitude is used")
    return volume


def file_axes(volume: Volume) -> list[int]:
    """Which axes of the file became slice, row and column."""
    return [int(axis) for axis in volume.attributes["axes"].split(",")]
