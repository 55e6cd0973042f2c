"""What a slice is of: how thick it is, and how far from the next.

A slice of thickness `fwhm` is a weighted mean of thin ones. Its weights, the slice profile, are a
Gaussian whose full width at half maximum is the thickness; slices lie `spacing` apart, and what is
left between them is the gap. All widths are relative to what is seen in the plane: lines of the
plane, blurred by this profile and sampled at this spacing, look like lines through the slices.

The thickness is what the caller says, else what a BIDS sidecar (`SliceThickness`) says, else it is
estimated: the profile that makes the plane as coarse in one direction as it is through the slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mrsr.errors import UserError

SIGMA = 2 * np.sqrt(2 * np.log(2))  # a Gaussian's FWHM in standard deviations
NARROWEST, WIDEST = 0.3, 1.6  # thickness / spacing; outside of it a number is a mistake
WIDTHS = 32  # tried for an estimate
PLANES = 48  # looked at in each direction: enough to estimate from
LEAST_SLICES, ENOUGH_SLICES = 6, 16  # for an estimate


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


def estimate(image: np.ndarray, voxel_size: tuple[float, float, float]) -> SliceProfile:
    """The slice profile of a scan (slices, h, w), from the scan alone; voxel_size in mm.

    One direction of the plane is blurred by a profile and sampled like the slices. If the profile
    is that of the slices, rows of the result look like its columns: it is as coarse in the plane as
    through it. Of many widths, the one is taken for which both have the same roughness, over both
    directions of the plane. Anatomy and the scanner's own blur differ between directions, so it is
    an estimate (docs/howto/thick-slices.md says how good).
    """
    spacing = voxel_size[0]
    widths = spacing * np.geomspace(NARROWEST, WIDEST, WIDTHS)
    errors = np.zeros(len(widths))
    for axis in (1, 2):
        turned = np.moveaxis(image, axis, 2)
        planes = turned[:, :: max(1, turned.shape[1] // PLANES)].astype(np.float64)
        samples, ratio = planes.shape[2], spacing / voxel_size[axis]
        slices = int(samples / ratio)
        if min(slices, len(image)) < LEAST_SLICES:
            continue
        for index, width in enumerate(widths):
            matrix = slice_matrix(samples, slices, ratio, width / voxel_size[axis])
            coarse = planes @ matrix.T
            errors[index] += (_roughness(coarse) - _roughness(coarse.T)) ** 2
    if not errors.any():
        return SliceProfile(spacing, spacing, "assumed, with too few slices to estimate it")
    how = "estimated"
    if len(image) < ENOUGH_SLICES:
        how += f" from {len(image)} slices, which is few: give --slice-thickness if you know it"
    return SliceProfile(float(widths[errors.argmin()]), spacing, how)


def _roughness(volume: np.ndarray) -> float:
    """How much the first axis bends between neighbours, relative to samples twice as far apart."""
    near, far = (
        np.square(volume[2 * step :] - 2 * volume[step:-step] + volume[: -2 * step]).mean()
        for step in (1, 2)
    )
    tiny = np.finfo(float).tiny
    return float(np.log((near + tiny) / (far + tiny)))
