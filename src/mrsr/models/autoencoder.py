"""The disentangling auto-encoder (Fig. 1b, section 3.3, sizes of section 4.1).

The encoder maps an image to a structure code z_str, a map with a quarter of its height and width
(64x64 for 256x256), and a texture code z_tex, a vector of length 256. The decoder maps any two
codes to an image, so it can combine the structure of one image with the texture of another
(swapping auto-encoder, Park et al., NeurIPS 2020, reference [162] of the paper).

Encoder, as published: four 3x3 convolutions of 64, 64, 32, 32 maps with ReLU, each followed by
pooling. The paper uses max pooling (`pooling: max`), which loses the position of the maximum within
its 2x2 pixels. The default is `pooling: mean`. z_str is the map after two poolings, projected 1x1
to `structure_channels` (1 in the paper, 8 by default; docs/replication.md says why). z_tex comes
from the statistics over the image of the map after four poolings.

The paper does not say what keeps the two codes apart. Here:

- z_str is normalised: each channel of each image has mean 0, and all channels together have
  variance 1, before a learned gain per channel. So z_str carries no brightness and no contrast; its
  means and deviation go into z_tex. (With one deviation per channel, sharpness would go there too,
  but the centre-patch swap of section 3.3 needs sharpness in z_str.)
- The decoder gets z_tex only as one scale and one shift per map of each layer (affine modulation),
  so z_tex carries no positions.

The decoder mirrors the encoder's maps (32, 32, 64, 64); pixel shuffle undoes the two poolings
before z_str. Any image size that is a multiple of 16 works.

With mean pooling the network is initialised as the best linear auto-encoder of its shape
(`_linear_start.py`), not randomly, so it reconstructs from the first step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models import _linear_start
from mrsr.models.layers import Divisible, convolution, full
from mrsr.params.typed import Bound, Positive
from mrsr.resampling import bicubic

SCALES = (1, 2, 3, 4, 8)  # whatever the scale: it works on the HR grid
MULTIPLE = 16  # four poolings
EPSILON = 1e-7  # of a variance
POOLINGS: dict[str, Callable[..., Tensor]] = {"mean": F.avg_pool2d, "max": F.max_pool2d}


# zero padding would put an artificial edge around a tissue patch; training would fit that first
_conv = functools.partial(convolution, padding_mode="replicate")


def _statistics(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each map of each image: (batch, maps) twice."""
    variance, mean = torch.var_mean(full(maps), dim=(-2, -1), correction=0)
    return mean, (variance + EPSILON).sqrt()


class Encoder(nn.Module):
    """Images (batch, 1, H, W) to z_str (batch, C, H/4, W/4) and z_tex (batch, texture)."""

    def __init__(
        self, structure_channels: int, texture: int, channels: Sequence[int], pooling: str
    ) -> None:
        super().__init__()
        self.pool = POOLINGS[pooling]
        self.blocks = nn.ModuleList(
            _conv(inputs, outputs)
            for inputs, outputs in zip([1, *channels[:-1]], channels, strict=True)
        )
        self.structure = _conv(channels[1], structure_channels, 1)
        self.gain = nn.Parameter(torch.ones(structure_channels, 1, 1))
        self.texture = nn.Linear(structure_channels + 1 + 2 * channels[3], texture)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image
        for number, block in enumerate(self.blocks, start=1):
            x = self.pool(F.relu(block(x)), 2)
            if number == 2:
                raw = self.structure(x)
        mean, deviation = _statistics(raw)
        deviation = deviation.square().mean(dim=1, keepdim=True).sqrt()
        z_str = self.gain * (raw - mean[..., None, None]) / deviation[..., None, None]
        z_tex = self.texture(torch.cat([mean, deviation, *_statistics(x)], dim=1))
        return z_str, z_tex


class Modulation(nn.Module):
    """Scale and shift maps (batch, n, h, w) by values per map that are linear in z_tex."""

    def __init__(self, texture: int, maps: int) -> None:
        super().__init__()
        self.linear = nn.Linear(texture, 2 * maps)
        nn.init.normal_(self.linear.weight, std=0.5 * texture**-0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Tensor, z_tex: Tensor) -> Tensor:
        factor, offset = self.linear(z_tex)[..., None, None].chunk(2, dim=1)
        return maps * (1 + factor) + offset


