"""Residual spectra: which frequencies a method restores."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

BINS = 32


def residual(
    references: Mapping[Any, np.ndarray], images: Mapping[str, Mapping[Hashable, np.ndarray]]
) -> dict[str, Any]:
    """The power of SR - HR relative to the power of HR, ring by ring in the Fourier plane.

    Args:
        references: by slice, HR (height, width). images: by method, the same slices.

    Returns:
        frequency: the middle of each ring, as a fraction of HR's Nyquist frequency (of each axis).
        residual: by method, the ratio of the powers, each summed over the ring and all slices.
        0 where a frequency is restored, 1 where the image lacks it. slices: their number.
    """
    side = min(min(image.shape) for image in references.values())
    edges = np.linspace(0, 1, min(BINS, side // 4) + 1)  # no ring is empty
    powers = {at: _power(image) for at, image in references.items()}
    total = sum(_rings(power, edges) for power in powers.values())
    ratios = {}
    for method, of_slices in images.items():
        lost = sum(_rings(_power(of_slices[at] - references[at]), edges) for at in references)
        ratios[method] = (lost / np.maximum(total, np.finfo(float).tiny)).tolist()
    middle = (edges[:-1] + edges[1:]) / 2
    return {"frequency": middle.tolist(), "residual": ratios, "slices": len(references)}


def _power(image: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.fft2(image.astype(np.float64))) ** 2


def _rings(power: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The sum of each ring; corners beyond Nyquist and the mean are left out."""
    rows, columns = (np.fft.fftfreq(n) * 2 for n in power.shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    radius[0, 0] = np.inf
    sums, _ = np.histogram(radius, bins=edges, weights=power)
    return np.asarray(sums)
