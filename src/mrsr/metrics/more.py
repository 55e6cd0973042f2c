"""Metrics beside the paper's three, chosen in `metrics.more`; each is a column of results.csv.

HaarPSI was among the three that agreed best with seven radiologists in 14,700 scores of MR images
(Kastryulin et al., IEEE Access 11, 2023, 10.1109/ACCESS.2023.3243466). GMSD and HFEN look at edges.
The other two of that study are not here: DISTS needs downloaded weights, VSI a saliency of colours.

All are of slices. HaarPSI and GMSD see a slice divided by the preset's data range and clipped to
0..1, as their authors define them; HFEN sees what PSNR sees. tests/metrics/test_more.py holds the
first two to the values of piq, which is no dependency: it needs torchvision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage, signal, special

from mrsr.errors import UserError
from mrsr.metrics import definitions
from mrsr.params.jobs import Preset

SIGMA, RADIUS = 1.5, 7  # pixels: HFEN's filter of 15x15
SMALLEST = 32  # pixels a side; HaarPSI's coarsest window is 16 of them


def per_slice(
    pred: np.ndarray, ref: np.ndarray, preset: Preset, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The metrics `names` of every slice of one volume.

    Args:
        pred, ref: (slices, h, w), real and finite, on one intensity scale.
        preset: its border, data range and clipping; its level does not matter here.
        names: keys of `FUNCTIONS`.

    Returns:
        One float64 array (slices,) per name, NaN for a slice without signal.

    Raises:
        UserError: as `definitions.per_slice`; or slices under 32 pixels a side.
    """
    if not names:
        return {}
    pred, ref, ranges = definitions.prepared(pred, ref, preset)
    if min(ref.shape[1:]) < SMALLEST:
        raise UserError(
            f"slices of {ref.shape[1]}x{ref.shape[2]} are too small for {', '.join(names)}, which "
            f"need {SMALLEST} pixels a side; take them out of metrics.more"
        )
    values = {name: np.full(len(ref), math.nan) for name in names}
    for index in np.flatnonzero(ref.max(axis=(1, 2)) > 0):
        for name in names:
            values[name][index] = FUNCTIONS[name](pred[index], ref[index], float(ranges[index]))
    return values


def hfen(pred: np.ndarray, ref: np.ndarray, data_range: float) -> float:
    """High-frequency error norm of (h, w): 0 is perfect, 1 is an image without edges.

    The norm of the difference of both images' Laplacians of Gaussians over the reference's
    (Ravishankar and Bresler, IEEE TMI 30(5), 2011). NaN where the reference is flat.
    """
    kernel = _laplacian_of_gaussian()
    found, wanted = (ndimage.convolve(image, kernel, mode="nearest") for image in (pred, ref))
    norm = float(np.linalg.norm(wanted))
    flat = norm <= 1e-9 * data_range  # rounding leaves a little of a constant image
    return math.nan if flat else float(np.linalg.norm(found - wanted)) / norm


@functools.cache
def _laplacian_of_gaussian() -> np.ndarray:
    """(15, 15), sum 0: what is cut off beyond the window must not leave a trace of the mean."""
    square = np.square(np.arange(-RADIUS, RADIUS + 1))
    radius = square[:, None] + square
    gaussian = np.exp(-radius / (2 * SIGMA**2))
    kernel = gaussian / gaussian.sum() * (radius - 2 * SIGMA**2) / SIGMA**4
    return kernel - kernel.mean()


def haarpsi(pred: np.ndarray, ref: np.ndarray, data_range: float) -> float:
    """Haar wavelet perceptual similarity index of (h, w): 1 for equal images.

    Reisenhofer et al., Signal Processing: Image Communication 61, 2018, with its constants: images
    of 0..255 averaged over 2x2 pixels, similarity at the two finest scales, weights from the third.
    """
    contrast, steepness = 30.0, 4.2
    pair = [_halved(image) * 255 for image in _unit(pred, ref, data_range)]
    above = below = 0.0
    for turned in (False, True):
        maps = [image.T if turned else image for image in pair]
        scales = [[np.abs(_haar(image, 2**level)) for image in maps] for level in (1, 2, 3)]
        similarity = np.mean([_similar(a, b, contrast) for a, b in scales[:2]], axis=0)
        weight = np.maximum(*scales[2])
        above += float(np.sum(special.expit(steepness * similarity) * weight))
        below += float(np.sum(weight))
    if below == 0:  # both are flat
        return 1.0
    return float(special.logit(above / below) / steepness) ** 2


def gmsd(pred: np.ndarray, ref: np.ndarray, data_range: float) -> float:
    """Gradient magnitude similarity deviation of (h, w): 0 for equal images.

    Xue et al., IEEE TIP 23(2), 2014: Prewitt gradients of images averaged over 2x2 pixels.
    """
    strengths = []
    for image in _unit(pred, ref, data_range):
        half = _halved(image)
        rows, columns = (ndimage.prewitt(half, axis, mode="constant") / 3 for axis in (0, 1))
        strengths.append(np.hypot(rows, columns))
    return float(np.std(_similar(strengths[0], strengths[1], 170 / 255**2)))


def _unit(pred: np.ndarray, ref: np.ndarray, data_range: float) -> list[np.ndarray]:
    return [np.clip(image / data_range, 0, 1) for image in (pred, ref)]


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels; an odd side is continued by zeros."""
    padded = np.pad(image, [(0, side % 2) for side in image.shape])
    height, width = padded.shape
    return padded.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))


def _haar(image: np.ndarray, size: int) -> np.ndarray:
    """Differences between the upper and lower half of every size x size window, over `size`."""
    kernel = np.full((size, size), 1 / size)
    kernel[size // 2 :] *= -1
    # from the far corner: the window of an even size then lies where the authors' does
    return signal.convolve2d(image[::-1, ::-1], kernel, mode="same")[::-1, ::-1]


def _similar(first: np.ndarray, second: np.ndarray, constant: float) -> np.ndarray:
    """1 where both are equal, towards 0 where they differ."""
    return (2 * first * second + constant) / (first**2 + second**2 + constant)


FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "haarpsi": haarpsi,
    "gmsd": gmsd,
    "hfen": hfen,
}
