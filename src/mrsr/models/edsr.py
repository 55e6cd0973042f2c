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
- The initial output is close to the input with each pixel repeated (`begin`, ours), or, with
  `skip: bicubic` (ours, adds the interpolated input), close to bicubic; `none` is as published.
- 8x (ours): three stages of 2x, as 4x has two.

Other networks with the same outer layers (RDN, RCAN, CSN, SERAN, FB-GACN) import `convolution`,
`Upsampler` and `check` from here; RDN and RCAN also `begin`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.degrade import upsample
from mrsr.errors import UserError

SCALES = (2, 3, 4, 8)


def convolution(
    inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0, bias: bool = True
) -> nn.Conv2d:
    """Size-preserving convolution, odd kernel; He initialisation times `gain`, bias 0."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


@torch.no_grad()
def begin(head: nn.Conv2d, enlarge: nn.Sequential, last: nn.Conv2d, skip: bool) -> None:
    """Initialise the network to output an upsampled image instead of noise (ours; weights only).

    The output convolution is scaled by 0.01. With the bicubic skip nothing else is needed. Without
    it, map 0 passes the image through: `head`, every upsampling convolution and `last` get centre
    taps of 1, which together repeat each pixel.
    """
    last.weight.mul_(0.01)
    if skip:
        return
    stages = [layer for layer in enlarge if isinstance(layer, nn.Conv2d)]
    carriers = [head.weight[:1], last.weight[:, :1]]
    carriers += [layer.weight[: layer.out_channels // layer.in_channels] for layer in stages]
    for weight in carriers:
        weight.zero_()
        weight[:, 0, 1, 1] = 1.0


class Upsampler(nn.Sequential):
    """(b, features, h, w) to (b, features, scale * h, scale * w): sub-pixel convolutions.

    One stage for 2x and 3x, several 2x stages for 4x and 8x; no activation in between.
    """

    def __init__(self, features: int, scale: int) -> None:
        factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        stages: list[nn.Module] = []
        for factor in factors:
            stages += [convolution(features, features * factor**2), nn.PixelShuffle(factor)]
        super().__init__(*stages)


def check(name: str, scale: int, skip: str, **counts: int) -> None:
    """Raise a `UserError` that names the network for a bad scale or skip, or a count below 1."""
    if scale not in SCALES:
        raise UserError(f"{name}: scale must be one of {list(SCALES)}, not {scale}")
    if skip not in ("none", "bicubic"):
        raise UserError(f"{name}: skip must be none or bicubic, not '{skip}'")
    for option, count in counts.items():
        if count < 1:
            raise UserError(f"{name}: {option} must be 1 or more, not {count}")


class Block(nn.Module):
    """Residual block of Fig. 2c with scaled residual (section 3.2)."""

    def __init__(self, features: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.conv1 = convolution(features, features)
        self.conv2 = convolution(features, features, gain=0.1 / residual_scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_scale * self.conv2(F.relu(self.conv1(x)))


class EDSR(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(
        self, scale: int, features: int, blocks: int, residual_scale: float, skip: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip
        self.head = convolution(1, features)
        self.body = nn.Sequential(*[Block(features, residual_scale) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.head, self.enlarge, self.last, skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        deep = shallow + self.trunk(self.body(shallow))
        sr = self.last(self.enlarge(deep))
        return sr + upsample(lr, self.scale) if self.skip else sr


def build(
    scale: int,
    features: int = 256,
    blocks: int = 32,
    residual_scale: float = 0.1,
    skip: str = "none",
) -> nn.Module:
    """EDSR for `scale` 2, 3, 4 or 8; defaults are the published large network.

    Args:
        features: maps of every layer. blocks: residual blocks.
        residual_scale: factor on each block's residual, above 0 and at most 1.
        skip: `none`, or `bicubic` to add the interpolated input.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    check("edsr", scale, skip, features=features, blocks=blocks)
    if not 0 < residual_scale <= 1:
        raise UserError(f"edsr: residual_scale must be above 0 and at most 1, not {residual_scale}")
    return EDSR(scale, features, blocks, residual_scale, skip == "bicubic")
