"""The paper's discriminator (Fig. 6b): convolutions n64s1 n64s2 n128s1 n128s2 ... n512s2, dense.

Used by the super-resolution training (Eq. 21) and by the auto-encoder's (Eq. 4, 5). It returns
logits: the paper's D(x) is their sigmoid, and `mrsr.method.adversarial` computes the logarithms
from the logits.

Departures from the figure, each an option:

- `pool: true` averages each map before the dense layers, because a dense layer on all pixels of a
  240x240 slice has 118 million weights and fits no other size. `pool: false` is as drawn and needs
  `size`, the height and width of the images.
- `norm: batch` is as drawn (none in the first layer, as in SRGAN, Ledig et al., CVPR 2017);
  use `norm: none` for gradient penalties and very small batches.

With pooling, 64 base maps have 5,214,273 weights and 32 have 1,305,633. By hand:
`python -c "from mrsr.method.discriminator import build; print(build(2, base=32))"`.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
SLOPE = 0.2  # of the leaky ReLU, as in SRGAN
STRIDES = (1, 2, 1, 2, 1, 2, 1, 2)
WIDTHS = (1, 1, 2, 2, 4, 4, 8, 8)  # multiples of the base maps
DENSE = 16  # units of the dense layer, a multiple of the base maps: 1024 for 64


def _initialised(layer: Layer) -> Layer:
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Discriminator(nn.Module):
    """Images (batch, 1, H, W) in normalised intensities to logits (batch, 1); real is positive."""

    def __init__(self, base: int, pool: bool, norm: str, size: int) -> None:
        super().__init__()
        self.pool = pool
        layers: list[nn.Module] = []
        inputs = 1
        for number, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            layers.append(
                _initialised(nn.Conv2d(inputs, width * base, 3, stride=stride, padding=1))
            )
            if norm == "batch" and number > 0:
                layers.append(nn.BatchNorm2d(width * base))
            layers.append(nn.LeakyReLU(SLOPE))
            inputs = width * base
            size = -(-size // stride)
        self.maps = nn.Sequential(*layers)
        self.dense = _initialised(nn.Linear(inputs * (1 if pool else size**2), DENSE * base))
        self.logit = nn.Linear(DENSE * base, 1)
        nn.init.normal_(self.logit.weight, std=0.01)  # starts undecided
        nn.init.zeros_(self.logit.bias)

    def forward(self, image: Tensor) -> Tensor:
        x = self.maps(image)
        x = x.mean(dim=(-2, -1)) if self.pool else torch.flatten(x, 1)
        return self.logit(F.leaky_relu(self.dense(x), SLOPE))


def build(
    scale: int, base: int = 64, pool: bool = True, norm: str = "batch", size: int = 0
) -> nn.Module:
    """The discriminator. Its input is HR images, so it is the same for every scale.

    Args:
        base: maps of the first layer. pool: average each map before the dense layers.
        norm: `batch` or `none`. size: height and width of the images, needed without `pool`.

    Raises:
        UserError: an option has an invalid value.
    """
    if base < 1:
        raise UserError("discriminator: base must be 1 or more")
    if norm not in ("batch", "none"):
        raise UserError(f"discriminator: norm must be batch or none, not '{norm}'")
    if not pool and size < 1:
        raise UserError(
            "discriminator: without pool the dense layer needs size, the images' height and width"
        )
    return Discriminator(base, pool, norm, size)
