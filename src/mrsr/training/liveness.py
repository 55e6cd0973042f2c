"""Whether a trained network does anything: some die, and some are worse than no training.

A network whose ReLUs have died gives one image for every input, or the interpolated input where it
has a skip. Its PSNR looks like that of a poor design, so the training says what happened.
"""

from __future__ import annotations

import torch
from torch import nn

from mrsr import compute
from mrsr.params.jobs import SuperResolution
from mrsr.resampling import upsample
from mrsr.slices import batches, holding

STILL = 1e-4  # of the largest intensity: far below what any metric shows


def remarks(
    network: nn.Module,
    held: holding.Slices,
    machine: compute.Machine,
    settings: SuperResolution,
    psnr: float,
) -> list[str]:
    """What a reader of the results must know about this network; usually nothing.

    Args:
        network: after the last step. held: the validation slices.
        psnr: of the best step on those slices, in dB, as `validation.evaluate` measures it.
    """
    found = []
    if not depends_on_input(network, held, machine):
        rest = ", the skip aside," if getattr(network, "skip", False) else ""
        found.append(
            f"dead: after the last step the output{rest} does not depend on the input; "
            "lower optimizer.lr, or raise schedule.warmup"
        )
    bicubic = bicubic_psnr(held, machine, settings)
    if psnr < bicubic:
        found.append(
            f"below bicubic: {psnr:.2f} dB against {bicubic:.2f} dB on the validation slices"
        )
    return found


@torch.no_grad()
def depends_on_input(network: nn.Module, held: holding.Slices, machine: compute.Machine) -> bool:
    """Whether the output, without the interpolated input, changes with the input."""
    network.eval()
    _, lr, hr, *second = next(iter(batches.whole(held, batch=1, limit=1)))
    images = [image.to(machine.dtype) for image in batches.seen(held, lr, second)]
    answers = []
    for shown in (images, [image.flip(-1, -2) for image in images]):
        with machine.autocast():
            sr = network(*shown)
        if getattr(network, "skip", False):
            sr = sr - upsample(shown[0], hr.shape[-1] // shown[0].shape[-1])
        answers.append(sr.to(machine.dtype))
    network.train()
    return float((answers[0] - answers[1]).abs().max()) > STILL * float(hr.max())


def bicubic_psnr(
    held: holding.Slices, machine: compute.Machine, settings: SuperResolution
) -> float:
    """PSNR in dB of the interpolated LR, on the slices and by the definition of the validation."""
    values = []
    for piece, lr, hr, *_ in batches.whole(held, batch=1, limit=settings.validation_slices):
        height, width = piece.size
        sr = upsample(lr.to(machine.dtype), settings.scale)[..., :height, :width]
        hr = hr.to(machine.dtype)[..., :height, :width]
        if hr.max() > 0:
            values.append(10 * torch.log10(hr.max() ** 2 / (sr - hr).square().mean()))
    return float(torch.stack(values).mean()) if values else float("nan")
