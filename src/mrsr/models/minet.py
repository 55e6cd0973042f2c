"""MINet: two contrasts whose features are integrated over all stages of both.

Feng, Fu, Yuan, Xu, "Multi-Contrast MRI Super-Resolution via a Multi-Stage Integration Network",
MICCAI 2021, reference [29] of the paper. The features of the LR target are upsampled first. Then
one branch per contrast runs at HR; its stages are residual groups of RCAN and a convolution:

- after each stage, a 1x1 convolution of both contrasts' features is added to the target's features;
- multi-stage integration: the features of each stage of either contrast are compared with all
  others, and the enriched features of all stages go through one convolution;
- channel-spatial attention: the last features of each branch are multiplied by 1 + a factor from a
  3x3x3 convolution over channels, rows and columns;
- the target's output uses both; the guide's output uses only the attention.

The layout follows the authors' published code (facts only; 6 groups of 6 blocks of 64 maps). It
registers 10,662,899 parameters at 2x, the reported 10.7 M, but never uses 4,172,758 of them: a
third branch, of which only the upsampling is used, the target's own upsampling and other layers.
With the integration's convolution corrected (258,048 more, see below) 6,748,189 parameters are
used, and that is the count here; `tests/models/test_model_minet.py` has the sums.

The guide is used at HR, at its own size, as published. In training mode forward returns (SR image,
{"guide": the guide reconstructed by its branch}), because the publication's loss uses both.

Departures and choices:

- The published code passes features of 2 * (groups + 1) stages to a convolution built for groups +
  1, which cannot run. Here that convolution has the channels that it receives.
- As published, similarities between stages are sums over the whole feature map (so they depend on
  the image's size), and the least similar stages have the largest weights, as in HAN, their source.
- The gains of the two attentions start at 0 in the published code; here at 0.1, because otherwise
  the 3x3x3 convolutions have no gradient at first (ours).
- The published upsampling is for 2x; 3x, 4x and 8x use EDSR's stages (ours).
- Initialisation (ours): He, with small residuals (see rcan.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.layers import (
    AttentionGroup,
    Network,
    Skip,
    Upsampler,
    convolution,
    full,
    full_precision,
)
from mrsr.params.typed import Positive

GUIDED = True
START = 0.1  # initial strength of both attentions


class Integration(nn.Module):
    """Multi-stage integration: stages (b, n, c, h, w) to (b, n * c, h, w), enriched."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((1,), START))

    def forward(self, stages: Tensor) -> Tensor:
        with full_precision(stages):  # sums over whole maps
            flat = full(stages.flatten(2))
            similarity = flat @ flat.transpose(1, 2)
            largest = similarity.amax(dim=-1, keepdim=True)
            weights = torch.softmax(largest - similarity, dim=-1)
            flat = flat + self.strength * (weights @ flat)
        return flat.view_as(stages).flatten(1, 2)


class ChannelSpatial(nn.Module):
    """Multiply each value of features (b, c, h, w) by 1 + strength * a factor in 0..1.

    The factor comes from one 3x3x3 kernel over channels, rows and columns. It is computed as a 2D
    convolution with that kernel on three diagonals: the same sums, many times faster on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(3, 3, 3))  # channels, rows, columns
        nn.init.normal_(self.kernel, std=27**-0.5)
        self.bias = nn.Parameter(torch.zeros(1))
        self.strength = nn.Parameter(torch.full((1,), START))

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[1]
        bands = [self.kernel.new_ones(count - abs(step)).diag(step) for step in (-1, 0, 1)]
        weight = torch.einsum("koi,kyx->oiyx", torch.stack(bands), self.kernel)
        factor = F.conv2d(x, weight, self.bias.expand(count), padding=1)
        return x * (1 + self.strength * torch.sigmoid(factor))


class Branch(nn.Module):
    """One contrast: its stages, and the layers from features (b, inputs, h, w) to its image."""

    def __init__(
        self, features: int, groups: int, blocks: int, reduction: int, inputs: int, gain: float
    ) -> None:
        super().__init__()
        self.head = convolution(1, features)
        stages: list[nn.Module] = [
            AttentionGroup(features, blocks, reduction) for _ in range(groups)
        ]
        self.stages = nn.ModuleList([*stages, convolution(features, features, gain=0.1)])
        self.attention = ChannelSpatial()
        self.merge = convolution(inputs, features, gain=0.1)
        self.last = convolution(features, 1, gain=gain)


class MINet(Network):
    """LR (b, 1, h, w) and guide (b, 1, scale * h, scale * w) to an image of the guide's size.

    Defaults as in the authors' code.

    Args:
        features: maps of every layer. groups: residual groups of each contrast.
        blocks: blocks of each group.
        reduction: of the maps inside the blocks' attention; must divide `features`.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        groups: Positive = 6,
        blocks: Positive = 6,
        reduction: Positive = 16,
        skip: Skip = "none",
    ) -> None:
        if features % reduction:
            raise UserError(f"minet: reduction must divide features = {features}, not {reduction}")
        super().__init__(scale, skip)
        shape = (features, groups, blocks, reduction)
        self.guide = Branch(*shape, inputs=features, gain=1.0)
        self.target = Branch(*shape, inputs=2 * features, gain=self.last_gain)
        self.enlarge = nn.Sequential(Upsampler(features, scale), convolution(features, features))
        count = groups + 1
        self.exchange = nn.ModuleList(
            [convolution(2 * features, features, 1, gain=0.1) for _ in range(count)]
        )
        self.integration = Integration()
        self.gather = convolution(2 * count * features, features)

    def forward(self, lr: Tensor, guide: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        first_other = other = self.guide.head(guide)
        first = x = self.enlarge(self.target.head(lr))
        others, own = [], []
        for stage, other_stage, exchange in zip(
            self.target.stages, self.guide.stages, self.exchange, strict=True
        ):
            other = other_stage(other)
            x = stage(x)
            others.append(other)
            own.append(x)
            x = x + exchange(torch.cat([other, x], dim=1))
        integrated = self.gather(self.integration(torch.stack(others + own, dim=1)))
        both = torch.cat([self.target.attention(x), integrated], dim=1)
        sr = self.skipped(self.target.last(first + self.target.merge(both)), lr)
        if not self.training:
            return sr
        restored = self.guide.merge(self.guide.attention(other)) + first_other
        return sr, {"guide": self.guide.last(restored)}


build = MINet