class Decoder(nn.Module):
    """z_str and z_tex to the image (batch, 1, 4h, 4w)."""

    def __init__(self, structure_channels: int, texture: int, channels: Sequence[int]) -> None:
        super().__init__()
        first, second, third, fourth = reversed(channels)
        self.blocks = nn.ModuleList(
            [
                _conv(structure_channels, first),
                _conv(first, second),
                _conv(second, 4 * third),  # pixel shuffle: third maps of twice the size
                _conv(third, fourth),
            ]
        )
        self.modulations = nn.ModuleList(
            Modulation(texture, maps) for maps in (structure_channels, first, second, third, fourth)
        )
        self.last = _conv(fourth, 4, gain=0.5)  # pixel shuffle again: the image

    def forward(self, z_str: Tensor, z_tex: Tensor) -> Tensor:
        x = self.modulations[0](z_str, z_tex)
        for number, (block, modulation) in enumerate(
            zip(self.blocks, self.modulations[1:], strict=True)
        ):
            x = block(x)
            if number == 2:
                x = F.pixel_shuffle(x, 2)
            x = F.relu(modulation(x, z_tex))
        return F.pixel_shuffle(self.last(x), 2)


class AutoEncoder(nn.Module):
    """Encoder and decoder; calling it reconstructs images (batch, 1, H, W).

    It works on the HR grid, so it is the same for every scale.

    Args:
        structure_channels: maps of z_str (1 as published). texture: length of z_tex.
        size: height and width for `prepare`, or 0. channels: of the four blocks.
        pooling: `mean`, or `max` as published (always initialised randomly).
        start: `linear` (see `_linear_start.py`), or `random`, as a control.
    """

    def __init__(
        self,
        scale: int,
        structure_channels: Positive = 8,
        texture: Positive = 256,
        size: Annotated[int, Bound(least=0), Divisible(MULTIPLE)] = 256,
        channels: tuple[Positive, Positive, Positive, Positive] = (64, 64, 32, 32),
        pooling: Literal["mean", "max"] = "mean",
        start: Literal["linear", "random"] = "linear",
    ) -> None:
        super().__init__()
        self.size = size
        self.encoder = Encoder(structure_channels, texture, channels, pooling)
        self.decoder = Decoder(structure_channels, texture, channels)
        known = _linear_start.fits(structure_channels, texture, channels)
        if start == "linear" and pooling == "mean" and known:
            _linear_start.linear(self.encoder, self.decoder)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (batch, 1, H, W) from `prepare` to z_str and z_tex."""
        return self.encoder(image)

    def decode(self, z_str: Tensor, z_tex: Tensor) -> Tensor:
        """Decode two codes, possibly from different images, to an image (batch, 1, H, W)."""
        return self.decoder(z_str, z_tex)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(*self.encode(image))


def prepare(image: Tensor, hr_size: tuple[int, int], size: int = 256) -> Tensor:
    """Bring LR, HR, output and patches alike to the auto-encoder's input. Differentiable.

    Args:
        image: (batch, 1, h, w), normalised. hr_size: height and width of the HR grid; an image of
            another size is resized to it with the bicubic kernel of `degrade`.
        size: the image is then cropped or zero-padded about its centre to this height and width; 0
            pads only as much as the four poolings need.
    """
    if tuple(image.shape[-2:]) != tuple(hr_size):
        image = bicubic(image, (int(hr_size[0]), int(hr_size[1])))
    margins: list[int] = []
    for length in reversed(image.shape[-2:]):  # F.pad begins with the last dimension
        missing = (size or length + -length % MULTIPLE) - length
        margins += [missing // 2, missing - missing // 2]
    return F.pad(image, margins) if any(margins) else image


def unprepare(image: Tensor, hr_size: tuple[int, int]) -> Tensor:
    """Remove the padding of `prepare` from an image (batch, 1, H, W)."""
    for dim, length in ((-2, hr_size[0]), (-1, hr_size[1])):
        missing = image.shape[dim] - length
        if missing > 0:
            image = image.narrow(dim, missing // 2, length)
    return image


build = AutoEncoder
