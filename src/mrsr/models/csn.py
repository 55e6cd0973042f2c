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
0.1, so that the variance does not grow with depth.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models import layers as shared
from mrsr.models.layers import Divisible, Network, Skip, Upsampler, begin, convolution
from mrsr.params.typed import Bound, Positive


class ResidualBranch(shared.Block):
    """3x3 convolution, ReLU, 3x3 convolution; the skip is the merge-and-run of the unit."""

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x)


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


class CSN(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); the default sizes are ours.

    Args:
        features: maps of both branches together.
        growth, layers: maps of each dense convolution, and how many of them a unit has.
        units: merge-and-run units of a block. blocks: blocks.
    """

    def __init__(
        self,
        scale: int,
        features: Annotated[int, Bound(least=2), Divisible(2)] = 256,
        growth: Positive = 64,
        layers: Positive = 2,
        units: Positive = 2,
        blocks: Positive = 10,
        skip: Skip = "none",
    ) -> None:
        super().__init__(scale, skip)
        self.first = convolution(1, features)
        body = [Block(features, growth, layers, units) for _ in range(blocks)]
        self.blocks = nn.Sequential(*body)
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.first, self.enlarge, self.last, self.skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.first(lr)
        deep = shallow + self.trunk(self.blocks(shallow))
        return self.skipped(self.last(self.enlarge(deep)), lr)


build = CSN
