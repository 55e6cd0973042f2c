"""What a slice is of: how thick it is, and how far from the next.

A slice of thickness `fwhm` is a weighted mean of thin ones. Its weights, the slice profile, are a
Gaussian whose full width at half maximum is the thickness; slices lie `spacing` apart, and what is
left between them is the gap. All widths are relative to what is seen in the plane: lines of the
plane, blurred by this profile and sampled at this spacing, look like lines through the slices.

The thickness is what the caller says, else what a BIDS sidecar (`SliceThickness`) says, else it is
estimated: the profile under which lines of the plane vary as much from slice to slice as the lines
through the slices do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mrsr.errors import UserError

SIGMA = 2 * np.sqrt(2 * np.log(2))  # a Gaussian's FWHM in standard deviations
WIDEST = 3.0  # thickness / spacing: more overlap than any protocol has
NARROWEST = 0.1
LINES = 4000  # enough to estimate from


@dataclass(frozen=True)
class SliceProfile:
    """Thickness and spacing in mm; source: who says so."""

    fwhm: float
    spacing: float
    source: str

    @property
    def gap(self) -> float:
        """Millimetres between slices; negative where they overlap."""
        return self.spacing - self.fwhm

    def __str__(self) -> str:
        gap = f"gap {self.gap:.2f} mm" if self.gap >= 0 else f"overlap {-self.gap:.2f} mm"
        return (
            f"slices {self.fwhm:.2f} mm thick, {self.spacing:.2f} mm apart ({gap}; {self.source})"
        )


def weights(offsets: np.ndarray, fwhm: float) -> np.ndarray:
    """The share of a slice at 0 that voxels of width 1 around `offsets` have; not normalised.

    fwhm: in voxels. The Gaussian is integrated over each voxel.
    """
    from scipy.special import erf

    sigma = max(fwhm, 1e-3) / SIGMA
    ends = [(offsets + side) / (sigma * np.sqrt(2)) for side in (0.5, -0.5)]
    return 0.5 * (erf(ends[0]) - erf(ends[1]))


def reach(fwhm: float) -> int:
    """Voxels on each side of a slice's centre with a weight that counts: five sigma."""
    return int(np.ceil(5 * fwhm / SIGMA + 1))


def slice_matrix(voxels: int, slices: int, ratio: float, fwhm: float) -> np.ndarray:
    """(slices, voxels) float64: fine voxels to slices, `ratio` voxels apart; rows sum to 1.

    Slice 0 begins where voxel 0 begins. fwhm: in voxels. What lies outside of the field of view is
    taken for a mirror image of what is inside.
    """
    centre = (np.arange(slices) + 0.5) * ratio - 0.5
    far = reach(fwhm)
    taps = np.floor(centre).astype(int)[:, None] + np.arange(-far, far + 2)
    share = weights(taps - centre[:, None], fwhm)
    share /= share.sum(1, keepdims=True)
    source = taps % (2 * voxels)
    source = np.where(source < voxels, source, 2 * voxels - 1 - source)
    matrix = np.zeros((slices, voxels))
    np.add.at(matrix, (np.arange(slices)[:, None], source), share)
    return matrix


def spline_matrix(voxels: int, places: np.ndarray, order: int = 3) -> np.ndarray:
    """(places, voxels) float64: a B-spline through `voxels` samples, read at `places` (in voxels).

    The border is a mirror, half a voxel outside of the last one.
    """
    from scipy.ndimage import map_coordinates

    columns = [
        map_coordinates(one, [places], order=order, mode="reflect") for one in np.eye(voxels)
    ]
    return np.stack(columns, axis=1)


def told(tags: dict[str, Any], spacing: float, thickness: float | None) -> SliceProfile | None:
    """The profile that the caller gives, or the scan's JSON (`SliceThickness`); None without one.

    Raises:
        UserError: a thickness that no slice of this spacing has.
    """
    if thickness is not None:
        _check(thickness, spacing, "--slice-thickness")
        return SliceProfile(thickness, spacing, "as told")
    try:
        thickness = float(tags["SliceThickness"])
    except (KeyError, TypeError, ValueError):
        return None
    _check(thickness, spacing, "SliceThickness of the JSON beside the scan")
    return SliceProfile(thickness, spacing, "by its JSON")


def _check(thickness: float, spacing: float, who: str) -> None:
    low, high = NARROWEST * spacing, WIDEST * spacing
    if not low <= thickness <= high:
        raise UserError(
            f"{who} is {thickness:g} mm for slices {spacing:.3g} mm apart; "
            f"it must be between {low:.3g} and {high:.3g} mm (--slice-thickness)"
        )


def variation(lines: np.ndarray, lags: int) -> np.ndarray:
    """Mean squared difference of samples 1, 2, ... `lags` apart; lines: (count, samples)."""
    return np.array(
        [np.square(lines[:, lag:] - lines[:, :-lag]).mean() for lag in range(1, lags + 1)]
    )


def estimate(image: np.ndarray, voxel_size: tuple[float, float, float]) -> SliceProfile:
    """The slice profile of a scan (slices, h, w), from the scan alone; voxel_size in mm.

    Lines in both directions of the plane are blurred by profiles of many widths and sampled like
    the slices. Where they vary from one sample to the next as much as the lines through the slices
    do, in proportion to how they vary over a longer way, is the estimate. Anatomy differs between
    directions, so it is a guess to about a fifth (docs/howto/thick-slices.md has measured ones).
    """
    spacing = voxel_size[0]
    widths = spacing * np.geomspace(NARROWEST, 1.6, 24)
    through = _some(image.reshape(len(image), -1).T)
    lags = min(3, len(image) - 1)
    if lags < 2:
        return SliceProfile(spacing, spacing, "assumed, too few slices to estimate it")
    wanted = _shape(variation(through, lags))
    errors = np.zeros(len(widths))
    for axis in (1, 2):
        lines = _some(np.moveaxis(image, axis, -1).reshape(-1, image.shape[axis]))
        ratio = spacing / voxel_size[axis]
        slices = int(lines.shape[1] / ratio)
        if slices <= lags:
            continue
        for index, width in enumerate(widths):
            sampled = (
                lines @ slice_matrix(lines.shape[1], slices, ratio, width / voxel_size[axis]).T
            )
            errors[index] += np.square(_shape(variation(sampled, lags)) - wanted).sum()
    return SliceProfile(float(widths[errors.argmin()]), spacing, "estimated")


def _some(lines: np.ndarray) -> np.ndarray:
    """At most about LINES of them, evenly chosen, in float64."""
    return lines[:: max(1, len(lines) // LINES)].astype(np.float64)


def _shape(values: np.ndarray) -> np.ndarray:
    """Logarithm of each value, relative to the last."""
    return np.log(values[:-1] / values[-1])
