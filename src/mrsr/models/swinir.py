"""SwinIR: attention within shifted windows, in residual groups.

Liang, Cao, Sun, Zhang, Van Gool, Timofte, "SwinIR: Image Restoration Using Swin Transformer",
ICCV Workshops 2021; not in the paper's tables, added here. Follows its Fig. 2 and section 3:
a 3x3 convolution; groups of transformer layers that end in a 3x3 convolution, each with a skip
around it; one more convolution and a skip around all groups; an upsampler. A layer is
x + MSA(LN(x)), then x + MLP(LN(x)), and every second layer shifts its windows by half of one.

Parameters for one channel at 2x: 11,748,093 at the defaults (the publication's medium network, for
classical super-resolution) and 904,744 with `embed: 60`, `depths: [6, 6, 6, 6]` and
`upsampler: pixelshuffledirect` (its lightweight network).

How the layers work here:

- Any height and width: the LR image is padded to whole windows by replication
  (`mrsr.resampling.pad_to`) and the output is cropped.
- The attention mask for shifted windows is computed from the image's size, once per call; nothing
  of a fixed size is stored. An axis with a single window is not shifted.
- There is a layer norm before the first and after the last layer, as in the authors' published
  configurations; the publication's text does not mention them.

Departures: no stochastic depth (the authors' configurations drop at most 10 % of the layers),
replication padding instead of reflection, no mean of natural images. Initialisation: linear layers
and position biases from a normal distribution with standard deviation 0.02, truncated at two
deviations; convolutions uniform in 1 / sqrt(fan in), as the authors do; biases zero (ours).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.layers import Network, Skip, factors, fill_bias
from mrsr.params.typed import Above, Bound, Positive
from mrsr.resampling import pad_to


def _conv(inputs: int, outputs: int, gain: float = 1.0) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
    fill_bias(layer, 0.0)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
    fill_bias(layer, 0.0)
    return layer


class Norm(nn.LayerNorm):
    """Layer norm of the last axis, at least in the precision of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.promote_types(x.dtype, self.weight.dtype)))


