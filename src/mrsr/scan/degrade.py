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
from mrsr.scan.input import file_axes, read_scan
from mrsr.scan.output import check_output, header_for, write_scan


def degrade(
    input: Path | str,
    output: Path | str,
    *,
    scale: int = 2,
    kind: str = "bicubic",
    overwrite: bool = False,
    axis: int | None = None,
) -> None:
    """Lower the in-plane resolution of a scan, slice by slice; the anatomy does not move.

    Real intensities keep their sign. Of complex scans the output is the magnitude, taken before
    "bicubic" and after "kspace".

        from mrsr import degrade
        degrade("scan.nii.gz", "coarse.nii.gz", scale=2)

    Args:
        input: a scan as for enhance, sliced as there.
        output: the file to write, float32, atomically.
        scale: 2, 3, 4 or 8.
        kind: "bicubic" or "kspace".
        overwrite: replace `output` if it exists.
        axis: of the file (0, 1, 2), that slices are stacked along, as in enhance.

    Raises:
        UserError: the input cannot be used, its plane does not divide by `scale` (enhanced again,
            it would have another size than the scan), or `output` exists.
    """
    input, output = Path(input), Path(output)
    check_output(output, overwrite)
    resampling.check(scale, kind)
    volume = read_scan(input, axis)
    axes = file_axes(volume)
    _, height, width = volume.stored.shape
    if height % scale or width % scale:
        raise UserError(
            f"{input.name}: slices of {height}x{width} do not divide by {scale}; crop it first"
        )
    header = header_for(input, axes[1:], 1 / scale)
    coarse = resampling.degrade(torch.from_numpy(volume.physical), scale, kind).numpy()
    write_scan(output, coarse.transpose(np.argsort(axes)), header)
