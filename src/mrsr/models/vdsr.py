"""VDSR: twenty 3x3 convolutions learn the residual of the bicubically upsampled image.

Kim, Lee, Lee, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016,
reference [47] of the paper. The file follows its section 3.1 and Fig. 2: interpolation first, then
3x3 convolutions with ReLU between them, zero padding, and the input added to the
result. D layers have a receptive field of 2 D + 1 pixels: 41 for the published 20.

20 layers of 64 maps have 664,704 weights, the 0.665 M that later papers report, and 1,217 biases:
665,921 parameters for one channel. The number does not depend on the scale.

Departures and choices:

- One network per scale, like every method here; the publication's main network handles 2x, 3x and
  4x. 8x was not published, but the design allows it.
- He initialisation, as published; the last layer is scaled by 0.01 (ours), so that training starts
  from the interpolated image.
- Its training (SGD at a rate of 0.1 with gradients clipped by the rate) is set in params.yaml,
  not here.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from torch import Tensor, nn

from mrsr.models.layers import convolution
from mrsr.params.typed import Bound, Positive
from mrsr.resampling import upsample


class VDSR(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); defaults as published.

    Args:
        features: maps of every layer but the last. layers: convolutions.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        layers: Annotated[int, Bound(least=2)] = 20,
    ) -> None:
        super().__init__()
        self.scale = scale
        widths = [1, *[features] * (layers - 1), 1]
        convolutions = [convolution(*pair) for pair in itertools.pairwise(widths)]
        chain = [part for layer in convolutions for part in (layer, nn.ReLU())]
        self.residual = nn.Sequential(*chain[:-1])  # the last layer outputs signed differences
        with torch.no_grad():
            convolutions[-1].weight.mul_(0.01)

    def forward(self, lr: Tensor) -> Tensor:
        image = upsample(lr, self.scale)
        return image + self.residual(image)


build = VDSR
