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
- `skip: bicubic` adds the interpolated image to the output; `none` is as published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.resampling import upsample


class SRCNN(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(
        self, scale: int, kernels: Sequence[int], features: Sequence[int], skip: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip
        self.margin = sum(kernel // 2 for kernel in kernels)
        self.extract = nn.Conv2d(1, features[0], kernels[0])
        self.map = nn.Conv2d(features[0], features[1], kernels[1])
        self.reconstruct = nn.Conv2d(features[1], 1, kernels[2])

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
        nn.init.zeros_(layer.bias)
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
        nn.init.zeros_(layer.bias)


INITIALISERS = {"identity": _identity, "gaussian": _gaussian}


def build(
    scale: int,
    kernels: Sequence[int] = (9, 1, 5),
    features: Sequence[int] = (64, 32),
    skip: str = "none",
    init: str = "identity",
) -> nn.Module:
    """SRCNN; `kernels` are three odd sizes, `features` the maps of the first two layers.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    if len(kernels) != 3 or any(kernel % 2 == 0 or kernel < 1 for kernel in kernels):
        raise UserError(f"srcnn: kernels must be three odd sizes such as [9, 1, 5], not {kernels}")
    if len(features) != 2 or min(features) < 1:
        raise UserError(f"srcnn: features must be two counts such as [64, 32], not {features}")
    if skip not in ("none", "bicubic"):
        raise UserError(f"srcnn: skip must be none or bicubic, not '{skip}'")
    if init not in INITIALISERS:
        raise UserError(f"srcnn: init must be one of {', '.join(INITIALISERS)}, not '{init}'")
    network = SRCNN(scale, kernels, features, skip == "bicubic")
    INITIALISERS[init](network)
    return network
