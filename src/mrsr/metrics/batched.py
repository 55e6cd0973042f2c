"""The metrics of all slices of a volume at once, where its images are.

On a CPU the slices go through `definitions` side by side, one thread each: the same bits. There
`by_torch` took 2.6 times as long (8 slices of 240x240, one thread of an AMD EPYC), because a batch
does not stay in the cache. On other devices torch computes them, in float64 too. SSIM's windows are
separable: along each axis, blocks of `BLOCK` pixels and their surroundings are multiplied by one
small matrix.

By hand: `python bench/all.py --small metrics`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from mrsr.metrics import definitions
from mrsr.params.jobs import Preset

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
    if ref.device.type in ("cpu", "mps"):  # the latter has no float64
        values = definitions.per_slice(
            pred.cpu().numpy(), ref.cpu().numpy(), preset, workers=torch.get_num_threads()
        )
        return {name: torch.from_numpy(value) for name, value in values.items()}
    return by_torch(pred, ref, preset)


def by_torch(pred: Tensor, ref: Tensor, preset: Preset) -> dict[str, Tensor]:
    """The same of (slices, h, w) by torch on any device that has float64."""
    definitions.check(tuple(pred.shape), tuple(ref.shape), preset)
    for role, images in (("prediction", pred), ("reference", ref)):
        finite = images.is_complex() or bool(torch.isfinite(images).all())
        definitions.check_values(role, images.is_complex(), finite)
    border = preset.border
    inside = slice(border, -border if border else None)
    lowest = min(0.0, float(ref.min()))
    pred, ref = (images[:, inside, inside].double() - lowest for images in (pred, ref))
    maxima = ref.amax(dim=(1, 2))
    limits = {
        "one": torch.full_like(maxima, 1.0 - lowest),
        "slice_max": maxima,
        "volume_max": maxima.max().expand_as(maxima),
    }[preset.data_range]
    if preset.clip:
        top = limits[:, None, None]
        pred, ref = (images.clamp(torch.zeros_like(top), top) for images in (pred, ref))
    error = (pred - ref).square().mean(dim=(1, 2))
    values = {
        "psnr": (10 * torch.log10(limits.square() / error)).clamp(max=definitions.PSNR_CAP),
        "ssim": ssim(pred, ref, limits, preset),
        "nmse": error / ref.square().mean(dim=(1, 2)),
    }
    return {name: value.where(maxima > 0, torch.nan) for name, value in values.items()}


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
