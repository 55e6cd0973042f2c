"""The volume type of all datasets: slices first, with its position in space."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VolumeRef:
    """A volume on disk that has not been read yet."""

    path: Path
    subject: str  # splits are by subject; all visits of a person share it
    contrast: str  # "T1", "T2", "PD", "PDFS", ...
    organ: str  # "brain", "knee", ...
    visit: str = ""  # distinguishes several scans of one subject
    split: str = ""  # "train", "validation", "test" if the publisher or a list sets it
    labels: Path | None = None  # tissue labels on the same grid, if there are any
    pair: str = ""  # volumes with the same non-empty `pair` are registered contrasts of one scan

    @property
    def names(self) -> dict[str, Any]:
        """Subject, contrast, organ and visit, for the `Volume` that is read."""
        return {key: getattr(self, key) for key in ("subject", "contrast", "organ", "visit")}


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a source's `prepare` found.

    files: those that the manifest lists; what else lies in the folder is not the program's.
    used: scans, wherever they lie. left_out: (name, reason) of those that were found besides.
    """

    files: list[Path]
    used: int
    left_out: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One volume, lossless.

    stored: (slices, height, width), the file's own integer type, float32 or complex64.
    slope, intercept: physical value = stored * slope + intercept (complex: slope only).
    affine: (4, 4) float64, maps (slice, row, column, 1) to RAS+ millimetres.
    voxel_size: millimetres along (slice, row, column).
    """

    stored: np.ndarray
    affine: np.ndarray
    voxel_size: tuple[float, float, float]
    subject: str = ""
    contrast: str = ""
    organ: str = ""
    visit: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def image(self) -> np.ndarray:
        """(slices, height, width) float32 physical values; magnitude of complex volumes."""
        if np.iscomplexobj(self.stored):
            return (np.abs(self.stored) * self.slope).astype(np.float32)
        physical = self.stored.astype(np.float32) * np.float32(self.slope)
        return physical + np.float32(self.intercept)


def checked(stored: np.ndarray, name: str) -> np.ndarray:
    """A 3D array in native byte order: integers as they are, else float32 or complex64.

    Raises:
        UserError: not 3D, no voxels, no numbers, NaN or infinite values, one value everywhere.
    """
    if stored.ndim != 3:
        raise UserError(
            f"{name} is {stored.ndim}D, a 3D volume is needed; save one as its own file"
        )
    if stored.size == 0:
        raise UserError(f"{name} has no voxels; leave the file out")
    types: dict[str, Any] = {"b": np.uint8, "f": np.float32, "c": np.complex64}
    types |= dict.fromkeys("iu", stored.dtype.newbyteorder("="))
    if stored.dtype.kind not in types:
        raise UserError(f"{name} holds {stored.dtype} values; numbers are needed")
    with np.errstate(over="ignore"):  # found below
        stored = stored.astype(types[stored.dtype.kind], copy=False)
    bad = stored.size - int(np.isfinite(stored).sum())
    if bad:
        raise UserError(
            f"{name}: {bad} of {stored.size} voxels are NaN or infinite; replace them or leave "
            "the file out"
        )
    if (stored == stored.flat[0]).all():
        raise UserError(f"{name} is empty: every voxel is {stored.flat[0]:g}; leave the file out")
    return stored


def fetched(path: Path, source: str) -> Path:
    """The path of a file or folder that `prepare` brought.

    Raises:
        UserError: it is not there; says how to get it.
    """
    if not path.exists():
        raise UserError(
            f"no file or folder {path}; get it with "
            f"`snakemake --cores 1 data/raw/{source}/manifest.csv`"
        )
    return path
