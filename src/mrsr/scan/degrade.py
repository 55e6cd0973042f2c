"""Degrade a scan in plane, like the training data, to test a network against a known truth.

By hand: `mrsr degrade scan.nii.gz coarse.nii.gz --scale 2`, then `mrsr enhance` it and
`mrsr score` the result against the scan.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mrsr import resampling
from mrsr.errors import UserError
from mrsr.scan.output import check_output, write_scan


def degrade(
    input: Path | str,
    output: Path | str,
    *,
    scale: int = 2,
    kind: str = "bicubic",
    overwrite: bool = False,
) -> None:
    """Lower the in-plane resolution of a NIfTI scan, slice by slice; the anatomy does not move.

        from mrsr import degrade
        degrade("scan.nii.gz", "coarse.nii.gz", scale=2)

    Args:
        input: a 3D `.nii` or `.nii.gz` file; sliced as in enhance.
        output: the file to write, float32, atomically.
        scale: 2, 3, 4 or 8.
        kind: "bicubic" or "kspace".
        overwrite: replace `output` if it is there.

    Raises:
        UserError: the input cannot be used, its plane does not divide by `scale` (enhanced again,
            it would not fit the scan), or `output` exists.
    """
    from mrsr.raw.nifti import read_nifti

    input, output = Path(input), Path(output)
    check_output(output, overwrite)
    resampling.check(scale, kind)
    volume = read_nifti(input, subject="", contrast="", organ="")
    axes = [int(axis) for axis in volume.attributes["axes"].split(",")]
    _, height, width = volume.stored.shape
    if height % scale or width % scale:
        raise UserError(
            f"{input.name}: slices of {height}x{width} do not divide by {scale}; crop it first"
        )
    coarse = resampling.degrade(torch.from_numpy(volume.image), scale, kind).numpy()
    write_scan(output, coarse.transpose(np.argsort(axes)), input, axes[1:], 1 / scale)
