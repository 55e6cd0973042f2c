"""PSNR, SSIM and NMSE of super-resolved slices, with every convention as an explicit argument.

Paper section 4.1 names the three metrics but no convention, and the data range alone changes PSNR
by several decibels. So a `Preset` states the whole convention, and `describe` puts it into the
caption of every table. A metric is one function and its entry in `METRICS`.

Negative values: a reference that has some (z-scored, air at -1024) is measured from its lowest
value. It is subtracted from both volumes before anything else, so that ranges, energies and means
are those of a scan whose air is 0: z-scoring changes no metric. A reference without negative values
is measured as it is, whatever the prediction has.

By hand: `mrsr score PREDICTION REFERENCE --preset fastmri`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import ndimage

from mrsr.errors import UserError
from mrsr.params.jobs import Preset
from mrsr.params.schema import PRESETS
from mrsr.params.typed import build, plain

PSNR_CAP = 100.0  # dB; the infinite PSNR of identical images would break averages and JSON


def preset(value: Preset | Mapping[str, Any] | str) -> Preset:
    """A preset from its name, or from its fields as a metrics file has them.

    Raises:
        UserError: an unknown name, or a field that is unknown, missing or out of its bounds.
    """
    if isinstance(value, Preset):
        return value
    if isinstance(value, str):
        if value not in PRESETS:
            raise UserError(f"no metrics preset '{value}'; there are: {', '.join(PRESETS)}")
        return Preset(name=value, **plain(PRESETS[value]))
    try:
        return build(Preset, value)
    except ValueError as error:
        raise UserError(f"metrics preset: {error}") from None


def psnr(pred: np.ndarray, ref: np.ndarray, data_range: float, preset: Preset) -> float:
    """Peak signal-to-noise ratio in dB of equally shaped arrays; infinite when identical."""
    error = float(np.mean(np.square(pred - ref)))
    return 10 * math.log10(data_range**2 / error) if error > 0 else math.inf


def nmse(pred: np.ndarray, ref: np.ndarray, data_range: float, preset: Preset) -> float:
    """||pred - ref||^2 / ||ref||^2; 0 is perfect. NaN where the reference is zero everywhere."""
    energy = float(np.sum(np.square(ref)))
    return float(np.sum(np.square(pred - ref))) / energy if energy > 0 else math.nan


def ssim(pred: np.ndarray, ref: np.ndarray, data_range: float, preset: Preset) -> float:
    """Mean structural similarity (Wang et al., IEEE TIP 13(4), 2004) of (h, w) or (slices, h, w).

    Always of two-dimensional windows. The map is averaged where the whole window lies inside the
    slice, that is without (window_size - 1) / 2 pixels on each side: no padding rule enters. A
    stack's value is the mean over its slices.
    """
    if ref.ndim == 3:
        return float(
            np.mean([ssim(p, r, data_range, preset) for p, r in zip(pred, ref, strict=True)])
        )
    weights = window(preset)
    c1, c2 = (preset.k1 * data_range) ** 2, (preset.k2 * data_range) ** 2
    count = preset.window_size**2
    unbias = count / (count - 1) if preset.covariance == "sample" else 1.0

    mean_p, mean_r = _local(pred, weights), _local(ref, weights)
    product = mean_p * mean_r
    squares = np.square(mean_p) + np.square(mean_r)
    # the two variances only ever appear as their sum: one filter fewer
    variances = unbias * (_local(np.square(pred) + np.square(ref), weights) - squares)
    covariance = unbias * (_local(pred * ref, weights) - product)
    values = ((2 * product + c1) * (2 * covariance + c2)) / ((squares + c1) * (variances + c2))
    return float(values.mean())


Metric = Callable[[np.ndarray, np.ndarray, float, Preset], float]
METRICS: dict[str, Metric] = {"psnr": psnr, "ssim": ssim, "nmse": nmse}


def per_slice(
    pred: np.ndarray, ref: np.ndarray, preset: Preset, workers: int = 1
) -> dict[str, np.ndarray]:
    """Every metric of every slice of one volume.

    Args:
        pred, ref: (slices, h, w), real and finite, on one intensity scale.
        preset: the conventions; its level does not matter here.
        workers: slices measured at a time.

    Returns:
        One float64 array (slices,) per metric, NaN for a slice without signal: if the reference
        has no value above zero (above its lowest, where that is negative), there is no range and no
        energy to measure against.
    """
    pred, ref, ranges = prepared(pred, ref, preset)
    values = {name: np.full(len(ref), math.nan) for name in METRICS}

    def measure(index: int) -> None:
        limits = float(ranges[index])
        p, r = _clipped(pred[index], ref[index], limits, preset)
        for name, metric in METRICS.items():
            values[name][index] = _capped(name, metric(p, r, limits, preset))

    indices = np.flatnonzero(has_signal(ref)).tolist()
    if workers == 1:
        for index in indices:
            measure(index)
    else:  # NumPy and SciPy let other threads run while they compute
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(measure, indices))
    return values


def score(pred: np.ndarray, ref: np.ndarray, preset: Preset) -> dict[str, float]:
    """Every metric of one volume, as the preset defines it.

    Level "slice": the mean over the slices that have signal (see `per_slice`). Level "volume": one
    value of all voxels, slices without signal included, and SSIM's mean over all slices.

    Args:
        pred, ref: (slices, h, w), real and finite, on one intensity scale.

    Raises:
        UserError: shapes differ, values are not finite, the slices are smaller than border and
            window need, or the whole reference has no value above zero.
    """
    if preset.level == "slice":
        return {name: mean(values) for name, values in per_slice(pred, ref, preset).items()}
    return volume(pred, ref, preset)


def volume(pred: np.ndarray, ref: np.ndarray, preset: Preset) -> dict[str, float]:
    """Every metric of one volume at level "volume"; arguments and errors as in `score`."""
    pred, ref, ranges = prepared(pred, ref, preset)
    limits = float(ranges[0])
    if not (has_signal(ref).any() and limits > 0):
        raise UserError(
            "the reference volume has no value above zero, or one value everywhere: nothing to "
            "measure against"
        )
    pred, ref = _clipped(pred, ref, limits, preset)
    return {
        name: _capped(name, metric(pred, ref, limits, preset)) for name, metric in METRICS.items()
    }


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN, which marks slices without signal.

    Raises:
        UserError: there are none.
    """
    valid = values[~np.isnan(values)]
    if not valid.size:
        raise UserError("no slice of the reference has a value above zero: nothing to measure")
    return float(valid.mean())


