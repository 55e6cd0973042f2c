"""Read NIfTI files of any orientation into a `Volume`, losslessly and with checks.

Every source of NIfTI files (phantom, openms, ixi, folder) uses this module, so that a broken file
gives the same one-line error everywhere. By hand:

    python -c "from mrsr.datasets.nifti import read_nifti as r; \
        print(r('scan.nii.gz', subject='a', contrast='T1', organ='brain').stored.shape)"
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mrsr.datasets.volume import Volume
from mrsr.errors import UserError
from mrsr.files import atomic

SUFFIXES = (".nii", ".nii.gz")
# deflate cannot shrink by more than 1032:1, so a header that promises more than this is wrong
_MOST_COMPRESSION = 1100
_VOXEL_MM = (1e-3, 1e3)  # micrometre to metre; anything else means a broken header
_FAR_MM = 1e5  # no scanner is a hundred metres long


def is_nifti(path: str | Path) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case."""
    return Path(path).name.lower().endswith(SUFFIXES)


def stem(path: str | Path) -> str:
    """The file's name without .nii or .nii.gz."""
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_nifti(
    path: str | Path,
    *,
    subject: str,
    contrast: str,
    organ: str,
    visit: str = "",
    slice_axis: int | None = None,
) -> Volume:
    """Read one 3D scan.

    slice_axis: axis of the stored array (0, 1, 2) that becomes the first. None takes the axis with
    the largest voxel size, so that slices have the finest plane (ties: the last axis). Of the other
    two, the later becomes rows and the earlier columns. Nothing is flipped or resampled. The affine
    is permuted accordingly, and `attributes["axes"]` ("2,1,0") records which stored axis became
    slice, row and column, so that a writer can undo the permutation.

    Integer files keep their type, slope and intercept. Floating-point files become float32 with
    slope and intercept applied, complex files complex64.

    Raises:
        UserError: unreadable, not NIfTI, truncated or corrupt, not 3D, no voxels, colour, NaN or
            infinite values, the same value everywhere, or an impossible position in space.
    """
    path = Path(path)
    image = _open(path)
    shape = _shape(path, image.shape)
    affine = _affine(path, image.affine)
    stored, slope, intercept = _voxels(path, image, shape)
    _check_values(path, stored)

    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    first = _slice_axis(sizes) if slice_axis is None else slice_axis
    axes = (first, *(axis for axis in (2, 1, 0) if axis != first))
    permuted = affine.copy()
    permuted[:, :3] = affine[:, list(axes)]
    return Volume(
        stored=np.ascontiguousarray(stored.transpose(axes)),
        affine=permuted,
        voxel_size=(float(sizes[axes[0]]), float(sizes[axes[1]]), float(sizes[axes[2]])),
        subject=subject,
        contrast=contrast,
        organ=organ,
        visit=visit,
        slope=slope,
        intercept=intercept,
        attributes={"axes": ",".join(map(str, axes))},
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


def _open(path: Path) -> Any:
    """Parse the header; no voxels are read yet."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    if not path.is_file():
        raise UserError(f"no file {path}; check the path")
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise UserError(f"{path.name} is empty (0 bytes); copy or download it again")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    try:
        image = nibabel.load(path)
    except (ImageFileError, HeaderDataError, zlib.error, OSError, EOFError, ValueError, KeyError):
        raise UserError(
            _truncated(path)
            if _breaks_off(path)
            else f"{path.name} is not a readable NIfTI file; give a .nii or .nii.gz file"
        ) from None
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one too
        raise UserError(
            f"{path.name} is {type(image).__name__}, not single-file NIfTI; convert it to .nii.gz"
        )
    return image


def _breaks_off(path: Path) -> bool:
    """Whether it is a gzip file whose stream is cut off or fails its checksum."""
    with open(path, "rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            return False
    try:
        with gzip.open(path, "rb") as file:
            while file.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error):
        return True
    return False


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) > 3 and all(size == 1 for size in shape[3:]):
        shape = shape[:3]  # a time axis of length one
    if len(shape) != 3:
        raise UserError(
            f"{path.name} is {len(shape)}D {_times(shape)}, a 3D volume is needed;"
            " save the volume you want as a separate file"
        )
    if min(shape) < 1:
        raise UserError(f"{path.name} has no voxels ({_times(shape)}); remove or replace the file")
    return cast(tuple[int, int, int], tuple(int(size) for size in shape))


def _affine(path: Path, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    advice = "; correct sform/qform and voxel size, or convert the scan again"
    if not np.isfinite(affine).all():
        raise UserError(f"{path.name}: the affine has NaN or infinite values{advice}")
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    if sizes.min() < _VOXEL_MM[0] or sizes.max() > _VOXEL_MM[1]:
        found = " x ".join(f"{size:.3g}" for size in sizes)
        raise UserError(f"{path.name}: a voxel of {found} mm is impossible{advice}")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise UserError(f"{path.name}: the affine is singular, axes coincide{advice}")
    if np.abs(affine[:3, 3]).max() > _FAR_MM:
        raise UserError(f"{path.name}: the affine puts the scan over 100 m away{advice}")
    return affine


def _voxels(path: Path, image: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray, float, float]:
    """(x, y, z) array in native byte order, slope, intercept; verifies the gzip checksum."""
    dtype = np.dtype(image.get_data_dtype())
    if dtype.fields is not None or dtype.kind not in "iufc":
        raise UserError(
            f"{path.name} has colour or text voxels; save it with one grey value per voxel"
        )
    proxy = image.dataobj
    start, count = int(proxy.offset), int(np.prod(shape, dtype=object))
    end = start + count * dtype.itemsize
    on_disk = path.stat().st_size
    packed = path.name.lower().endswith(".gz")
    if end > on_disk * (_MOST_COMPRESSION if packed else 1):
        raise UserError(_truncated(path))
    try:
        with cast(BinaryIO, gzip.open(path, "rb") if packed else open(path, "rb")) as file:
            content = file.read(end)
            while packed and file.read(1 << 20):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, zlib.error):
        raise UserError(_truncated(path)) from None
    except MemoryError:
        raise UserError(f"{path.name} ({_times(shape)}) does not fit into memory") from None
    if len(content) < end:
        raise UserError(_truncated(path))
    stored = np.frombuffer(content, dtype, count, start).reshape(shape, order="F")

    slope, intercept = float(proxy.slope), float(proxy.inter)
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise UserError(
            f"{path.name}: scl_slope {slope:g} and scl_inter {intercept:g} are not a scaling;"
            " correct them or convert the scan again"
        )
    if dtype.kind in "iu":
        return stored.astype(dtype.newbyteorder("="), copy=False), slope, intercept
    with np.errstate(over="ignore", invalid="ignore"):  # _check_values finds these
        if (slope, intercept) != (1.0, 0.0):
            stored = stored * slope + intercept
        return stored.astype(np.complex64 if dtype.kind == "c" else np.float32), 1.0, 0.0


def _check_values(path: Path, stored: np.ndarray) -> None:
    if stored.dtype.kind in "fc":
        bad = int(stored.size - np.isfinite(stored).sum())
        if bad:
            raise UserError(
                f"{path.name}: {bad} of {stored.size} voxels are NaN or infinite;"
                " replace them (for example with 0) or leave the file out"
            )
    if (stored == stored.flat[0]).all():
        raise UserError(
            f"{path.name} is empty: every voxel is {stored.flat[0]:g}; leave the file out"
        )


def _slice_axis(sizes: np.ndarray) -> int:
    """The axis with the largest voxel size; of sizes within 0.1 % the last axis."""
    return int(np.flatnonzero(sizes >= sizes.max() * (1 - 1e-3))[-1])


def _truncated(path: Path) -> str:
    return f"{path.name} is truncated or corrupt; copy or download it again"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
