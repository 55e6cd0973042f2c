"""The volume type of all datasets: slices first, with its position in space."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
        """(slices, height, width) float32 physical values, with their sign.

        Of complex volumes alone the magnitude, which has none.
        """
        found = self.physical
        return np.abs(found) if np.iscomplexobj(found) else found

    @property
    def physical(self) -> np.ndarray:
        """(slices, height, width) physical values: float32, or complex64 of complex volumes."""
        return physical(self.stored, self.slope, self.intercept)


def physical(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Stored values as float32, or complex64, scaled in float64 (complex: by the slope alone).

    In float32 a large offset that slope and intercept take away again would cost digits.
    """
    if np.iscomplexobj(stored):
        return (stored * slope).astype(np.complex64)
    if (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def along(volume: Volume, axis: int, name: str) -> Volume:
    """The volume with slices along another axis (0, 1, 2) of its file.

    Raises:
        UserError: its source has slices of its own, no file whose axes could be chosen.
    """
    if "axes" not in volume.attributes:
        raise UserError(f"{name}: its slices are given; take slice_axis away from the dataset")
    had = [int(one) for one in volume.attributes["axes"].split(",")]
    axes = [axis, *(one for one in (2, 1, 0) if one != axis)]
    order = [had.index(one) for one in axes]
    sizes = [volume.voxel_size[one] for one in order]
    attributes = {key: value for key, value in volume.attributes.items() if key != "guessed"}
    return replace(
        volume,
        stored=np.ascontiguousarray(volume.stored.transpose(order)),
        affine=volume.affine[:, [*order, 3]],
        voxel_size=(sizes[0], sizes[1], sizes[2]),
        attributes=attributes | {"axes": ",".join(map(str, axes))},
    )


def checked(stored: np.ndarray, name: str) -> np.ndarray:
    """A 3D array in native byte order: integers as they are, else float32 or complex64.

    Raises:
        UserError: not 3D, no voxels, no numbers, NaN or infinite values, one value everywhere, or
            values beyond float32.
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
    whole = stored.dtype.kind in "iub"  # every value is finite, and stays as it is
    bad = 0 if whole else stored.size - int(np.isfinite(stored).sum())
    if bad:
        how = " (`mrsr enhance --nan zero` reads NaN as 0)" if np.isnan(stored).any() else ""
        raise UserError(
            f"{name}: {bad} of {stored.size} voxels are NaN or infinite; replace them{how} or leave"
            " the file out"
        )
    if (stored == stored.flat[0]).all():
        raise UserError(f"{name} is empty: every voxel is {stored.flat[0]:g}; leave the file out")
    with np.errstate(over="ignore"):  # found below
        narrow = stored.astype(types[stored.dtype.kind], copy=False)
    if whole or narrow is stored:
        return narrow
    if not np.isfinite(narrow).all():
        raise _beyond(name, float(np.abs(stored).max()))
    if (narrow == narrow.flat[0]).all():
        raise UserError(
            f"{name}: its values differ by less than float32 can tell ({stored.min():g} to "
            f"{stored.max():g}); scale them, or take their offset away"
        )
    return narrow


def check_range(stored: np.ndarray, slope: float, intercept: float, name: str) -> None:
    """Raise a `UserError` if physical values lie beyond what float32 holds."""
    ends = np.array(
        [np.abs(stored).max()] if np.iscomplexobj(stored) else [stored.min(), stored.max()]
    )
    with np.errstate(over="ignore"):
        largest = float(np.abs(ends.astype(np.float64) * slope + intercept).max())
    if largest > float(np.finfo(np.float32).max):
        raise _beyond(name, largest)


def _beyond(name: str, largest: float) -> UserError:
    most = np.finfo(np.float32).max
    return UserError(
        f"{name} has values up to {largest:.3g}, beyond the {most:.2g} of float32; divide them, or "
        "leave the file out"
    )


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
