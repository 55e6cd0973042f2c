"""RDN: residual dense blocks whose outputs are all fused at the end.

Zhang, Tian, Kong, Zhong, Fu, "Residual Dense Network for Image Super-Resolution", CVPR 2018,
reference [192] of the paper. The file follows its section 3 with Fig. 2 (network) and Fig. 3
(block), in the publication's letters:

- shallow features: two 3x3 convolutions, the first one's result F_-1 kept for the global residual;
- D residual dense blocks: C layers of 3x3 convolution and ReLU, each with the block's input and the
  G maps of every earlier layer as input (contiguous memory); a 1x1 convolution fuses them (local
  feature fusion); plus the block's input (local residual learning);
- global feature fusion: 1x1 over the outputs of all D blocks, then 3x3, plus F_-1;
- sub-pixel upsampling as in EDSR, and an output convolution.

D = 16, C = 8, G = 64 with G0 = 64 maps between blocks have 22,121,089 parameters for one channel
at 2x (others report 22.12 M for three channels).

Departures and choices:

- Initialisation (ours): He; each block's fusion and the last layer of the global fusion are scaled
  by 0.1, so the variance does not grow with depth.
- As in EDSR here, the initial output is close to the input with each pixel repeated (ours).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Network, Skip, Upsampler, begin, convolution
from mrsr.params.typed import Positive


class DenseBlock(nn.Module):
    """Residual dense block: `layers` dense layers of `growth` maps, fused to `features` maps."""

    def __init__(self, features: int, layers: int, growth: int) -> None:
        super().__init__()
        widths = [features + index * growth for index in range(layers)]
        self.layers = nn.ModuleList([convolution(width, growth) for width in widths])
        self.fusion = convolution(features + layers * growth, features, 1, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        memory = x
        for layer in self.layers:
            memory = torch.cat([memory, F.relu(layer(memory))], dim=1)
        return x + self.fusion(memory)


class RDN(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); defaults as published.

    Args:
        features: maps between blocks (G0). blocks: residual dense blocks (D).
        layers: dense layers of a block (C). growth: maps added by each layer (G).
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 16,
        layers: Positive = 8,
        growth: Positive = 64,
        skip: Skip = "none",
    ) -> None:
        super().__init__(scale, skip)
        self.shallow1 = convolution(1, features)
        self.shallow2 = convolution(features, features)
        self.blocks = nn.ModuleList([DenseBlock(features, layers, growth) for _ in range(blocks)])
        self.fusion1 = convolution(blocks * features, features, 1)
        self.fusion3 = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.shallow1, self.enlarge, self.last, self.skip)

    def forward(self, lr: Tensor) -> Tensor:
        first = self.shallow1(lr)
        x = self.shallow2(first)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        fused = self.fusion3(self.fusion1(torch.cat(outputs, dim=1)))
        return self.skipped(self.last(self.enlarge(first + fused)), lr)


build = RDN
