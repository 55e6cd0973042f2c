"""Write a scan with voxels of another size in plane, under the header of the scan it comes from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError
from mrsr.files import atomic


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that has no NIfTI suffix or already exists."""
    from mrsr.raw.nifti import is_nifti

    if not is_nifti(output):
        raise UserError(f"output {output} must be named .nii or .nii.gz")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; give another name, or --overwrite to replace it")


def finer(plane: list[int], scale: float) -> np.ndarray:
    """(4, 4), from voxels that are `scale` times finer along the axes in `plane` to the old ones.

    New voxel j covers a part of old voxel (j + 1/2) / scale - 1/2.
    """
    refine = np.eye(4)
    for axis in plane:
        refine[axis, axis] = 1 / scale
        refine[axis, 3] = -(1 - 1 / scale) / 2
    return refine


def write_scan(
    output: Path, array: np.ndarray, source: Path, plane: list[int], scale: float
) -> None:
    """Write (x, y, z) with the source's header and both of its transforms, finer in `plane`.

    A scale below 1 makes voxels larger.
    """
    import nibabel

    loaded: Any = nibabel.load(source)
    header = loaded.header.copy()
    refine = finer(plane, scale)
    zooms = list(header.get_zooms()[:3])
    for axis in plane:
        zooms[axis] /= scale
    qform, qcode = header.get_qform(coded=True)
    sform, scode = header.get_sform(coded=True)
    header.set_data_shape(array.shape)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header.set_zooms(zooms)
    if qcode:
        header.set_qform(qform @ refine, int(qcode))
    if scode:
        header.set_sform(sform @ refine, int(scode))
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    # the header's own best transform: nibabel then keeps its codes
    image = kind(np.asarray(array, np.float32), header.get_best_affine(), header)
    content = image.to_bytes()
    if output.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=3, mtime=0)
    with atomic(output) as temporary:
        temporary.write_bytes(content)
