"""Validation and test curves of the super-resolution training.

Pixel terms and the PSNR, which alone decides on `best.pt`, are measured on whole slices. The terms
that use another network are measured on a fixed set of patches of the training's size: that is
cheap, and the values compare with the training's, whereas a whole slice gives a transformer another
grid. The discriminator gets all patches in one batch and uses that batch's statistics, as in
training.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mrsr import compute
from mrsr.method import adversarial, features, losses
from mrsr.params.jobs import SuperResolution
from mrsr.slices import batches, holding
from mrsr.training import liveness


def held_out(
    settings: SuperResolution,
    stores: dict[str, Path],
    machine: compute.Machine,
    guide: Path | None,
) -> dict[str, holding.Slices]:
    """The splits that the first process validates on; the others wait for it."""
    wanted = ("validation", "test") if settings.test_curve else ("validation",)
    return {
        split: batches.load_for(settings, stores[split], machine, guide)
        for split in wanted
        if machine.first and split in stores
    }


@torch.no_grad()
def evaluate(
    network: nn.Module,
    held: holding.Slices,
    machine: compute.Machine,
    settings: SuperResolution,
    weights: dict[str, float],
    frozen: features.Frozen | None = None,
    discriminator: nn.Module | None = None,
) -> dict[str, float]:
    """Loss terms, unweighted, their weighted `total`, and the PSNR.

    Pixel terms and PSNR: means over `validation_slices` whole slices (0: all), each counted once.
    PSNR in dB per slice, data range the slice's own (`batches.reach`), on the unpadded area. The
    other terms: see the module's docstring; they need `frozen` and `discriminator`.
    """
    network.eval()
    rows: list[list[float]] = []
    weights = losses.validated(weights)
    pixel, learned = losses.pixel(weights), losses.learned(weights)
    size = 4 if machine.device.type == "cpu" else 16
    for piece, lr, hr, *second in batches.whole(held, batch=size, limit=settings.validation_slices):
        height, width = piece.size
        with machine.autocast():
            images = batches.seen(held, lr, second)
            sr = network(*(image.to(machine.dtype) for image in images))
        sr = sr.to(machine.dtype)[..., :height, :width]
        hr = hr.to(machine.dtype)[..., :height, :width]
        context = losses.Context(lr=lr)
        for one_sr, one_hr in zip(sr.split(1), hr.split(1), strict=True):
            total, each = losses.weighted(pixel, one_sr, one_hr, context)
            peak = batches.reach(one_hr)[0]
            psnr = 10 * torch.log10(peak**2 / (one_sr - one_hr).square().mean())
            if peak > 0:  # a blank slice has no range
                rows.append(torch.stack([*each.values(), total, psnr]).tolist())
    count = max(1, len(rows))
    names = [*pixel, "total", "psnr"]
    if not rows:
        means = dict.fromkeys(names, float("nan"))
    else:
        means = {name: sum(row[i] for row in rows) / count for i, name in enumerate(names)}
    if learned and frozen is not None:
        extra = _on_patches(network, held, machine, settings, learned, frozen, discriminator)
        means["total"] += sum(learned[name] * value for name, value in extra.items())
        means |= extra
    network.train()
    return {name: means[name] for name in (*weights, "total", "psnr")}


def _on_patches(
    network: nn.Module,
    held: holding.Slices,
    machine: compute.Machine,
    settings: SuperResolution,
    learned: dict[str, float],
    frozen: features.Frozen,
    discriminator: nn.Module | None,
) -> dict[str, float]:
    """Means of the learned terms over patches that are the same in every call."""
    lr, hr, *second = batches.batch(
        held,
        0,
        batch=frozen.settings.validation_patches,
        patch=settings.patch,
        seed=settings.seed,
        augment=False,
    )
    lr, hr, *second = (image.to(machine.dtype) for image in (lr, hr, *second))
    compared = {name: weight for name, weight in learned.items() if name != "adversarial"}
    means: dict[str, float] = dict.fromkeys(compared, 0.0)
    generated = []
    parts = compute.micro_batches(lr, hr, settings.micro_batch, *second)
    for lr_part, hr_part, portion, *second_part in parts:
        with machine.autocast():
            sr = network(*batches.seen(held, lr_part, second_part))
        sr = sr.to(machine.dtype)
        codes = features.pair(frozen, compared, lr_part, sr, hr_part)
        context = losses.Context(lr=lr_part, codes=codes)
        for name, term in losses.weighted(compared, sr, hr_part, context)[1].items():
            means[name] += portion * float(term)
        generated.append(sr)
    if discriminator is not None:
        context = losses.Context(discriminator=discriminator, autocast=machine.autocast)
        with adversarial.on_batch_statistics(discriminator):
            term = losses.adversarial(torch.cat(generated), hr, context)
        means["adversarial"] = float(term)
    return means


def remarks(
    network: nn.Module,
    held: dict[str, holding.Slices],
    machine: compute.Machine,
    settings: SuperResolution,
    best: dict[str, dict[str, float]],
) -> list[str]:
    """What a reader of the results must know about a trained network (`liveness.py`).

    held: slices by split. best: metrics of the best step by split.
    """
    if "validation" not in held or "validation" not in best:
        return []
    psnr = best["validation"]["psnr"]
    return liveness.remarks(network, held["validation"], machine, settings, psnr)
