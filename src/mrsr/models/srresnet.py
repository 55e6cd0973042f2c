"""The paper's generator: a residual network with pixel-shuffle stages (Fig. 6a, appendix E).

Layout of SRResNet (Ledig et al., CVPR 2017): convolution and ReLU, residual blocks of two 3x3
convolutions, one convolution and a skip around them all, stages that double the size, output
convolution. 16 blocks of 64 maps have 1,380,993 parameters for one channel at 2x.

The paper has batch normalisation and no skip from the input: `norm: batch`, `skip: none`, the
defaults here. `norm: none` with `skip: bicubic` learns the difference from the interpolated image.
What each costs: docs/replication.md.
ReLU replaces SRResNet's PReLU, as appendix E says.

Initialisation: He, scaled for depth. Without normalisation the second convolution of each block is
scaled by 0.1, so that the variance does not grow with the number of blocks. Without a skip map 0
carries the image from the first convolution to the last (`layers.carry`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Network, Odd, Skip, begin, convolution, factors
from mrsr.params.typed import Positive

Norm = Literal["batch", "none"]


def normalise(features: int, norm: Norm) -> nn.Module:
    """Batch normalisation of `features` maps, or nothing."""
    return nn.BatchNorm2d(features) if norm == "batch" else nn.Identity()


def gain(norm: Norm) -> float:
    """Of the first weights of a residual: small where no normalisation keeps it in check."""
    return 1.0 if norm == "batch" else 0.1


class Block(nn.Module):
    """Residual block: 3x3 convolution, norm, activation, 3x3 convolution, norm, plus the input."""

    def __init__(self, features: int, norm: Norm, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv1 = convolution(features, features)
        self.norm1 = normalise(features, norm)
        self.conv2 = convolution(features, features, gain=gain(norm))
        self.norm2 = normalise(features, norm)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.act(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(residual))


class Stage(nn.Module):
    """Upsample by `factor`: convolution to factor**2 times the maps, activation, pixel shuffle.

    The activation acts on each value by itself; it is faster before the values are moved.
    """

    def __init__(self, features: int, factor: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.factor = factor
        self.conv = convolution(features, features * factor**2)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.act(self.conv(x)), self.factor)


class SRResNet(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); defaults as in the paper.

    Args:
        features: maps of every layer. blocks: residual blocks. norm: `batch` or `none`.
        first_kernel, last_kernel: sizes of the outer convolutions.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 16,
        norm: Norm = "batch",
        skip: Skip = "none",
        first_kernel: Odd = 9,
        last_kernel: Odd = 9,
    ) -> None:
        super().__init__(scale, skip)
        self.first = convolution(1, features, first_kernel)
        self.act: nn.Module = nn.ReLU()
        self.blocks = nn.Sequential(*[Block(features, norm) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=gain(norm))
        self.trunk_norm = normalise(features, norm)
        self.stages = nn.Sequential(*[Stage(features, factor) for factor in factors(scale)])
        self.last = convolution(features, 1, last_kernel)
        begin(self.first, self.stages, self.last, self.skip)
        if isinstance(self.trunk_norm, nn.BatchNorm2d) and not self.skip:
            with torch.no_grad():  # its unit variance would drown the image that map 0 carries
                self.trunk_norm.weight[0] = 0.0

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.act(self.first(lr))
        deep = shallow + self.trunk_norm(self.trunk(self.blocks(shallow)))
        return self.skipped(self.last(self.stages(deep)), lr)


build = SRResNet
