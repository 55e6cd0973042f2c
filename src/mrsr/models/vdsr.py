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

import torch
from torch import Tensor, nn

from mrsr.errors import UserError
from mrsr.resampling import upsample

SCALES = (2, 3, 4, 8)


class VDSR(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(self, scale: int, features: int, layers: int) -> None:
        super().__init__()
        self.scale = scale
        widths = [1, *[features] * (layers - 1), 1]
        chain: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layer = nn.Conv2d(inputs, outputs, 3, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            chain += [layer, nn.ReLU()]
        self.residual = nn.Sequential(*chain[:-1])  # the last layer outputs signed differences
        with torch.no_grad():
            self.residual[-1].weight.mul_(0.01)

    def forward(self, lr: Tensor) -> Tensor:
        image = upsample(lr, self.scale)
        return image + self.residual(image)


def build(scale: int, features: int = 64, layers: int = 20) -> nn.Module:
    """VDSR for `scale` 2, 3, 4 or 8; defaults as published.

    Args:
        features: maps of every layer but the last. layers: convolutions, at least 2.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    if scale not in SCALES:
        raise UserError(f"vdsr: scale must be one of {list(SCALES)}, not {scale}")
    if features < 1:
        raise UserError(f"vdsr: features must be 1 or more, not {features}")
    if layers < 2:
        raise UserError(f"vdsr: layers must be 2 or more, not {layers}")
    return VDSR(scale, features, layers)
