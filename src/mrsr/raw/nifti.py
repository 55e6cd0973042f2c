"""NIfTI files, checked and read without loss, in any orientation -> `Volume`.

All NIfTI files are read here, so a broken one gives the same one-line message everywhere. By hand:

    python -c "from mrsr.raw.nifti import read_nifti as r; print(r('a.nii.gz').stored.shape)"
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError
from mrsr.files import atomic
from mrsr.raw.volume import Volume, checked

SUFFIXES = (".nii.gz", ".nii")
_VOXEL_MM = (1e-3, 1e3)  # micrometre to metre; outside it a header is broken
_FAR_MM = 1e5  # no scanner is a hundred metres long


def is_nifti(path: str | Path) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case."""
    return Path(path).name.lower().endswith(SUFFIXES)


def stem(path: str | Path) -> str:
    """The file's name without .nii or .nii.gz."""
    name = Path(path).name
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def read_nifti(path: str | Path, *, slice_axis: int | None = None, **names: Any) -> Volume:
    """Read one 3D scan.

    names: subject, contrast, organ and visit of the volume.
    slice_axis: axis of the stored array (0, 1, 2) that becomes the first one; None takes the axis
    with the largest voxel size, that is, slices lie in the finest plane (ties: the last axis). Of
    the other two, the later becomes rows and the earlier columns. Nothing is flipped or resampled:
    the affine is permuted along, and `attributes["axes"]` ("2,1,0") says which stored axis became
    slice, row and column, so that a writer can put an array back.

    Integer files keep their type, slope and intercept. Floating-point files become float32 with
    slope and intercept applied, complex files complex64.

    Raises:
        UserError: unreadable, not NIfTI, truncated or corrupt, not 3D, no voxels, colour, NaN or
            infinite values, the same value everywhere, or an impossible position in space.
    """
    from nibabel.affines import voxel_sizes

    path = Path(path)
    size = _unpacked_size(path)
    image = _open(path)
    affine = _affine(path, image.affine)
    stored, slope, intercept = _voxels(path, image, size)
    sizes = voxel_sizes(affine)
    # the thickest voxels; sizes within a thousandth tie, and then it is the last axis
    thickest = int(np.flatnonzero(sizes >= sizes.max() * (1 - 1e-3))[-1])
    first = thickest if slice_axis is None else slice_axis
    axes = (first, *(axis for axis in (2, 1, 0) if axis != first))
    return Volume(
        stored=np.ascontiguousarray(checked(stored, path.name).transpose(axes)),
        affine=affine[:, [*axes, 3]],
        voxel_size=(float(sizes[axes[0]]), float(sizes[axes[1]]), float(sizes[axes[2]])),
        slope=slope,
        intercept=intercept,
        attributes={"axes": ",".join(map(str, axes))},
        **names,
    )


def write_nifti(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI-1 file atomically; the same array gives the same bytes.

    array: (x, y, z) in NIfTI's own axis order, its type is the file's type.
    affine: (4, 4), maps (x, y, z, 1) to RAS+ millimetres.
    """
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    content = image.to_bytes()
    with atomic(path) as temporary:
        if Path(path).name.lower().endswith(".gz"):
            # leave time and name out of the gzip header: they would change the checksum
            with (
                open(temporary, "wb") as raw,
                gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
            ):
                packed.write(content)
        else:
            temporary.write_bytes(content)


def _unpacked_size(path: Path) -> int:
    """The file's bytes, unpacked: a gzip file is read to its end, where its checksum is."""
    if not path.is_file():
        raise UserError(f"no file {path}; check the path")
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if not start:
            raise UserError(f"{path.name} has no content (0 bytes); copy or download it again")
        if not path.name.lower().endswith(".gz"):
            return path.stat().st_size
        if start != b"\x1f\x8b":
            raise _no_nifti(path)
        with gzip.open(path, "rb") as unpacked:
            return sum(map(len, iter(lambda: unpacked.read(1 << 20), b"")))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise _truncated(path) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from None


def _open(path: Path) -> Any:
    """Parse the header; no voxels are read yet."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image = nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, KeyError):
        raise _no_nifti(path) from None
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one too
        raise UserError(
            f"{path.name} is {type(image).__name__}, not single-file NIfTI; convert it to .nii.gz"
        )
    return image


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) > 3 and all(size == 1 for size in shape[3:]):
        shape = shape[:3]  # a time axis of length one
    if len(shape) != 3:
        raise UserError(
            f"{path.name} is {len(shape)}D {_times(shape)}, a 3D volume is needed;"
            " save the volume you want as a separate file"
        )
    if min(shape) < 1:
        raise UserError(f"{path.name} has no voxels ({_times(shape)}); remove or replace the file")
    return tuple(int(size) for size in shape)


def _affine(path: Path, affine: np.ndarray) -> np.ndarray:
    from nibabel.affines import voxel_sizes

    affine = np.asarray(affine, dtype=np.float64)
    advice = "; correct sform/qform and voxel size, or convert the scan again"
    if not np.isfinite(affine).all():
        raise UserError(f"{path.name}: the affine holds NaN or infinite values{advice}")
    sizes = voxel_sizes(affine)
    if sizes.min() < _VOXEL_MM[0] or sizes.max() > _VOXEL_MM[1]:
        found = " x ".join(f"{size:.3g}" for size in sizes)
        raise UserError(f"{path.name}: a voxel of {found} mm is impossible{advice}")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise UserError(f"{path.name}: the affine is singular, axes coincide{advice}")
    if np.abs(affine[:3, 3]).max() > _FAR_MM:
        raise UserError(f"{path.name}: the affine puts the scan over 100 m away{advice}")
    return affine


def _voxels(path: Path, image: Any, size: int) -> tuple[np.ndarray, float, float]:
    """(x, y, z) array, slope, intercept of an image whose file has `size` bytes, unpacked."""
    shape = _shape(path, image.shape)
    dtype, proxy = np.dtype(image.get_data_dtype()), image.dataobj
    if dtype.fields is not None or dtype.kind not in "iufc":
        raise UserError(f"{path.name} holds colour or text voxels; save it as one grey value each")
    if int(proxy.offset) + math.prod(shape) * dtype.itemsize > size:
        raise _truncated(path)
    try:
        stored = np.array(proxy.get_unscaled()).reshape(shape)  # a copy: the file may be mapped
    except MemoryError:
        raise UserError(f"{path.name} ({_times(shape)}) does not fit into memory") from None
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise UserError(
            f"{path.name}: scl_slope {slope:g} and scl_inter {intercept:g} are not a scaling;"
            " correct them or convert the scan again"
        )
    if dtype.kind in "fc" and (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # found when the values are checked
            return stored * slope + intercept, 1.0, 0.0
    return stored, slope, intercept


def _truncated(path: Path) -> UserError:
    return UserError(f"{path.name} is truncated or corrupt; copy or download it again")


def _no_nifti(path: Path) -> UserError:
    return UserError(
        f"{path.name} is not a NIfTI file that can be read; give a .nii or .nii.gz file"
    )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
