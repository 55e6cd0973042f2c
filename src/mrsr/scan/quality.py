"""Where an output may be wrong: how much its estimates differ over the flips and turns.

A network gives eight estimates of each slice, one for every flip and turn of its input, each turned
back. Where they disagree the image leaves room for more than one answer. Their standard deviation
in each pixel is the quality map: 0 is agreement. It is no error bar: what all eight get wrong in
the same way is not in it. docs/howto/quality-map.md says how well it predicts errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import inference

TURNS = 8


class Disagreement(nn.Module):
    """LR (n, 1, h, w) to the standard deviation of eight estimates (n, 1, scale * h, scale * w)."""

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        # whole slices, padded inside by each turned call: h and w change places
        self.multiple = int(getattr(network, "multiple", 1))

    def forward(self, lr: Tensor, *guide: Tensor) -> Tensor:
        # about the first estimate, so that equal ones give exactly 0
        first = total = square = torch.zeros(())
        for flips, turned in itertools.product(((), (-2,), (-1,), (-2, -1)), (False, True)):
            images = [(one.mT if turned else one).flip(flips) for one in (lr, *guide)]
            fine = self.network(images[0].contiguous(), *images[1:]).flip(flips)
            fine = (fine.mT if turned else fine).float()
            if not total.ndim:
                first, total, square = fine, torch.zeros_like(fine), torch.zeros_like(fine)
            total = total + (fine - first)
            square = square + (fine - first) ** 2
        mean = total / TURNS
        return (square / TURNS - mean**2).clamp(min=0).sqrt()


def maps(
    network: nn.Module, image: np.ndarray, scale: int, **options: Any
) -> Iterator[tuple[slice, np.ndarray]]:
    """(slices, h, w) normalised -> the quality map of a few slices at a time; see `slabs`.

    options: of `inference.slabs`, without `ensemble`: the eight are part of it.
    """
    return inference.slabs(Disagreement(network, scale), image, scale, **options)
