"""EDSR: residual blocks without normalisation, with scaled residuals.

Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution",
CVPR Workshops 2017, reference [56] of the paper. The file follows its Fig. 2c (block), Fig. 3
(network) and section 3.2: convolution; blocks of 3x3 convolution, ReLU, 3x3 convolution, times
`residual_scale`, plus the input; one convolution and a skip around all blocks; pixel-shuffle stages
without activation; output convolution. No ReLU outside the blocks.

The defaults are the large network, 32 blocks of 256 maps with a residual scale of 0.1: 40,720,385
parameters for one channel at 2x (the publication's 43 M are for three channels at 4x). Its baseline
is `features: 64, blocks: 16, residual_scale: 1.0`: 1,367,553 parameters at 2x.

Departures and choices:

- No subtraction of the mean colour of natural images: intensities are already normalised.
- Initialisation (ours): He. The second convolution of a block is scaled so that the residual is a
  tenth of its input for any `residual_scale`, so the variance does not grow with depth.
- The initial output is close to the input with each pixel repeated (`begin`, ours).
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from mrsr.models.layers import Block, Network, Skip, Upsampler, begin, convolution
from mrsr.params.typed import Bound, Positive


class EDSR(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); the published large network.

    Args:
        features: maps of every layer. blocks: residual blocks.
        residual_scale: factor on each block's residual.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 256,
        blocks: Positive = 32,
        residual_scale: Annotated[float, Bound(above=0, most=1)] = 0.1,
        skip: Skip = "none",
    ) -> None:
        super().__init__(scale, skip)
        self.head = convolution(1, features)
        self.body = nn.Sequential(*[Block(features, residual_scale) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.head, self.enlarge, self.last, self.skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        deep = shallow + self.trunk(self.body(shallow))
        return self.skipped(self.last(self.enlarge(deep)), lr)


build = EDSR