def to_windows(x: Tensor, window: int) -> Tensor:
    """(batch, h, w, c) to (batch, windows, window**2, c), row by row; h and w divide by window."""
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.unflatten(2, (columns, window)).unflatten(1, (rows, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `to_windows`: (batch, windows, window**2, c) to (batch, *size, c)."""
    rows, columns = size[0] // window, size[1] // window
    x = x.unflatten(2, (window, window)).unflatten(1, (rows, columns))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def offsets(window: int, device: torch.device) -> Tensor:
    """(window**2, window**2): index into the bias table for each pair of pixels of a window."""
    along = torch.arange(window, device=device)
    apart = along[:, None] - along + window - 1  # 0 ... 2 * window - 2
    pairs = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return pairs.flatten(2).flatten(0, 1)


def shift_for(size: tuple[int, int], window: int) -> tuple[int, int]:
    """Shift of an image's windows along both axes: half a window, 0 if there is only one."""
    return tuple(window // 2 if length > window else 0 for length in size)  # type: ignore[return-value]


def strangers(
    size: tuple[int, int], window: int, shift: tuple[int, int], device: torch.device
) -> Tensor:
    """Attention mask (windows, window**2, window**2): true for pixels from opposite borders.

    After the image is rolled by `shift`, its last windows hold pixels from two opposite borders.
    """
    wrapped = [
        torch.arange(length, device=device) >= length - by
        for length, by in zip(size, shift, strict=True)
    ]
    part = 2 * wrapped[0].int()[:, None] + wrapped[1].int()
    part = to_windows(part[None, :, :, None], window)[0, :, :, 0]
    return part[:, :, None] != part[:, None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learned bias per relative position."""

    def __init__(self, embed: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02, a=-0.04, b=0.04)
        self.qkv = _linear(embed, 3 * embed)
        self.out = _linear(embed, embed)

    def forward(self, x: Tensor, pairs: Tensor, apart: Tensor | None) -> Tensor:
        """x: (batch, windows, pixels, embed). pairs: see `offsets`. apart: see `strangers`."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.transpose(-4, -2).unbind(-3)  # (batch, windows, heads, pixels, n)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        scores = scores.to(torch.promote_types(scores.dtype, self.bias.dtype))
        scores = scores + self.bias[pairs].permute(2, 0, 1)
        if apart is not None:
            scores = scores.masked_fill(apart[:, None], -torch.inf)
        mixed = scores.softmax(dim=-1).to(value.dtype) @ value
        return self.out(mixed.transpose(-3, -2).flatten(-2))


class Layer(nn.Module):
    """One transformer layer on (batch, h, w, embed)."""

    def __init__(self, embed: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = Norm(embed)
        self.attention = WindowAttention(embed, heads, window)
        self.norm2 = Norm(embed)
        self.widen = _linear(embed, hidden)
        self.narrow = _linear(hidden, embed)

    def forward(
        self, x: Tensor, pairs: Tensor, shift: tuple[int, int], apart: Tensor | None
    ) -> Tensor:
        size = (x.shape[1], x.shape[2])
        y = self.norm1(x)
        if any(shift):
            y = y.roll((-shift[0], -shift[1]), dims=(1, 2))
        y = self.attention(to_windows(y, self.window), pairs, apart)
        y = from_windows(y, self.window, size)
        if any(shift):
            y = y.roll(shift, dims=(1, 2))
        x = x + y
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class Group(nn.Module):
    """Residual Swin transformer block: layers, a 3x3 convolution, plus the input."""

    def __init__(self, depth: int, embed: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(embed, heads, window, hidden) for _ in range(depth))
        self.conv = _conv(embed, embed)

    def forward(
        self, x: Tensor, pairs: Tensor, shift: tuple[int, int], apart: Tensor | None
    ) -> Tensor:
        y = x
        for number, layer in enumerate(self.layers):
            y = layer(y, pairs, shift, apart) if number % 2 else layer(y, pairs, (0, 0), None)
        return x + self.conv(y.movedim(-1, 1)).movedim(1, -1)


class PixelShuffle(nn.Module):
    """Maps (batch, embed, h, w) to the image: `features` maps, doubled in size, one map."""

    def __init__(self, scale: int, embed: int, features: int, gain: float) -> None:
        super().__init__()
        self.factors = factors(scale)
        self.before = _conv(embed, features)
        self.stages = nn.ModuleList(_conv(features, features * n**2) for n in self.factors)
        self.last = _conv(features, 1, gain)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.before(x))
        for factor, stage in zip(self.factors, self.stages, strict=True):
            x = F.pixel_shuffle(stage(x), factor)
        return self.last(x)


class PixelShuffleDirect(nn.Module):
    """Maps (batch, embed, h, w) to the image with a single convolution."""

    def __init__(self, scale: int, embed: int, gain: float) -> None:
        super().__init__()
        self.scale = scale
        self.last = _conv(embed, scale**2, gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.last(x), self.scale)


class SwinIR(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w), of any h and w.

    The defaults are the publication's medium network.

    Args:
        embed: maps of every layer, a multiple of `heads`. depths: layers of each group.
        window: height and width of a window in LR pixels; every second layer shifts by half of it.
        mlp_ratio: hidden width of the layers' MLP, as a multiple of `embed`.
        upsampler: `pixelshuffle`, or `pixelshuffledirect` (lightweight: one convolution).
        features: maps of `pixelshuffle`.
    """

    def __init__(
        self,
        scale: int,
        embed: Positive = 180,
        depths: tuple[Positive, ...] = (6, 6, 6, 6, 6, 6),
        heads: Positive = 6,
        window: Annotated[int, Bound(least=2)] = 8,
        mlp_ratio: Above = 2,
        upsampler: Literal["pixelshuffle", "pixelshuffledirect"] = "pixelshuffle",
        features: Positive = 64,
        skip: Skip = "none",
    ) -> None:
        hidden = int(embed * mlp_ratio)
        if not depths:
            raise UserError("swinir: depths must be counts such as [6, 6, 6, 6], not []")
        if embed % heads:
            raise UserError(f"swinir: embed must be a multiple of heads = {heads}, not {embed}")
        if hidden < 1:
            raise UserError(f"swinir: mlp_ratio times embed must be 1 or more, not {hidden}")
        super().__init__(scale, skip)
        self.window = window
        self.first = _conv(1, embed)
        self.norm_first = Norm(embed)
        self.groups = nn.ModuleList(Group(depth, embed, heads, window, hidden) for depth in depths)
        self.norm_last = Norm(embed)
        self.trunk = _conv(embed, embed)
        self.upsampler = (
            PixelShuffle(scale, embed, features, self.last_gain)
            if upsampler == "pixelshuffle"
            else PixelShuffleDirect(scale, embed, self.last_gain)
        )

    def forward(self, lr: Tensor) -> Tensor:
        padded, (height, width) = pad_to(lr, self.window)
        size = (padded.shape[-2], padded.shape[-1])
        pairs = offsets(self.window, lr.device)
        shift = shift_for(size, self.window)
        apart = strangers(size, self.window, shift, lr.device) if any(shift) else None
        shallow = self.first(padded)
        x = self.norm_first(shallow.movedim(1, -1))
        for group in self.groups:
            x = group(x, pairs, shift, apart)
        deep = self.trunk(self.norm_last(x).movedim(-1, 1))
        sr = self.upsampler(shallow + deep)
        return self.skipped(sr[..., : height * self.scale, : width * self.scale], lr)


build = SwinIR
