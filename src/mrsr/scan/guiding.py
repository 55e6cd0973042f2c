"""The second contrast of a scan, for guided networks, and the unit of intensities."""

from __future__ import annotations

import numpy as np

from mrsr.errors import UserError
from mrsr.raw.volume import Volume
from mrsr.scan.input import Given, read_scan
from mrsr.scan.output import finer
from mrsr.slices import guides


def second_contrast(given: Given, volume: Volume, scale: int, percentile: float) -> np.ndarray:
    """The second contrast (slices, scale * h, scale * w), normalised, on the output's grid."""
    other = read_scan(given, sliced=False)
    unit = intensity_unit(other.image, percentile, given.name)
    count, height, width = volume.stored.shape
    to_other = np.linalg.inv(other.affine) @ volume.affine @ finer([1, 2], scale)
    size = (height * scale, width * scale)
    second = guides.resample(other.image, to_other, tuple(range(count)), size)
    if (second == second.flat[0]).all():
        raise UserError(
            f"{given.name} does not overlap the scan; check the positions in both headers"
        )
    return second / unit


def intensity_unit(image: np.ndarray, percentile: float, name: str) -> np.float32:
    """The intensity that becomes 1: a percentile of the whole volume, as in the slice store."""
    unit = np.float32(np.percentile(image, percentile))
    if not image.max() > 0:
        raise UserError(
            f"{name}: none of its intensities is above zero ({image.min():g} to {image.max():g}), "
            "and they are divided by a percentile; add an offset, so that air is 0"
        )
    if not unit > 0:
        raise UserError(
            f"{name}: the {percentile:g} % percentile of its intensities is {unit:g}, there is "
            "hardly any signal; crop it, or leave it out"
        )
    return unit
