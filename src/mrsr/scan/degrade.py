"""Degrade a scan in plane, like the training data, to test a network against a known truth.

By hand: `mrsr degrade scan.nii.gz coarse.nii.gz --scale 2`, then `mrsr enhance` it and
`mrsr score` the result against the scan.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nibabel.spatialimages import SpatialImage

from mrsr import resampling
from mrsr.errors import UserError
from mrsr.scan.input import Source, check_axis, each_volume, file_axes, open_scan, read_scan
from mrsr.scan.output import as_image, check_finite, check_output, header_for, write_slices


def degrade(
    input: Source,
    output: Path | str | None = None,
    *,
    scale: int = 2,
    kind: str = "bicubic",
    overwrite: bool = False,
    axis: int | None = None,
    volume: int | None = None,
    nan: str = "refuse",
) -> SpatialImage:
    """Lower the in-plane resolution of a scan, slice by slice; the anatomy does not move.

    Real intensities keep their sign. Of complex scans the output is the magnitude, taken before
    "bicubic" and after "kspace".

        from mrsr import degrade
        degrade("scan.nii.gz", "coarse.nii.gz", scale=2)
        coarse = degrade(nibabel.load("scan.nii.gz"))  # writes nothing

    Args:
        input: a scan as for enhance, sliced as there.
        output: the file to write, float32, atomically. None: nothing is written.
        scale: 2, 3, 4 or 8.
        kind: "bicubic" or "kspace".
        overwrite: replace `output` if it exists.
        axis: of the file (0, 1, 2), that slices are stacked along, as in enhance.
        volume: of a 4D scan, from 0; None: every one.
        nan: "zero" reads NaN as 0; "refuse" takes no scan that has any.

    Returns:
        The degraded scan as an image of nibabel; of a file, its voxels are read when they are used.

    Raises:
        UserError: the input cannot be used, its plane does not divide by `scale` (enhanced again,
            it would have another size than the scan), or `output` exists.
    """
    target = None if output is None else Path(output)
    if target is not None:
        check_output(target, overwrite, read=(input,))
    check_axis(axis)
    resampling.check(scale, kind)
    given = open_scan(input)
    numbers = list(range(given.scan.volumes)) if volume is None else [volume]
    first = read_scan(given, axis, volume=numbers[0], nan=nan)
    axes = file_axes(first)
    _, height, width = first.stored.shape
    if height % scale or width % scale:
        raise UserError(
            f"{given.name}: slices of {height}x{width} do not divide by {scale}; crop it first"
        )
    header = header_for(
        given.scan.image, axes[1:], 1 / scale, name=given.name, volumes=len(numbers)
    )

    def coarse() -> Iterator[np.ndarray]:
        for one in each_volume(given, first, numbers, axis, nan):
            image = torch.from_numpy(one.physical)
            found = resampling.degrade(image, scale, kind).numpy()
            check_finite(found, given.name)
            yield found

    if target is None:
        return as_image(coarse(), header, axes)
    write_slices(target, coarse(), header, axes)
    import nibabel

    return nibabel.load(target)  # type: ignore[return-value]  # what was written is spatial
