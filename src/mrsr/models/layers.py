"""What several networks share: layers, initialisations, and types of their options."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.params.typed import Bound
from mrsr.resampling import upsample

Skip = Literal["none", "bicubic"]


@dataclass(frozen=True)
class Divisible:
    """Marks a whole number that divides by `by`, with a fixed remainder."""

    by: int
    remainder: int = 0

    def problem(self, value: int) -> str:
        """What is wrong with a value; empty when it divides."""
        if value % self.by == self.remainder:
            return ""
        names = {(2, 0): "even", (2, 1): "odd"}
        return f"must be {names.get((self.by, self.remainder), f'a multiple of {self.by}')}"


Odd = Annotated[int, Bound(least=1), Divisible(2, 1)]


def full(x: Tensor) -> Tensor:
    """bf16 and fp16 as float32; float32 and float64 (`precision: fp64`) as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """No autocast, for sums of very many products; the meta device has none to turn off."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return contextlib.nullcontext()


def fill_bias(layer: nn.Conv2d | nn.Linear, value: float) -> None:
    """Set the bias of a layer, where it has one."""
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)


class ToOneMap(nn.Conv2d):
    """A convolution with one output map, on CPUs as a column of taps and then a row of them.

    The column's convolution has one output for each of the `kernel` columns; the row's adds the
    outputs, each shifted to its place. The products are the same. CPU libraries compute several
    outputs at a time, so that a single one takes two to three times as long as its share of the
    arithmetic (bench/output_layer.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        size, padding = self.kernel_size[0], self.kernel_size[0] // 2
        plain = size == 1 or self.padding_mode != "zeros" or x.device.type != "cpu"
        if (
            plain
            or x.dtype not in (torch.float32, torch.float64)
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)  # in bf16 the column's outputs would be rounded in between
        columns = F.conv2d(x, self.weight[0].permute(2, 0, 1)[..., None], padding=(padding, 0))
        place = torch.eye(size, dtype=x.dtype)[None, :, None]
        return F.conv2d(columns, place, self.bias, padding=(0, padding))


def convolution(
    inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0, **options: Any
) -> nn.Conv2d:
    """Size-preserving convolution, odd kernel; He initialisation times `gain`, bias 0.

    options: of `nn.Conv2d`, such as `bias` and `padding_mode`.
    """
    kind = ToOneMap if outputs == 1 else nn.Conv2d
    layer = kind(inputs, outputs, kernel, padding=kernel // 2, **options)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    fill_bias(layer, 0.0)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


def begin(head: nn.Conv2d, enlarge: nn.Module, last: nn.Conv2d, skip: bool) -> None:
    """Initialise the network to output an upsampled image instead of noise (ours; weights only).

    The output convolution is scaled by 0.01. With the bicubic skip nothing else is needed; without
    it, the image is carried through (`carry`).
    """
    with torch.no_grad():
        last.weight.mul_(0.01)
    if not skip:
        carry(head, enlarge, last)


@torch.no_grad()
def carry(head: nn.Conv2d, enlarge: nn.Module, last: nn.Conv2d) -> None:
    """Let map 0 carry the image from `head` to `last`, so that each pixel is repeated.

    `head`, every convolution of `enlarge` and `last` get centre taps of 1. Without this start and
    without a skip the first output is noise as strong as the image, and the ReLUs after a pixel
    shuffle may die of it (docs/replication.md).
    """
    stages = [layer for layer in enlarge.modules() if isinstance(layer, nn.Conv2d)]
    carriers = [head.weight[:1], last.weight[:, :1]]
    carriers += [layer.weight[: layer.out_channels // layer.in_channels] for layer in stages]
    for weight in carriers:
        centre = weight.shape[-1] // 2
        weight.zero_()
        weight[:, 0, centre, centre] = 1.0


class Network(nn.Module):
    """Base of the networks that may add the interpolated input to their output.

    Args:
        skip: `bicubic` adds it (ours, with the output convolution's first weights scaled by 0.01,
            so that training starts near bicubic); `none` is as published.
    """

    def __init__(self, scale: int, skip: Skip) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip == "bicubic"
        self.last_gain = 0.01 if self.skip else 1.0  # of the output convolution's first weights

    def skipped(self, sr: Tensor, lr: Tensor) -> Tensor:
        """`sr` (b, 1, scale * h, scale * w), plus `lr` (b, 1, h, w) upsampled if `skip` says so."""
        return sr + upsample(lr, self.scale) if self.skip else sr


def factors(scale: int) -> list[int]:
    """Upsampling stages: one for 2x and 3x, two and three of 2x for 4x and 8x (8x is ours)."""
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


class Upsampler(nn.Sequential):
    """(b, features, h, w) to (b, features, scale * h, scale * w): sub-pixel convolutions.

    No activation in between.
    """

    def __init__(self, features: int, scale: int) -> None:
        stages: list[nn.Module] = []
        for factor in factors(scale):
            stages += [convolution(features, features * factor**2), nn.PixelShuffle(factor)]
        super().__init__(*stages)


class Block(nn.Module):
    """EDSR's residual block (its Fig. 2c, section 3.2): no normalisation, scaled residual.

    The residual starts as a tenth of its input for any `residual_scale`, so the variance does not
    grow with depth.
    """

    def __init__(self, features: int, residual_scale: float = 1.0) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.conv1 = convolution(features, features)
        self.conv2 = convolution(features, features, gain=0.1 / residual_scale)

    def residual(self, x: Tensor) -> Tensor:
        """3x3 convolution, ReLU, 3x3 convolution."""
        return self.conv2(F.relu(self.conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual_scale * self.residual(x)


class ChannelAttention(nn.Module):
    """RCAN's: multiply each map of (b, features, h, w) by one factor in 0..1 per image and map."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = convolution(features, features // reduction, 1)
        self.excite = convolution(features // reduction, features, 1)
        fill_bias(self.squeeze, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        content = x.mean(dim=(-2, -1), keepdim=True)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(content))))


class AttentionBlock(Block):
    """RCAN's residual channel attention block (its Fig. 4)."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__(features)
        self.attention = ChannelAttention(features, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.residual(x))


class AttentionGroup(nn.Module):
    """RCAN's residual group: blocks, one convolution, plus the input."""

    def __init__(self, features: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[AttentionBlock(features, reduction) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(self.blocks(x))
