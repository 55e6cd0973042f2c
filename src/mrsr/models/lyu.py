"""Multi-contrast super-resolution with a progressive network, after Lyu et al.

Lyu, Shan, Steber, Helis, Whitlow, Chan, Wang, "Multi-Contrast Super-Resolution MRI Through a
Progressive Network", IEEE Transactions on Medical Imaging 39(9), 2020, reference [59] of the paper.

Written from the publication's abstract alone, which was all that was available. From there:

- one level for a low factor, two for a high one: here one for 2x and 3x, and at 4x a second 2x
  level on the output of the first. `progressive: false` is the comparison, one level for any
  factor;
- the contrasts are joined as features, after separate layers, which the publication finds better
  than joining the images; `fusion: pixels` joins the images at the level's input.

Its loss (squared error, adversarial, perceptual and texture terms) is not part of this file.

The layers are ours: three 3x3 convolutions with ReLU for each contrast; a sub-pixel convolution
that brings the target's features to the guide's size; a convolution of both contrasts' features;
residual blocks with a skip around them; an output convolution. A 2x level with 64 maps and 4 blocks
has 666,497 parameters. Each level gets the guide at its own size, downsampled with the bicubic
kernel of `mrsr.resampling`. 8x has three levels. All levels are trained together, through the last
image.

Initialisation: He, residuals scaled by 0.1. `skip: bicubic` acts at each level.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Block, Network, Skip, Upsampler, convolution, factors
from mrsr.params.typed import Positive
from mrsr.resampling import bicubic, upsample

GUIDED = True
LAYERS = 3  # of each contrast before they are joined
Fusion = Literal["features", "pixels"]


class Encoder(nn.Sequential):
    """An image (b, inputs, h, w) to features (b, c, h, w): convolutions with ReLU."""

    def __init__(self, inputs: int, features: int) -> None:
        layers: list[nn.Module] = []
        for number in range(LAYERS):
            layers += [convolution(features if number else inputs, features), nn.ReLU()]
        super().__init__(*layers)


class Level(Network):
    """Upsample (b, 1, h, w) by `factor`, with a guide (b, 1, factor * h, factor * w)."""

    def __init__(self, factor: int, features: int, blocks: int, fusion: Fusion, skip: Skip) -> None:
        super().__init__(factor, skip)
        self.fusion = fusion
        if fusion == "features":
            self.target = Encoder(1, features)
            self.enlarge = Upsampler(features, factor)
            self.guide = Encoder(1, features)
            self.fuse = convolution(2 * features, features)
        else:
            self.both = Encoder(2, features)
        self.blocks = nn.Sequential(*[Block(features) for _ in range(blocks)])
        self.last = convolution(features, 1, gain=self.last_gain)

    def forward(self, image: Tensor, guide: Tensor) -> Tensor:
        if self.fusion == "features":
            target = self.enlarge(self.target(image))
            x = F.relu(self.fuse(torch.cat([target, self.guide(guide)], dim=1)))
        else:
            x = self.both(torch.cat([upsample(image, self.scale), guide], dim=1))
        return self.skipped(self.last(self.blocks(x)), image)


class Progressive(nn.Module):
    """LR (b, 1, h, w) and guide (b, 1, scale * h, scale * w) to an image of the guide's size.

    Widths and depths are ours.

    Args:
        features: maps of every layer. blocks: residual blocks of each level.
        progressive: 2x levels if the scale is 4 or 8; otherwise one level.
        fusion: join the contrasts as `features` or as `pixels`.
        skip: at each level.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 4,
        progressive: bool = True,
        fusion: Fusion = "features",
        skip: Skip = "none",
    ) -> None:
        super().__init__()
        self.factors = factors(scale) if progressive else [scale]
        self.levels = nn.ModuleList(
            Level(factor, features, blocks, fusion, skip) for factor in self.factors
        )

    def forward(self, lr: Tensor, guide: Tensor) -> Tensor:
        image = lr
        for level, factor in zip(self.levels, self.factors, strict=True):
            height, width = image.shape[-2] * factor, image.shape[-1] * factor
            full = (height, width) == (guide.shape[-2], guide.shape[-1])
            image = level(image, guide if full else bicubic(guide, (height, width)))
        return image


build = Progressive
