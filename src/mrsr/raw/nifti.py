"""NIfTI and FreeSurfer (MGH) files, checked and read without loss, any orientation -> `Volume`.

All scans of these formats are read here, so a broken one gives the same one-line message
everywhere. By hand:

    python -c "from mrsr.raw.nifti import read_nifti as r; print(r('a.nii.gz').stored.shape)"
"""

from __future__ import annotations

import gzip
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError, one_line
from mrsr.files import atomic
from mrsr.raw.scan_formats import content, is_nifti, is_scan, not_a_scan, stem, truncated
from mrsr.raw.volume import Volume, check_range, checked

__all__ = [
    "Opened",
    "is_nifti",
    "is_scan",
    "load",
    "opened",
    "read_nifti",
    "stem",
    "volume_of",
    "write_nifti",
]

_VOXEL_MM = (1e-3, 1e3)  # micrometre to metre; outside it a header is broken
_FAR_MM = 1e5  # no scanner is a hundred metres long
_UNITS_MM = {1: 1e3, 2: 1.0, 3: 1e-3}  # xyzt_units: metre, millimetre, micrometre; else mm
_NEAR = 0.8  # the second-thickest voxel size, of the thickest: above it the slice axis is a guess


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A scan whose header is checked and whose voxels are not yet.

    image: nibabel's, for its header. affine: (4, 4) to RAS+ millimetres. stored: (x, y, z, volumes)
    as the file has them; physical value = stored * slope + intercept.
    """

    name: str
    image: Any
    affine: np.ndarray
    stored: np.ndarray
    slope: float
    intercept: float

    @property
    def volumes(self) -> int:
        """How many 3D volumes it holds."""
        return int(self.stored.shape[3])


def opened(path: str | Path) -> Opened:
    """A scan of two, three or four axes, or more of which the others have length 1.

    Raises:
        UserError: as `read_nifti`, but for what is wrong with the values.
    """
    path = Path(path)
    data = content(path)
    image = load(path)
    affine = checked_affine(path.name, image)
    shape = four_axes(path.name, image.shape)
    dtype, proxy = np.dtype(image.get_data_dtype()), image.dataobj
    if dtype.fields is not None or dtype.kind not in "iufc":
        raise UserError(f"{path.name} holds colour or text voxels; save it as one grey value each")
    if int(proxy.offset) + math.prod(shape) * dtype.itemsize > len(data):
        raise truncated(path)
    stored = np.ndarray(shape, dtype, data, int(proxy.offset), order="F")
    slope, intercept = float(proxy.slope), float(proxy.inter)
    if "scl_slope" in image.header:  # nibabel takes an infinite slope for none
        own = image.header_class.from_fileobj(io.BytesIO(data), check=False)["scl_slope"]
        slope = float(own) if np.isinf(own) else slope
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise UserError(
            f"{path.name}: scl_slope {slope:g} and scl_inter {intercept:g} are not a scaling;"
            " correct them or convert the scan again"
        )
    return Opened(
        name=path.name,
        image=image,
        affine=affine,
        stored=stored,
        slope=slope,
        intercept=intercept,
    )


def read_nifti(path: str | Path, *, slice_axis: int | None = None, **names: Any) -> Volume:
    """Read one scan: 3D, or 2D as a scan of one slice.

    names: subject, contrast, organ and visit of the volume.
    slice_axis: axis of the stored array (0, 1, 2) that becomes the first one. None takes an axis of
    length 1, else the one with the largest voxel size, that is, slices lie in the finest plane
    (ties: the last axis). Of the other two, the later becomes rows and the earlier columns. Nothing
    is flipped or resampled: the affine is permuted along.

    `attributes["axes"]` ("2,1,0") says which stored axis became slice, row and column, so that a
    writer can put an array back; `attributes["guessed"]` is there if the voxels are so nearly
    isotropic that the choice is a guess, and says which was taken.

    Integer files keep their type, slope and intercept. Floating-point files become float32 with
    slope and intercept applied, complex files complex64. Millimetres are meant in the affine
    whatever unit the header has.

    Raises:
        UserError: unreadable, of another format, truncated or corrupt, not 2D or 3D, no voxels,
            colour, NaN or infinite values, the same value everywhere, values beyond float32, or an
            impossible position in space.
    """
    return volume_of(opened(path), slice_axis=slice_axis, **names)


def volume_of(
    scan: Opened,
    number: int | None = None,
    *,
    slice_axis: int | None = None,
    zero_nan: bool = False,
    **names: Any,
) -> Volume:
    """One volume of a scan, as `read_nifti` gives it.

    number: of a scan of several, from 0; None: it must have one.
    zero_nan: read NaN as 0; `attributes["nan"]` says how many there were.

    Raises:
        UserError: as `read_nifti`, or there is no such volume.
    """
    from nibabel.affines import voxel_sizes

    if number is None and scan.volumes > 1:
        raise UserError(
            f"{scan.name} is 4D {_times(scan.image.shape)}, a 3D volume is needed;"
            " save the volume you want as a separate file"
        )
    number = number or 0
    if not 0 <= number < scan.volumes:
        raise UserError(
            f"{scan.name} has no volume {number}; it has {scan.volumes}, counted from 0"
        )
    name = scan.name if scan.volumes == 1 else f"{scan.name}, volume {number}"
    stored, slope, intercept = _voxels(scan, number)
    attributes = {}
    if zero_nan and stored.dtype.kind in "fc" and (missing := int(np.isnan(stored).sum())):
        stored[np.isnan(stored)] = 0
        attributes["nan"] = str(missing)
    stored = checked(stored, name)
    check_range(stored, slope, intercept, name)
    sizes = voxel_sizes(scan.affine)
    guessed = ""
    if slice_axis is None:
        slice_axis, guessed = _slice_axis(stored.shape, sizes, scan.affine)
    axes = (slice_axis, *(axis for axis in (2, 1, 0) if axis != slice_axis))
    if min(stored.shape[axis] for axis in axes[1:]) == 1:
        raise UserError(
            f"{name} ({_times(stored.shape)}) has slices of one line along axis {slice_axis}; "
            "an image is needed"
        )
    attributes["axes"] = ",".join(map(str, axes))
    return Volume(
        stored=np.ascontiguousarray(stored.transpose(axes)),
        affine=scan.affine[:, [*axes, 3]],
        voxel_size=(float(sizes[axes[0]]), float(sizes[axes[1]]), float(sizes[axes[2]])),
        slope=slope,
        intercept=intercept,
        attributes=attributes | ({"guessed": guessed} if guessed else {}),
        **names,
    )


def _slice_axis(shape: tuple[int, ...], sizes: np.ndarray, affine: np.ndarray) -> tuple[int, str]:
    """The axis that slices are stacked along, and a sentence about it where it is a guess."""
    from nibabel.orientations import aff2axcodes

    single = [axis for axis in range(3) if shape[axis] == 1]
    among = single or [0, 1, 2]
    # the thickest voxels; sizes within a thousandth tie, and then it is the last axis
    thick = max(sizes[axis] for axis in among) * (1 - 1e-3)
    first = [axis for axis in among if sizes[axis] >= thick][-1]
    if single or sorted(sizes)[1] < _NEAR * sizes.max():
        return first, ""
    planes = {"L": "sagittal", "R": "sagittal", "A": "coronal", "P": "coronal"}
    plane = planes.get(aff2axcodes(affine)[first], "axial")
    return first, f"axis {first} ({plane} slices)"


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


def load(path: Path) -> Any:
    """The image's header, by nibabel; no voxels are read yet.

    Raises:
        UserError: not a scan that `read_nifti` reads, or a header that makes no sense.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        if path.suffix.lower() in (".mgh", ".mgz"):  # nibabel would leave the file open
            image: Any = nibabel.MGHImage.from_bytes(content(path))
        else:
            image = nibabel.load(path)
    except UserError:
        raise
    except (ImageFileError, OSError, EOFError, KeyError):
        raise not_a_scan(path) from None
    except Exception as error:  # HeaderDataError, ValueError and more, as the header has it
        raise UserError(
            f"{path.name} has a header that makes no sense ({one_line(str(error))}); correct it, or"
            " convert the scan again"
        ) from None
    if not isinstance(image, nibabel.Nifti1Image | nibabel.MGHImage):  # Nifti2Image is one too
        raise UserError(
            f"{path.name} is {type(image).__name__}, not single-file NIfTI; convert it to .nii.gz"
        )
    return image


