"""CSN: channels split into a residual and a dense branch, linked by merge-and-run.

Zhao, Zhang, Zhang, Zou, "Channel Splitting Network for Single MR Image Super-Resolution", IEEE
Transactions on Image Processing 2019 (arXiv 1810.06453), reference [194] of the paper.

From the publication's abstract: the features are split into two branches, a residual one that
reuses features and a dense one that explores new ones, and merge-and-run mapping exchanges
information between them. Merge-and-run (Zhao et al., arXiv 1611.07718): the mean of the branches'
inputs is added to the output of each branch.

The rest is ours, because only the abstract was available: a unit has two 3x3 convolutions in the
residual branch and `layers` densely connected 3x3 convolutions with a 1x1 fusion in the dense one;
a block is `units` units, a 1x1 convolution over both branches and a skip; a skip runs around all
blocks; pixel shuffles without activation upsample; widths, depths and initialisation.

Our defaults have 13,863,425 parameters for one channel at 2x. We did not find the published count,
nor the published widths and depths.

Initialisation: He; the last convolution of each branch and block, and of the trunk, is scaled by
0.1, so that the variance does not grow with depth. With the bicubic skip the output convolution is
scaled by 0.01.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.layers import Upsampler, check, convolution
from mrsr.resampling import upsample

SCALES = (2, 3, 4, 8)


class ResidualBranch(nn.Module):
    """3x3 convolution, ReLU, 3x3 convolution; the skip is the merge-and-run of the unit."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = convolution(features, features)
        self.conv2 = convolution(features, features, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(x)))


class DenseBranch(nn.Module):
    """Each 3x3 convolution adds `growth` maps to the next one's input; then 1x1 to `features`."""

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [features + i * growth for i in range(layers + 1)]
        self.layers = nn.ModuleList([convolution(width, growth) for width in widths[:-1]])
        self.fuse = convolution(widths[-1], features, 1, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], dim=1)
        return self.fuse(x)


class Unit(nn.Module):
    """Apply both branches and add the mean of their inputs to both outputs (merge-and-run)."""

    def __init__(self, features: int, growth: int, layers: int) -> None:
        super().__init__()
        self.residual = ResidualBranch(features)
        self.dense = DenseBranch(features, growth, layers)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        merged = (a + b) / 2
        return self.residual(a) + merged, self.dense(b) + merged


class Block(nn.Module):
    """Split the channels, run the units, merge by a 1x1 convolution, add the input."""

    def __init__(self, features: int, growth: int, layers: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList([Unit(features // 2, growth, layers) for _ in range(units)])
        self.fuse = convolution(features, features, 1, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        for unit in self.units:
            a, b = unit(a, b)
        return x + self.fuse(torch.cat([a, b], dim=1))


class CSN(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(
        self,
        scale: int,
        features: int,
        growth: int,
        layers: int,
        units: int,
        blocks: int,
        skip: bool,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip
        self.first = convolution(1, features)
        body = [Block(features, growth, layers, units) for _ in range(blocks)]
        self.blocks = nn.Sequential(*body)
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1, gain=0.01 if skip else 1.0)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.first(lr)
        deep = self.trunk(self.blocks(shallow))
        sr = self.last(self.enlarge(shallow + deep))
        return sr + upsample(lr, self.scale) if self.skip else sr


def build(
    scale: int,
    features: int = 256,
    growth: int = 64,
    layers: int = 2,
    units: int = 2,
    blocks: int = 10,
    skip: str = "none",
) -> nn.Module:
    """CSN for `scale` 2, 3, 4 or 8; the default sizes are ours.

    Args:
        features: maps of both branches together, an even number.
        growth, layers: maps of each dense convolution, and how many of them a unit has.
        units: merge-and-run units of a block. blocks: blocks.
        skip: `none`, or `bicubic` to add the interpolated input.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    check("csn", scale, skip, growth=growth, layers=layers, units=units, blocks=blocks)
    if features < 2 or features % 2:
        raise UserError(f"csn: features must be an even number of 2 or more, not {features}")
    return CSN(scale, features, growth, layers, units, blocks, skip == "bicubic")
