"""SRCNN: three convolutions on the bicubically upsampled image.

Dong, Loy, He, Tang, "Image Super-Resolution Using Deep Convolutional Networks", TPAMI 2016,
reference [26] of the paper. 9-1-5 with 64 and 32 maps has 8,129 parameters for one channel;
9-5-5 has 57,281.

Departures:

- `init: identity` (default): one chain of centre taps passes the image through the three layers.
  The other weights are He-initialised (the last layer's scaled by 0.1), so training starts near
  bicubic. `init: gaussian` is as published (standard deviation 0.001); from there Adam spends its
  first few hundred steps learning the identity.
- The image is padded by replication before the first convolution, so the output has the input's
  size. In the publication the image shrinks.
- Trained with Adam and one learning rate, like all methods, instead of SGD with a separate rate for
  the last layer.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Odd, Skip, fill_bias
from mrsr.params.typed import Positive
from mrsr.resampling import upsample


class SRCNN(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w).

    Args:
        kernels: sizes of the three convolutions. features: maps of the first two.
        init: how the weights begin.
    """

    def __init__(
        self,
        scale: int,
        kernels: tuple[Odd, Odd, Odd] = (9, 1, 5),
        features: tuple[Positive, Positive] = (64, 32),
        skip: Skip = "none",
        init: Literal["identity", "gaussian"] = "identity",
    ) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip == "bicubic"
        self.margin = sum(kernel // 2 for kernel in kernels)
        self.extract = nn.Conv2d(1, features[0], kernels[0])
        self.map = nn.Conv2d(features[0], features[1], kernels[1])
        self.reconstruct = nn.Conv2d(features[1], 1, kernels[2])
        start = _identity if init == "identity" else _gaussian
        start(self)

    def forward(self, lr: Tensor) -> Tensor:
        image = upsample(lr, self.scale)
        x = F.pad(image, [self.margin] * 4, mode="replicate")
        x = F.relu(self.extract(x))
        x = F.relu(self.map(x))
        x = self.reconstruct(x)
        return image + x if self.skip else x


@torch.no_grad()
def _identity(network: SRCNN) -> None:
    """He initialisation; channel 0 of each layer passes the (non-negative) image through."""
    layers = [network.extract, network.map, network.reconstruct]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        fill_bias(layer, 0.0)
    network.reconstruct.weight.mul_(0.1)
    if network.skip:
        return  # the skip already passes the image through
    for layer in layers:
        centre = layer.kernel_size[0] // 2
        if layer is not network.reconstruct:
            layer.weight[0] = 0.0
        layer.weight[0, 0] = 0.0
        layer.weight[0, 0, centre, centre] = 1.0


@torch.no_grad()
def _gaussian(network: SRCNN) -> None:
    """As published: Gaussian weights of standard deviation 0.001, biases zero."""
    for layer in (network.extract, network.map, network.reconstruct):
        nn.init.normal_(layer.weight, std=0.001)
        fill_bias(layer, 0.0)


build = SRCNN
