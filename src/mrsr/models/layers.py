"""Layers and initialisations that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.resampling import SCALES


def full(x: Tensor) -> Tensor:
    """bf16 and fp16 as float32; float32 and float64 (`precision: fp64`) as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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