def four_axes(name: str, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The shape as (x, y, z, volumes).

    Raises:
        UserError: one axis, or five that are longer than 1, or no voxels.
    """
    given = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]  # a time axis of length one
    if len(shape) == 2:
        shape = (*shape, 1)  # a scan of one slice
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])  # components without a time axis
    if len(shape) not in (3, 4):
        raise UserError(
            f"{name} is {len(given)}D {_times(given)}, a 3D volume is needed;"
            " save the volume you want as a separate file"
        )
    if min(shape) < 1:
        raise UserError(f"{name} has no voxels ({_times(shape)}); remove or replace the file")
    x, y, z, volumes = (int(size) for size in (*shape, 1)[:4])
    return x, y, z, volumes


def checked_affine(name: str, image: Any) -> np.ndarray:
    """(4, 4) from voxels of an image of nibabel to millimetres, in the unit that its header gives.

    Raises:
        UserError: it is impossible: no numbers, no size, no volume, or too far away.
    """
    from nibabel.affines import voxel_sizes

    affine = np.array(image.affine, dtype=np.float64)
    advice = "; correct sform/qform and voxel size, or convert the scan again"
    if "xyzt_units" in image.header:
        code = int(image.header["xyzt_units"]) & 7
        affine[:3] *= _UNITS_MM.get(code, 1.0)
        if code in (1, 3):
            advice = f" (its header says {'metres' if code == 1 else 'microns'}){advice}"
    if not np.isfinite(affine).all():
        raise UserError(f"{name}: the affine holds NaN or infinite values{advice}")
    sizes = voxel_sizes(affine)
    if sizes.min() < _VOXEL_MM[0] or sizes.max() > _VOXEL_MM[1]:
        found = " x ".join(f"{size:.3g}" for size in sizes)
        raise UserError(f"{name}: a voxel of {found} mm is impossible{advice}")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise UserError(f"{name}: the affine is singular, axes coincide{advice}")
    if np.abs(affine[:3, 3]).max() > _FAR_MM:
        raise UserError(f"{name}: the affine puts the scan over 100 m away{advice}")
    return affine


def _voxels(scan: Opened, number: int) -> tuple[np.ndarray, float, float]:
    """(x, y, z) array of its own, slope and intercept of one volume."""
    slope, intercept = scan.slope, scan.intercept
    try:  # a copy: the file's content cannot be written to, and need not stay
        stored = scan.stored[..., number].copy(order="K")
    except MemoryError:
        raise UserError(
            f"{scan.name} ({_times(scan.image.shape)}) does not fit into memory"
        ) from None
    if stored.dtype.kind in "fc" and (slope, intercept) != (1.0, 0.0):
        wide = np.complex128 if stored.dtype.kind == "c" else np.float64
        with np.errstate(over="ignore", invalid="ignore"):  # found when the values are checked
            return stored.astype(wide) * slope + intercept, 1.0, 0.0
    return stored, slope, intercept


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
