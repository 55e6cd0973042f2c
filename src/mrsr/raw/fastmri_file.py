"""One single-coil file in fastMRI's HDF5 layout -> complex `Volume`.

The layout (Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI",
arXiv:1811.08839, section 4): dataset `kspace` (slices, readout, phase) complex64, dataset
`ismrmrd_header` (XML), attributes `acquisition` (CORPD_FBK, CORPDFS_FBK), `max`, `norm`,
`patient_id`. Used by `fastmri` (the real files) and by `phantom` (its procedural knee). By hand:

    python -c "from mrsr.raw.fastmri_file import read_fastmri_file as r; \
        print(r('file1000001.h5').stored.shape)"
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrsr.errors import UserError
from mrsr.raw.hdf5 import as_complex, dataset, is_complex
from mrsr.raw.volume import Volume, checked

_PLANE = (-2, -1)
_LONGEST_HEADER = 1 << 20  # real ones have a few kilobytes


class Recon(NamedTuple):
    """The image that the header describes for the k-space."""

    shape: tuple[int, int]  # (rows along readout, columns along phase)
    voxel_size: tuple[float, float, float]  # millimetres: slice, row, column


def read_fastmri_file(path: str | Path, **names: Any) -> Volume:
    """Read one file: inverse FFT of each slice, cropped about the centre to the header's matrix.

    The transform is centred and orthonormal, so that the magnitude equals the publisher's
    `reconstruction_esc`. The file does not say where the slices are: the affine assumes a
    coronal stack centred on the origin (the knee protocol), and `attributes["position"]` says so.

    names: subject, contrast, organ and visit of the volume.

    Returns:
        Volume with complex64 `stored` (slices, rows, columns).

    Raises:
        UserError: unreadable or truncated, a missing key, multi-coil, NaN or infinite values, all
            zero, or not an ISMRMRD header.
    """
    path = Path(path)
    with _opened(path) as file:
        recon = _recon(path, _header(path, file))
        kspace = dataset(file, "kspace", path)
        if kspace is None:
            raise UserError(
                f"{path.name} has no dataset 'kspace'; give single-coil train or val files"
            )
        if kspace.ndim != 3 or not is_complex(kspace.dtype) or min(kspace.shape) < 1:
            raise UserError(
                f"{path.name}: kspace is {kspace.dtype} {kspace.shape}, but must be complex"
                " (slices, readout, phase); give single-coil files"
            )
        shape = tuple(min(a, b) for a, b in zip(recon.shape, kspace.shape[1:], strict=True))
        stored = np.empty((kspace.shape[0], *shape), np.complex64)
        for index in range(kspace.shape[0]):
            lines = as_complex(kspace[index]).astype(np.complex64)
            stored[index] = central(image_of(lines), shape)
        attributes = {
            name: _text(file.attrs[name])
            for name in ("acquisition", "patient_id")
            if name in file.attrs
        }
    return Volume(
        stored=checked(stored, path.name),
        affine=coronal_affine(stored.shape, recon.voxel_size),
        voxel_size=recon.voxel_size,
        attributes=attributes | {"position": "assumed coronal about the origin"},
        **names,
    )


def describe(path: str | Path) -> tuple[str, str, int]:
    """Acquisition (CORPD_FBK: PD, CORPDFS_FBK: fat-suppressed PD), patient_id, number of slices.

    The publisher's pseudonym `patient_id` is the same in all files of a person.
    """
    path = Path(path)
    with _opened(path) as file:
        for name in ("acquisition", "patient_id"):
            if name not in file.attrs:
                raise UserError(
                    f"{path.name} has no attribute '{name}'; give files in fastMRI's layout"
                )
        kspace = dataset(file, "kspace", path)
        if kspace is None or not kspace.shape:
            raise UserError(f"{path.name} has no readable kspace; copy or download it again")
        return _text(file.attrs["acquisition"]), _text(file.attrs["patient_id"]), len(kspace)


def image_of(kspace: np.ndarray) -> np.ndarray:
    """(..., readout, phase) k-space -> image: centred orthonormal inverse FFT."""
    shifted = np.fft.ifftshift(kspace, axes=_PLANE)
    return np.fft.fftshift(np.fft.ifft2(shifted, axes=_PLANE, norm="ortho"), axes=_PLANE)


def kspace_of(image: np.ndarray) -> np.ndarray:
    """(..., rows, columns) image -> k-space: the inverse of `image_of`."""
    shifted = np.fft.ifftshift(image, axes=_PLANE)
    return np.fft.fftshift(np.fft.fft2(shifted, axes=_PLANE, norm="ortho"), axes=_PLANE)


def central(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The central (rows, columns) of (..., rows, columns), DC pixel on DC pixel."""
    rows, columns = (
        slice(have // 2 - want // 2, have // 2 - want // 2 + want)
        for have, want in zip(image.shape[-2:], shape, strict=True)
    )
    return image[..., rows, columns]


def coronal_affine(shape: tuple[int, ...], voxel_size: tuple[float, float, float]) -> np.ndarray:
    """(4, 4): slices run from front to back, rows from head to foot, columns to the left."""
    affine = np.zeros((4, 4))
    affine[1, 0] = -voxel_size[0]
    affine[2, 1] = -voxel_size[1]
    affine[0, 2] = -voxel_size[2]
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    affine[3, 3] = 1
    return affine


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an HDF5 file; read errors, on opening or inside the block, become one line."""
    import h5py

    if not path.is_file():
        raise UserError(f"no file {path}; check the path")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError):
        raise UserError(
            f"{path.name} is not HDF5, truncated or corrupt; copy or download it again"
        ) from None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _header(path: Path, file: Any) -> bytes:
    found = dataset(file, "ismrmrd_header", path)
    if found is None or found.shape != ():
        raise UserError(f"{path.name} has no text 'ismrmrd_header'; give files in fastMRI's layout")
    value = found[()]
    header = value if isinstance(value, bytes) else str(value).encode()
    # a document type could include other files or expand endlessly; ISMRMRD headers have none
    if len(header) > _LONGEST_HEADER or b"<!DOCTYPE" in header or b"<!ENTITY" in header:
        raise UserError(f"{path.name}: ismrmrd_header is not a plain ISMRMRD header")
    return header


def _recon(path: Path, header: bytes) -> Recon:
    import ismrmrd.xsd

    try:
        space = ismrmrd.xsd.CreateFromDocument(header).encoding[0].reconSpace
        matrix, field = space.matrixSize, space.fieldOfView_mm
        shape = (int(matrix.x), int(matrix.y))
        sizes = (field.z / int(matrix.z), field.x / shape[0], field.y / shape[1])
    except Exception as error:  # the parser may raise anything
        raise UserError(
            f"{path.name}: ismrmrd_header cannot be parsed ({type(error).__name__});"
            " copy or download the file again"
        ) from None
    if min(shape) < 1 or not np.isfinite(sizes).all() or min(sizes) <= 0:
        raise UserError(
            f"{path.name}: ismrmrd_header has matrix {shape} and voxels of {sizes} mm,"
            " which is impossible; copy or download the file again"
        )
    return Recon(shape, (float(sizes[0]), float(sizes[1]), float(sizes[2])))
