"""Measure any image against a reference, by a preset of `metrics`: also another tool's output.

By hand: `mrsr score PREDICTION REFERENCE --preset slice`. Each file is one of

- `.nii`, `.nii.gz`: slices are taken along the axis with the reference's largest voxel size;
- `.npy`: (slices, height, width) or one slice (height, width);
- `.h5`, `.hdf5`: fastMRI's `reconstruction`, `reconstruction_esc` or `reconstruction_rss`, else the
  only dataset of two or three axes; `file.h5:name` names one. Axes as in `.npy`.

Intensities are compared as they stand: nothing is scaled, so both files must be in one unit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError
from mrsr.metrics import definitions
from mrsr.params import jobs
from mrsr.params.jobs import Preset

KINDS = {".npy": "a NumPy array", ".h5": "an HDF5 file", ".hdf5": "an HDF5 file"}
NAMES = ("reconstruction", "reconstruction_esc", "reconstruction_rss")


def score(
    prediction: Path | str, reference: Path | str, preset: Preset | str = "slice"
) -> dict[str, Any]:
    """Score a volume against a reference: PSNR in dB, SSIM and NMSE.

        from mrsr import score
        score("enhanced.nii.gz", "scan.nii.gz")["psnr"]

    Args:
        prediction, reference: a NIfTI, NumPy or HDF5 file each: .nii, .nii.gz, .npy, .h5,
            or FILE.h5:NAME for one dataset of it; of the same shape and in one unit.
        preset: the metric convention, `slice`, `volume` or `fastmri`, or one of one's own.

    Returns:
        `preset` (its name), one float per metric, `n_slices`, and `slices_without_signal`: how
        many slices of the reference have no value above zero.

    Raises:
        UserError: there is no such preset, a file cannot be read or holds NaN or infinite values,
            shapes differ, or two NIfTI files lie at different places.
    """
    rules = jobs.preset(preset) if isinstance(preset, str) else preset
    truth, affine, axis = _read(Path(reference), None)
    volume, other, _ = _read(Path(prediction), axis)
    if volume.shape != truth.shape:
        ours, theirs = ("x".join(map(str, array.shape)) for array in (volume, truth))
        raise UserError(
            f"shapes differ (slices, height, width): {prediction} is {ours}, {reference} is "
            f"{theirs}; resample one onto the other's grid"
        )
    if affine is not None and other is not None:
        _check_place(affine, other, truth.shape, prediction, reference)
    values = definitions.score(volume, truth, rules)
    blank = int((~definitions.has_signal(truth)).sum())
    counts = {"n_slices": len(truth), "slices_without_signal": blank}
    return {"preset": rules.name, **values, **counts}


def _read(path: Path, axis: int | None) -> tuple[np.ndarray, np.ndarray | None, int | None]:
    """(slices, height, width) real values; of NIfTI also the affine and the slices' axis."""
    from mrsr.raw.nifti import is_nifti, read_nifti

    if is_nifti(path):
        volume = read_nifti(path, subject="", contrast="", organ="", slice_axis=axis)
        return volume.image, volume.affine, int(volume.attributes["axes"].split(",")[0])
    stem, _, name = str(path).partition(".h5:")
    file = Path(f"{stem}.h5") if name else path
    kind = KINDS.get(file.suffix.lower())
    if kind is None:
        raise UserError(f"{path} is not one of .nii, .nii.gz, .npy, .h5; convert it")
    if not file.is_file():
        raise UserError(f"no file {file}; check the path")
    try:
        if file.suffix.lower() == ".npy":
            array = np.load(file, allow_pickle=False)
        else:
            array = _read_hdf5(file, name)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is not {kind} that can be read: {error}") from None
    if array.dtype.kind not in "biufc" or array.ndim not in (2, 3) or not array.size:
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}; "
            "give numbers as (slices, height, width) or (height, width)"
        )
    array = array if array.ndim == 3 else array[None]
    array = np.abs(array) if np.iscomplexobj(array) else array
    if not np.isfinite(array).all():
        raise UserError(f"{path} has NaN or infinite values; replace them first")
    return array, None, None


def _read_hdf5(path: Path, name: str) -> np.ndarray:
    """The dataset `name`; without a name fastMRI's reconstruction, or the only one of images."""
    import h5py

    images: list[str] = []

    def collect(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3):
            images.append(key)

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        wanted = [name.strip("/")] if name else [key for key in NAMES if key in images]
        wanted = wanted or (images if len(images) == 1 else [])
        if not wanted or wanted[0] not in images:
            found = ", ".join(images[:8]) + (", ..." if len(images) > 8 else "")
            raise UserError(
                f"{path.name}: which dataset? name one as {path.name}:NAME; "
                f"with two or three axes it has: {found or 'none'}"
            )
        return np.asarray(file[wanted[0]])


def _check_place(
    affine: np.ndarray,
    other: np.ndarray,
    shape: tuple[int, ...],
    prediction: Path | str,
    reference: Path | str,
) -> None:
    """Voxels of one index must lie within half a voxel of each other, or the comparison is void."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    apart = np.abs(((other - affine) @ corners)[:3]).max()
    voxel = np.linalg.norm(affine[:3, :3], axis=0).min()
    if apart > voxel / 2:
        raise UserError(
            f"{prediction} and {reference} lie {apart:.3g} mm apart by their affines; resample one "
            "onto the other, or copy the affine over if their voxels do correspond"
        )
