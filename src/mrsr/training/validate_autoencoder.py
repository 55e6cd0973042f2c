"""Validation of the auto-encoder during its training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mrsr import compute
from mrsr.method import disentangling
from mrsr.models.autoencoder import AutoEncoder, unprepare
from mrsr.params.jobs import Autoencoder
from mrsr.slices import batches, holding

GROUP = 4  # slices per group, on a CPU and on a GPU


@torch.no_grad()
def evaluate(
    network: AutoEncoder,
    held: holding.Slices,
    machine: compute.Machine,
    settings: Autoencoder,
    weights: dict[str, float],
) -> dict[str, float]:
    """The terms that need no discriminator, their weighted sum and the reconstruction's PSNR.

    On `validation_slices` whole slices (0: all), each paired with another of its shape, without
    blank slices. PSNR in dB per slice, data range the slice's (`batches.reach`).
    """
    network.eval()
    rows: list[Tensor] = []
    counts: list[int] = []
    pieces = batches.whole(held, batch=GROUP, limit=settings.validation_slices)
    for lr, hr in _groups((lr, hr) for _, lr, hr, *_ in pieces):
        lr, hr = lr.to(machine.dtype), hr.to(machine.dtype)
        with machine.autocast():
            each, made = disentangling.terms(network, lr, hr, weights, settings.patch_n)
        total = sum((weights[name] * each[name] for name in weights), start=hr.new_zeros(()))
        grid = (hr.shape[-2], hr.shape[-1])
        error = (unprepare(made[1], grid) - unprepare(made[0], grid)).square()
        peak = batches.reach(hr).square()
        psnr = (10 * torch.log10(peak / error.mean(dim=(1, 2, 3)))).mean()
        rows.append(torch.stack([*(each[name] for name in weights), total, psnr]) * len(hr))
        counts.append(len(hr))
    network.train()
    names = [*weights, "total", "psnr"]
    if not rows:
        return dict.fromkeys(names, float("nan"))
    means = (torch.stack(rows).sum(dim=0) / sum(counts)).tolist()
    return dict(zip(names, means, strict=True))


def _groups(pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Slices of one shape by `GROUP`, without the blank ones, which have no range.

    The group decides the partners of a slice, so the groups are the same on every device. The last
    group of a shape takes the rest too; the only slice of its shape has no partner and is left out.
    """
    waiting: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for lr, hr in pieces:
        mine = waiting.setdefault(hr.shape[1:], [])
        seen = (batches.reach(hr) > 0).tolist()
        mine += [pair for pair, kept in zip(zip(lr, hr, strict=True), seen, strict=True) if kept]
        while len(mine) >= 2 * GROUP:
            yield _stack(mine[:GROUP])
            del mine[:GROUP]
    for mine in waiting.values():
        if len(mine) > 1:
            yield _stack(mine)


def _stack(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    lr, hr = zip(*pairs, strict=True)
    return torch.stack(lr), torch.stack(hr)
