"""PSNR, SSIM and NMSE of slices: all at once against a slice at a time, and what others offer.

`python bench/all.py [--small] metrics`. Images are random, 240x240 as the experiments have them,
in the conventions of the preset `slice`. piq is compared where it is installed; it and MONAI
average SSIM over other areas, so that their values differ a little, and neither has NMSE.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import Row, compare
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mrsr.metrics import batched, definitions


def rows(small: bool) -> list[Row]:
    """On as many threads as there are, and on a GPU where there is one."""
    slices, size = (4, 96) if small else (32, 240)
    generator = torch.Generator().manual_seed(0)
    ref = torch.rand(slices, 1, size, size, generator=generator)
    pred = ref + 0.05 * torch.rand(ref.shape, generator=generator)
    preset = definitions.preset("slice")
    name = f"PSNR, SSIM and NMSE of {slices} slices of {size}x{size}"
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = []
    for device in devices:
        here, there = pred.to(device), ref.to(device)
        ours = (f"ours, {device}", batched_on(here, there, preset))
        for other in others(pred, ref, preset):
            target = (50 if device == "cuda" else 3) if "scikit" in other[0] else None
            found.append(compare(name, ours, other, target=target))
    return found


def batched_on(
    pred: torch.Tensor, ref: torch.Tensor, preset: definitions.Preset
) -> Callable[[], object]:
    """Ours, until the values are on the CPU."""

    def work() -> object:
        with torch.inference_mode():
            return {k: v.cpu() for k, v in batched.per_slice(pred, ref, preset).items()}

    return work


def others(
    pred: torch.Tensor, ref: torch.Tensor, preset: definitions.Preset
) -> list[tuple[str, Callable[[], object]]]:
    """What there is to compare with: (name, work)."""
    arrays = [(p, r) for p, r in zip(pred[:, 0].numpy(), ref[:, 0].numpy(), strict=True)]

    def by_scikit_image() -> object:
        return [
            (
                peak_signal_noise_ratio(r, p, data_range=r.max()),
                structural_similarity(
                    r, p, data_range=r.max(), gaussian_weights=True, sigma=1.5,
                    use_sample_covariance=False,
                ),
                np.square(p - r).sum() / np.square(r).sum(),
            )
            for p, r in arrays
        ]  # fmt: skip

    def one_by_one() -> object:
        return definitions.per_slice(pred[:, 0].numpy(), ref[:, 0].numpy(), preset)

    found: list[tuple[str, Callable[[], object]]] = [
        ("scikit-image, a slice at a time", by_scikit_image),
        ("the definitions, a slice at a time", one_by_one),
    ]
    top = float(ref.max())
    if importlib.util.find_spec("monai"):
        from monai.metrics.regression import PSNRMetric, SSIMMetric

        peak, similar = PSNRMetric(max_val=top), SSIMMetric(spatial_dims=2, data_range=top)
        found.append(("MONAI, PSNR and SSIM", lambda: (peak(pred, ref), similar(pred, ref))))
    if importlib.util.find_spec("piq"):
        import piq

        inside = (pred / pred.max(), ref / ref.max())  # piq takes nothing above its range
        found.append(
            (
                "piq, PSNR and SSIM",
                lambda: (piq.psnr(*inside, reduction="none"), piq.ssim(*inside, reduction="none")),
            )
        )
    return found