def floor(ref: np.ndarray) -> float:
    """The intensity of (slices, h, w) that counts as no signal: 0, or the lowest if negative."""
    return min(0.0, float(ref.min()))


def has_signal(ref: np.ndarray) -> np.ndarray:
    """(slices,) bool: which slices of (slices, h, w) have a value above the volume's `floor`."""
    return ref.max(axis=(1, 2)) > floor(ref)


def describe(preset: Preset) -> str:
    """The preset in words, for the caption of a table."""
    ranges = {
        "slice_max": "the maximum of the reference slice",
        "volume_max": "the maximum of the reference volume",
        "one": "1",
    }
    window = f"{preset.window_size}x{preset.window_size}"
    if preset.window == "gaussian":
        window = f"Gaussian window {window} (sigma {preset.sigma:g})"
    else:
        window = f"uniform window {window}"
    parts = [
        f"Metrics '{preset.name}': PSNR and NMSE per {preset.level}",
        f"data range: {ranges[preset.data_range]}",
        f"{preset.border} border pixels removed" if preset.border else "no border removed",
        f"SSIM per slice with a {window}, K1 {preset.k1:g}, K2 {preset.k2:g}, "
        f"{preset.covariance} covariance, averaged where the window fits",
        "clipped to 0..data range" if preset.clip else "not clipped",
    ]
    if preset.level == "slice":
        parts.append("slices without signal are left out")
    return "; ".join(parts) + "."


def check(pred: tuple[int, ...], ref: tuple[int, ...], preset: Preset) -> None:
    """Check the shapes of a prediction and a reference.

    Raises:
        UserError: they differ, are not (slices, h, w), or are too small for border and window.
    """
    if pred != ref:
        raise UserError(
            f"shapes differ: prediction {pred}, reference {ref}; give both on the same grid"
        )
    if len(ref) != 3 or not ref[0]:
        raise UserError(f"expected (slices, height, width), got {ref}")
    smallest = 2 * preset.border + preset.window_size
    if min(ref[1:]) < smallest:
        raise UserError(
            f"slices of {ref[1]}x{ref[2]} are smaller than the {smallest} pixels that "
            f"preset '{preset.name}' needs (border and SSIM window)"
        )


def check_values(role: str, is_complex: bool, finite: bool) -> None:
    """Raise a `UserError` for complex values, and for NaN or infinite ones."""
    if is_complex:
        raise UserError("complex values cannot be compared; give magnitudes")
    if not finite:
        raise UserError(f"the {role} has NaN or infinite values; replace them first")


def prepared(
    pred: np.ndarray, ref: np.ndarray, preset: Preset
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both volumes as float64 from the reference's floor, without the border; (slices,) ranges."""
    check(pred.shape, ref.shape, preset)
    for role, array in (("prediction", pred), ("reference", ref)):
        check_values(role, np.iscomplexobj(array), np.isfinite(array).all())
    pred, ref = np.asarray(pred, np.float64), np.asarray(ref, np.float64)
    border = preset.border
    lowest = floor(ref)
    inside = slice(border, -border if border else None)
    pred, ref = (array[:, inside, inside] - lowest for array in (pred, ref))
    return pred, ref, _ranges(ref, preset, lowest)


def _ranges(ref: np.ndarray, preset: Preset, lowest: float) -> np.ndarray:
    """(slices,) the data range of each slice of (slices, h, w), which counts from `lowest`."""
    if preset.data_range == "one":
        return np.full(len(ref), 1.0 - lowest)
    maxima = ref.max(axis=(1, 2))
    return maxima if preset.data_range == "slice_max" else np.full(len(ref), maxima.max())


def _clipped(
    pred: np.ndarray, ref: np.ndarray, limits: float, preset: Preset
) -> tuple[np.ndarray, np.ndarray]:
    if not preset.clip:
        return pred, ref
    return np.clip(pred, 0, limits), np.clip(ref, 0, limits)


def _capped(name: str, value: float) -> float:
    return min(value, PSNR_CAP) if name == "psnr" else value


def window(preset: Preset) -> np.ndarray:
    """(window_size,) weights along one axis, sum 1; the window is their outer product."""
    if preset.window == "uniform":
        return np.full(preset.window_size, 1 / preset.window_size)
    offsets = np.arange(preset.window_size) - preset.window_size // 2
    weights = np.exp(-0.5 * np.square(offsets / preset.sigma))
    return weights / weights.sum()


def _local(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means of (h, w) in every window that fits: (h - size + 1, w - size + 1)."""
    reach = len(weights) // 2
    rows = ndimage.correlate1d(image, weights, axis=0)[reach:-reach]
    return ndimage.correlate1d(rows, weights, axis=1)[:, reach:-reach]
