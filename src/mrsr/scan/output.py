"""Write a scan with another in-plane voxel size and the header of the original scan.

`check_output` and `header_for` come before the first slice, so that nothing but a full disk can
fail after all the work. `write_slices` packs and writes while the next slices are made.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import atomic

MOST_VOXELS = 32767  # of an axis in NIfTI-1


def default_output(source: Path) -> Path:
    """Where the enhanced scan goes if nobody says: beside the file or folder."""
    from mrsr.raw.nifti import is_scan, stem

    name = stem(source) if is_scan(source) else own_name(source)
    return beside(source, f"{name}_mrsr.nii.gz")


def own_name(source: Path) -> str:
    """The name of a file or folder, also of `.` and `..`."""
    return source.name if source.name not in ("", "..") else source.resolve().name


def beside(source: Path, name: str) -> Path:
    """A path beside a file or folder, also beside `.` and `..`."""
    return source.with_name(name) if source.name not in ("", "..") else source / ".." / name


def check_output(output: Path, overwrite: bool, *also: Path, read: Sequence[object] = ()) -> None:
    """Refuse an output that has no NIfTI suffix, already exists or cannot be written.

    also: files that are written with it. read: what the output is made from; a file of it is not
    replaced, whatever was asked.
    """
    from mrsr.raw.nifti import is_nifti

    if not is_nifti(output):
        raise UserError(f"output {output} must be named .nii or .nii.gz")
    try:
        for file in (output, *also):
            if file.is_dir():
                raise UserError(f"output {file} is a folder; give the name of a file")
        if any(_same(output, one) for one in read):
            raise UserError(f"output {output} is an input as well; give another name")
        for file in (output, *also):
            if os.path.lexists(file) and not overwrite:
                raise UserError(f"{file} exists; give another name, or --overwrite to replace it")
        folder = output.parent
        with contextlib.suppress(FileNotFoundError):
            output.stat()  # fails if no file can have this name, such as one that is too long
        while not os.path.lexists(folder):  # `atomic` makes it
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {output}: {reason}; check folder and disk") from None


def _same(output: Path, source: object) -> bool:
    """Whether both are one file that is there, under whatever names."""
    if not isinstance(source, str | Path):
        return False
    with contextlib.suppress(OSError):
        return output.samefile(source)
    return False


def finer(plane: list[int], scale: float) -> np.ndarray:
    """(4, 4), from voxels that are `scale` times finer along the axes in `plane` to the old ones.

    The centre of new voxel j is at old voxel (j + 1/2) / scale - 1/2.
    """
    refine = np.eye(4)
    for axis in plane:
        refine[axis, axis] = 1 / scale
        refine[axis, 3] = -(1 - 1 / scale) / 2
    return refine


def check_finite(image: np.ndarray, name: str) -> None:
    """Raise a `UserError` if what was made of the scan `name` left the range of float32."""
    if not np.isfinite(image).all():
        raise UserError(
            f"{name} has values so large that the output would be beyond float32; divide them first"
        )


def header_for(
    source: Path | Any,
    plane: list[int],
    scale: float,
    *,
    name: str = "",
    volumes: int = 1,
    dtype: Any = np.float32,
    scaling: tuple[float, float] = (1, 0),
) -> Any:
    """The header of the output: the source's with both of its transforms, finer in `plane`.

    A scale below 1 makes voxels larger. Of an MGH file, a new NIfTI header with its position. A
    qform that is no rotation is made anew from the sform; an axis that NIfTI-1 cannot count gives
    NIfTI-2. Both are said.

    source: a file, or an image of nibabel, which `name` calls. volumes, dtype, and scaling (slope,
    intercept): of the output.

    Raises:
        UserError: the source has no header that can be written.
    """
    import nibabel
    from nibabel.affines import voxel_sizes

    from mrsr.raw.nifti import load

    loaded = load(source) if isinstance(source, Path) else source
    name = name or getattr(source, "name", "the image")
    refine = finer(plane, scale)
    shape = [int(size) for size in loaded.shape[:3]]
    shape = [math.floor(size * scale + 0.5) if axis in plane else size
             for axis, size in enumerate(shape)]  # fmt: skip
    if isinstance(loaded, nibabel.MGHImage):
        header = nibabel.Nifti1Header()
        header.set_xyzt_units("mm", "sec")
        header.set_sform(loaded.affine, 1)
        header.set_qform(loaded.affine, 1)
    else:
        header = loaded.header.copy()
    if max(shape) > MOST_VOXELS and not isinstance(header, nibabel.Nifti2Header):
        say(f"{name}: the output has an axis of {max(shape)} voxels, more than NIfTI-1 can "
            "count; it is written as NIfTI-2")  # fmt: skip
        header = _nifti2(header)
    sform, scode = header.get_sform(), int(header["sform_code"])
    qform, qcode = _qform(header), int(header["qform_code"])
    if qcode and qform is None:
        say(f"warning: {name}: its qform is no rotation; the output's is made from the sform")
        qform = sform  # without one, the scan could not be read
    zooms = np.asarray(header.get_zooms()[:3], np.float64)
    zooms = np.append(zooms, np.ones(3 - len(zooms)))  # a 2D file
    zooms = np.where(np.isfinite(zooms) & (zooms > 0), zooms, voxel_sizes(loaded.affine))
    zooms[plane] /= scale
    step = _between_volumes(loaded)
    shape = shape[: max(2, min(3, len(loaded.shape)))]
    header.set_data_shape([*shape, volumes] if volumes > 1 else shape)
    header.set_data_dtype(dtype)
    header.set_slope_inter(*scaling)
    header["pixdim"][1:4] = zooms
    if volumes > 1:
        header["pixdim"][4] = step
    if qcode:
        header.set_qform(qform @ refine, 1)
        header["qform_code"] = qcode  # whatever it is
    if scode:
        header.set_sform(sform @ refine, 1)
        header["sform_code"] = scode
    return header


def write_slices(output: Path, slices: Iterator[np.ndarray], header: Any, axes: list[int]) -> None:
    """Write slices, a few (n, rows, columns) at a time, with a header that `header_for` made.

    Slices of several volumes follow each other; a piece has those of one.
    axes: which axis of the file are slices, rows and columns. If slices are stacked along the
    file's last axis, each goes to the file while `slices` makes the next; else a volume's are put
    into one array first.
    """
    with atomic(output) as temporary, open(temporary, "wb") as raw, _packed(output, raw) as file:
        _stream(file, slices, header, axes)


def as_image(slices: Iterator[np.ndarray], header: Any, axes: list[int]) -> Any:
    """The image of nibabel that a file of `write_slices` would be, in memory."""
    content = io.BytesIO()
    _stream(content, slices, header, axes)
    content.seek(0)
    return _kind(header).from_stream(content)


def _stream(file: Any, slices: Iterator[np.ndarray], header: Any, axes: list[int]) -> None:
    pieces = slices if axes == [2, 1, 0] else _in_files_order(slices, header, axes)
    file.write(_head(header))
    with ThreadPoolExecutor(1) as behind:
        last: Future[Any] | None = None
        for piece in pieces:
            stored = np.ascontiguousarray(piece, header.get_data_dtype())  # in its byte order
            if last:  # no more than one waits, whatever is faster
                last.result()
            last = behind.submit(file.write, stored.data)
        if last:
            last.result()


def _in_files_order(
    slices: Iterator[np.ndarray], header: Any, axes: list[int]
) -> Iterator[np.ndarray]:
    """(z, y, x) of each volume: the order of a NIfTI file, whose first axis is the fastest."""
    *shape, volumes = _shape(header)
    for _ in range(volumes):
        whole = np.empty(shape[::-1], header.get_data_dtype())
        # axis a of the file is axis 2 - a here
        view, start = whole.transpose([2 - axis for axis in axes]), 0
        while start < len(view):
            piece = next(slices)
            view[start : start + len(piece)] = piece
            start += len(piece)
        yield whole


def _shape(header: Any) -> tuple[int, ...]:
    """(x, y, z, volumes) of a header that may be of a 2D file."""
    shape = tuple(int(size) for size in header.get_data_shape())
    return shape + (1,) * (4 - len(shape))


def _between_volumes(image: Any) -> float:
    """The step along the fourth axis; of MGH files its milliseconds as NIfTI's seconds."""
    import nibabel

    zooms = image.header.get_zooms()
    if len(zooms) < 4:
        return 1.0
    step = float(zooms[3]) / (1000 if isinstance(image, nibabel.MGHImage) else 1)
    return step if np.isfinite(step) and step >= 0 else 1.0


