"""The metrics of many slices at once, by torch, on the device that the images are on.

The same conventions and values as `definitions.per_slice`, which takes slices one by one; float64
as there. SSIM's windows are separable: along each axis, blocks of `BLOCK` pixels and their
surroundings are multiplied by one small matrix, which BLAS does faster than filters of few taps.

By hand: `python bench/all.py --small metrics`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from mrsr.metrics import definitions
from mrsr.params.jobs import Preset

PIXELS = 1 << 18  # of a chunk on a CPU: its sums stay in the cache
BLOCK = 24


def per_slice(pred: Tensor, ref: Tensor, preset: Preset) -> dict[str, Tensor]:
    """PSNR (dB), SSIM and NMSE of every slice.

    Args:
        pred, ref: (slices, h, w) or (slices, 1, h, w), real and finite, on one intensity scale.
            The slices are one volume: its lowest value, and for some presets its highest, counts.
        preset: the conventions; its level does not matter here.

    Returns:
        One float64 tensor (slices,) per metric on the images' device, NaN for a slice without
        signal.

    Raises:
        UserError: as `definitions.per_slice`.
    """
    if pred.shape == ref.shape and ref.ndim == 4 and ref.shape[1] == 1:
        pred, ref = pred[:, 0], ref[:, 0]
    definitions.check(tuple(pred.shape), tuple(ref.shape), preset)
    for role, images in (("prediction", pred), ("reference", ref)):
        definitions.check_values(
            role, images.is_complex(), bool(images.is_complex() or torch.isfinite(images).all())
        )
    border = preset.border
    inside = slice(border, -border if border else None)
    lowest = min(0.0, float(ref.min()))
    pred, ref = pred[:, inside, inside], ref[:, inside, inside]
    maxima = ref.amax(dim=(1, 2)).double() - lowest
    ranges = {
        "one": torch.full_like(maxima, 1.0 - lowest),
        "slice_max": maxima,
        "volume_max": maxima.max().expand_as(maxima),
    }[preset.data_range]
    count = max(1, PIXELS // ref[0].numel()) if ref.device.type == "cpu" else len(ref)
    found: dict[str, list[Tensor]] = {name: [] for name in definitions.METRICS}
    for p, r, limits in zip(pred.split(count), ref.split(count), ranges.split(count), strict=True):
        for name, value in _chunk(p.double() - lowest, r.double() - lowest, limits, preset).items():
            found[name].append(value)
    signal = maxima > 0
    return {name: torch.cat(values).where(signal, torch.nan) for name, values in found.items()}


def _chunk(pred: Tensor, ref: Tensor, limits: Tensor, preset: Preset) -> dict[str, Tensor]:
    """Of images (n, h, w) float64 that count from the floor, and the range (n,) of each."""
    if preset.clip:
        top = limits[:, None, None]
        zero = torch.zeros_like(top)
        pred, ref = pred.clamp(zero, top), ref.clamp(zero, top)
    error = (pred - ref).square().mean(dim=(1, 2))
    psnr = (10 * torch.log10(limits.square() / error)).clamp(max=definitions.PSNR_CAP)
    nmse = error / ref.square().mean(dim=(1, 2))
    return {"psnr": psnr, "ssim": ssim(pred, ref, limits, preset), "nmse": nmse}


def ssim(pred: Tensor, ref: Tensor, limits: Tensor, preset: Preset) -> Tensor:
    """(n,) mean structural similarity of (n, h, w) float64; see `definitions.ssim`."""
    matrix = _block(tuple(definitions.window(preset).tolist()), str(ref.device))
    maps = torch.stack([pred, ref, pred.square().addcmul_(ref, ref), pred * ref])
    # rows and columns change places, in all maps alike
    mean_p, mean_r, energy, cross = _along(_along(maps, matrix).mT, matrix)
    c1, c2 = ((k * limits)[:, None, None].square() for k in (preset.k1, preset.k2))
    count = preset.window_size**2
    unbias = count / (count - 1) if preset.covariance == "sample" else 1.0
    product = mean_p * mean_r
    squares = mean_p.square().addcmul_(mean_r, mean_r)
    variances = energy.sub_(squares).mul_(unbias)
    covariance = cross.sub_(product).mul_(unbias)
    above = product.mul_(2).add_(c1).mul_(covariance.mul_(2).add_(c2))
    below = squares.add_(c1).mul_(variances.add_(c2))
    return above.div_(below).mean(dim=(1, 2))


def _along(images: Tensor, matrix: Tensor) -> Tensor:
    """Weighted means (..., size - window + 1) along the last axis, where the window fits."""
    block, seen = matrix.shape
    count = images.shape[-1] - (seen - block)
    blocks = -(-count // block)
    padded = F.pad(images, (0, blocks * block + seen - block - images.shape[-1]))
    return (padded.unfold(-1, seen, block) @ matrix.mT).flatten(-2)[..., :count]


@functools.lru_cache(maxsize=32)
def _block(weights: tuple[float, ...], device: str) -> Tensor:
    """(BLOCK, BLOCK + window - 1) float64: the means of BLOCK neighbours from what they see."""
    matrix = torch.zeros(BLOCK, BLOCK + len(weights) - 1, dtype=torch.float64)
    for row in range(BLOCK):
        matrix[row, row : row + len(weights)] = torch.tensor(weights, dtype=torch.float64)
    return matrix.to(device)
