"""Read a scan of one's own, and say what had to be decided about it.

A scan is a file, a folder with a DICOM series, or an image of nibabel in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.raw.nifti import (
    Opened,
    checked_affine,
    four_axes,
    is_scan,
    opened,
    volume_of,
)
from mrsr.raw.scan_formats import is_folder
from mrsr.raw.volume import Volume
from mrsr.scan import dicom
from mrsr.scan.tags import tags_beside

Source = Path | str | SpatialImage
NAN = ("refuse", "zero")


@dataclass(frozen=True)
class Given:
    """A scan and what lies beside it. tags: of its JSON, such as `EchoTime`; path: if a file's."""

    scan: Opened
    tags: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.scan.name


def check_axis(axis: int | None) -> None:
    """Raise a `UserError` unless the axis is None, 0, 1 or 2."""
    if axis not in (None, 0, 1, 2):
        raise UserError(f"axis is {axis}, it must be 0, 1 or 2: an axis of the file")


def check_nan(nan: str) -> None:
    """Raise a `UserError` for a word that says nothing about NaN."""
    if nan not in NAN:
        raise UserError(f"nan is {nan}, it must be one of {', '.join(NAN)}")


def open_scan(source: Source, series: str = "") -> Given:
    """A scan with its header checked.

    series: of a DICOM folder that has several.

    Raises:
        UserError: it cannot be read, or is a folder of something else.
    """
    if isinstance(source, SpatialImage):
        return Given(_in_memory(source))
    path = Path(source)
    if is_folder(path):
        if holds_scans(path):
            raise UserError(
                f"{path} is a folder of scans; give one of its files (`mrsr enhance` alone, and "
                "mrsr.scan.many.enhance_folder in Python, take all of them)"
            )
        return Given(*dicom.convert(path, series), path)
    if series:
        raise UserError(f"{path} is no folder of DICOM files, which alone has series to choose")
    return Given(opened(path), tags_beside(path), path)


SKIPPED = ("derivatives", "sourcedata", "code")  # of a BIDS dataset


def holds_scans(folder: Path) -> bool:
    """Whether it is a folder with a NIfTI or MGH file anywhere in it."""
    return is_folder(folder) and any(is_scan(path) for path in files_below(folder))


def files_below(folder: Path) -> Iterator[Path]:
    """Files below a folder; no hidden ones, and nothing that BIDS derives."""

    def closed(error: OSError) -> None:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; check its permissions or move it"
        )

    for where, folders, files in os.walk(folder, onerror=closed):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in SKIPPED
        )
        yield from (Path(where) / name for name in files if not name.startswith("."))


def read_scan(
    source: Source | Given,
    axis: int | None = None,
    *,
    sliced: bool = True,
    volume: int | None = None,
    nan: str = "refuse",
) -> Volume:
    """One volume, its slices along `axis` of the file (None: see `raw.nifti.read_nifti`).

    Says that complex values are used as magnitudes, how many NaN became 0 (nan: "zero") and, unless
    `sliced` is False (their direction does not matter), which axis was taken where the voxel sizes
    leave it open.

    volume: of a 4D scan, from 0.

    Raises:
        UserError: it cannot be used, or is 4D and no volume was chosen.
    """
    check_axis(axis)
    check_nan(nan)
    given = source if isinstance(source, Given) else open_scan(source)
    if volume is None and given.scan.volumes > 1:
        raise UserError(f"{given.name} has {given.scan.volumes} volumes; choose one with --volume, "
                        "counted from 0")  # fmt: skip
    found = volume_of(given.scan, volume, slice_axis=axis, zero_nan=nan == "zero")
    say_nan(found, f"{given.name}, volume {volume}" if given.scan.volumes > 1 else given.name)
    if (guessed := found.attributes.get("guessed")) and sliced:
        say(f"{given.name}: nearly isotropic voxels, sliced along {guessed}; --axis names another")
    if np.iscomplexobj(found.stored):
        say(f"{given.name}: complex values, their magnitude is used")
    return found


def each_volume(
    given: Given, first: Volume, numbers: Sequence[int], axis: int | None, nan: str
) -> Iterator[Volume]:
    """The volumes of these numbers one by one, in silence; the first has been read already."""
    yield first
    for number in numbers[1:]:
        yield volume_of(given.scan, number, slice_axis=axis, zero_nan=nan == "zero")


def say_nan(volume: Volume, name: str) -> None:
    """Say how many NaN were read as 0, if any."""
    if missing := volume.attributes.get("nan"):
        say(f"{name}: {missing} of {volume.stored.size} voxels are NaN and read as 0")


def file_axes(volume: Volume) -> list[int]:
    """Which axes of the file became slice, row and column."""
    return [int(axis) for axis in volume.attributes["axes"].split(",")]


def _in_memory(image: SpatialImage) -> Opened:
    """An image of nibabel as if it were read from a file; it stays as it is.

    Raises:
        UserError: it is of a format that mrsr does not read, or cannot be used.
    """
    import nibabel

    name = Path(image.get_filename() or "the image").name
    if not isinstance(image, nibabel.Nifti1Image | nibabel.MGHImage):
        raise UserError(
            f"{name} is {type(image).__name__}; give nibabel.Nifti1Image.from_image(image)"
        )
    if image.affine is None:
        raise UserError(f"{name} has no affine; give one to nibabel.Nifti1Image")
    image = type(image)(image.dataobj, image.affine, image.header)  # a header of its own
    affine = checked_affine(name, image)
    shape = four_axes(name, image.shape)
    slope, intercept = 1.0, 0.0
    data: Any = image.dataobj
    try:
        if nibabel.is_proxy(data):
            stored = np.asanyarray(data.get_unscaled())
            slope, intercept = float(data.slope), float(data.inter)
        else:
            stored = np.asanyarray(data)
    except (OSError, EOFError, ValueError):
        raise UserError(
            f"the file of {name} is missing or truncated; load the image again"
        ) from None
    if stored.dtype == bool:
        stored = stored.astype(np.uint8)
    if stored.dtype.fields is not None or stored.dtype.kind not in "iufc":
        raise UserError(f"{name} holds colour or text voxels; give one grey value each")
    return Opened(
        name=name,
        image=image,
        affine=affine,
        stored=stored.reshape(shape, order="F"),
        slope=slope,
        intercept=intercept,
    )