def _packed(output: Path, raw: BinaryIO) -> contextlib.AbstractContextManager[Any]:
    """A file to write to, that packs if `output` is named so; without time and name in it."""
    if output.name.lower().endswith(".gz"):
        return gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0)
    return contextlib.nullcontext(raw)


def _kind(header: Any) -> Any:
    import nibabel

    return nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image


def _head(header: Any) -> bytes:
    """What a NIfTI file holds before its voxels, as nibabel writes it."""
    shape = header.get_data_shape()
    # the header's own best transform: nibabel then keeps its codes; zeros that take no memory
    zeros = np.broadcast_to(header.get_data_dtype().type(0), shape)
    image = _kind(header)(zeros, header.get_best_affine(), header)
    image.update_header()
    found = image.header
    slope, intercept = header.get_slope_inter()
    found.set_slope_inter(1 if slope is None else slope, intercept or 0)
    content = io.BytesIO()
    found.write_to(content)
    return content.getvalue().ljust(int(found.get_data_offset()), b"\0")


def _qform(header: Any) -> np.ndarray | None:
    """The header's qform, or None if it is not one."""
    try:
        found = header.get_qform()
    except Exception:  # nibabel raises several for several fields
        return None
    usable = np.isfinite(found).all() and abs(np.linalg.det(found[:3, :3])) > 0
    return np.asarray(found) if usable else None


def _nifti2(header: Any) -> Any:
    """A NIfTI-1 header's fields in a NIfTI-2 header."""
    import nibabel

    found = nibabel.Nifti2Header()
    for name in list(header.keys()):
        if name in found and name not in ("sizeof_hdr", "magic", "vox_offset"):
            found[name] = header[name]
    found.extensions = header.extensions
    return found
