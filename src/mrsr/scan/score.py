"""Score an image against a reference by a metric preset; it may come from another tool.

By hand: `mrsr score PREDICTION REFERENCE --preset slice`. Each file is one of

- a scan (.nii, .nii.gz, .nii.bz2, .mgh, .mgz): slices are taken along the reference's axis of
  length 1, else that of its largest voxel size; `axis` names another;
- `.npy`: (slices, height, width) or one slice (height, width);
- `.h5`, `.hdf5`: fastMRI's `reconstruction`, `reconstruction_esc` or `reconstruction_rss`, else the
  only dataset of two or three axes; `file.h5:name` names one. Axes as in `.npy`.

Intensities are compared unchanged: nothing is scaled, so both files must have the same unit.
Negative values keep their sign (`metrics.definitions` says how they are measured); of complex
values the magnitude is used, and said.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.console import say
from mrsr.errors import UserError, one_line
from mrsr.metrics import definitions
from mrsr.params import jobs
from mrsr.params.jobs import Preset
from mrsr.scan.input import Source, check_axis, file_axes, open_scan, read_scan

KINDS = {".npy": "a NumPy array", ".h5": "an HDF5 file", ".hdf5": "an HDF5 file"}
NAMES = ("reconstruction", "reconstruction_esc", "reconstruction_rss")


def score(
    prediction: Source,
    reference: Source,
    preset: Preset | str = "slice",
    axis: int | None = None,
    volume: int | None = None,
) -> dict[str, Any]:
    """Score a volume against a reference: PSNR in dB, SSIM and NMSE.

        from mrsr import score
        score("enhanced.nii.gz", "scan.nii.gz")["psnr"]

    Args:
        prediction, reference: of the same shape and unit: a scan's file, .npy, .h5, FILE.h5:NAME
            for one dataset of it, or an image of nibabel.
        preset: the metric convention: `slice`, `volume` or `fastmri`, or your own `Preset`.
        axis: of scans (0, 1, 2), that slices are stacked along; arrays have slices first.
        volume: of 4D scans, from 0; of a scan with one volume that one is taken.

    Returns:
        `preset` (its name), one float per metric, `n_slices`, and `slices_without_signal`: how
        many slices of the reference have no value above zero (above the lowest, if negative).

    Raises:
        UserError: there is no such preset, a file cannot be read or has NaN or infinite values,
            shapes differ, or two NIfTI files have different positions.
    """
    rules = jobs.preset(preset) if isinstance(preset, str) else preset
    check_axis(axis)
    truth, affine, taken = _read(reference, axis, None, volume)
    image, other, _ = _read(prediction, axis, taken, volume)
    names = [
        str(one) if isinstance(one, Path | str) else called
        for one, called in ((prediction, "the prediction"), (reference, "the reference"))
    ]
    if image.shape != truth.shape:
        ours, theirs = ("x".join(map(str, array.shape)) for array in (image, truth))
        raise UserError(
            f"shapes differ (slices, height, width): {names[0]} is {ours}, {names[1]} is "
            f"{theirs}; resample one onto the other's grid"
        )
    if affine is not None and other is not None:
        _check_place(affine, other, truth.shape, names[0], names[1])
    values = definitions.score(image, truth, rules)
    blank = int((~definitions.has_signal(truth)).sum())
    counts = {"n_slices": len(truth), "slices_without_signal": blank}
    return {"preset": rules.name, **values, **counts}


def _read(
    source: Source, axis: int | None, taken: int | None, volume: int | None
) -> tuple[np.ndarray, np.ndarray | None, int | None]:
    """(slices, height, width) real values; of a scan also the affine and the slices' axis.

    axis: of the slices, if one was asked for. taken: that of the reference, if both are scans.
    """
    if not isinstance(source, Path | str):
        return _read_scan(source, axis, taken, volume)
    path = Path(source)
    from mrsr.raw.hdf5 import as_complex
    from mrsr.raw.scan_formats import content, format_of, is_folder, is_scan

    is_folder(path)  # raises where nobody can tell
    named = re.fullmatch(r"(.+\.(?:h5|hdf5)):(.+)", str(path), flags=re.IGNORECASE)
    file, name = (path, "") if path.exists() or not named else (Path(named[1]), named[2])
    if is_scan(file) or format_of(file) or file.is_dir():
        if not is_scan(file) and not file.is_dir():
            content(file)  # says what it is
        return _read_scan(file, axis, taken, volume)
    kind = KINDS.get(file.suffix.lower())
    if kind is None:
        raise UserError(
            f"{path} is not one of .nii, .nii.gz, .nii.bz2, .mgh, .mgz, .npy, .h5; convert it"
        )
    if not file.is_file():
        raise UserError(f"no file {file}; check the path")
    try:
        if file.suffix.lower() == ".npy":
            array = np.load(file, allow_pickle=False)
        else:
            array = _read_hdf5(file, name)
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        raise UserError(f"{file} is not {kind} that can be read: {one_line(str(error))}") from None
    except MemoryError:
        raise UserError(f"{file} does not fit into memory") from None
    array = as_complex(array)
    if array.dtype.kind not in "biufc" or array.ndim not in (2, 3) or not array.size:
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}; "
            "give numbers as (slices, height, width) or (height, width)"
        )
    if np.iscomplexobj(array):
        say(f"{path}: complex values, their magnitude is used")
        array = np.abs(array)
    if not np.isfinite(array).all():
        raise UserError(f"{path} has NaN or infinite values; replace them first")
    return (array[None] if array.ndim == 2 else array), None, None


def _read_scan(
    source: Source, axis: int | None, taken: int | None, volume: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    given = open_scan(source)
    number = None if given.scan.volumes == 1 else volume
    found = read_scan(given, taken if axis is None else axis, volume=number)
    return found.image, found.affine, file_axes(found)[0]


def _read_hdf5(path: Path, name: str) -> np.ndarray:
    """The dataset `name`; without a name fastMRI's reconstruction, or the only one of images."""
    import h5py

    from mrsr.raw.hdf5 import dataset

    images: list[str] = []

    def collect(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3):
            images.append(key)

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        wanted = [name.strip("/")] if name else [key for key in NAMES if key in images]
        wanted = wanted or (images if len(images) == 1 else [])
        found = dataset(file, wanted[0], path) if wanted else None
        if found is None:
            listed = ", ".join(images[:8]) + (", ..." if len(images) > 8 else "")
            said = f"it has no '{wanted[0]}'; " if wanted else ""
            raise UserError(
                f"{path.name}: {said}choose a dataset with {path.name}:NAME; "
                f"with two or three axes it has: {listed or 'none'}"
            )
        return np.asarray(found)


def _check_place(
    affine: np.ndarray,
    other: np.ndarray,
    shape: tuple[int, ...],
    prediction: str,
    reference: str,
) -> None:
    """Check that voxels of the same index are within half a voxel of each other."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    apart = np.abs(((other - affine) @ corners)[:3]).max()
    voxel = np.linalg.norm(affine[:3, :3], axis=0).min()
    if apart > voxel / 2:
        raise UserError(
            f"{prediction} and {reference} are {apart:.3g} mm apart by their affines; resample one "
            "onto the other, or copy the affine over if their voxels do correspond"
        )
