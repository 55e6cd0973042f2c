"""The disentangling auto-encoder (Fig. 1b, section 3.3, sizes of section 4.1).

An image becomes a structure code z_str, a map of a quarter of its height and width (64x64 for
256x256), and a texture code z_tex, a vector of 256. The decoder makes the image of any two codes,
so the structure of one image can meet the texture of another (swapping auto-encoder, Park et al.,
NeurIPS 2020, reference [162] of the paper).

Encoder, as printed: four 3x3 convolutions of 64, 64, 32, 32 maps with ReLU, pooling after each.
The paper's pooling is by maximum (`pooling: max`), which forgets where in its 2x2 pixels the
maximum was; `pooling: mean`, the default, keeps what can be kept. The map after two poolings,
projected 1x1 to `structure_channels`, gives z_str (the paper prints 1; 8 by default,
docs/replication.md argues it). The statistics over the image of the map after four poolings give
z_tex.

What makes the two codes different things, and is not printed:

- z_str is normalised: each channel of each image has mean 0, and all channels together have
  variance 1, before a learned gain per channel. How bright and how strong the image is, it cannot
  say; its means and deviation go into z_tex instead. (With a deviation for each channel, how sharp
  the image is would go there too, and the centre-patch swap of section 3.3 wants that in z_str.)
- The decoder gets z_tex only as one factor and one offset per map of each of its layers (affine
  modulation), so z_tex cannot say where anything is.

The decoder mirrors the encoder's maps (32, 32, 64, 64); pixel shuffle undoes the poolings that
z_str has seen. Nothing depends on the image's size, which must only divide by 16.

With mean pooling the network starts as the best linear auto-encoder of its kind, not from noise
(`autoencoder_start.py`): it reconstructs from the first step, and training need not find that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.degrade import bicubic
from mrsr.errors import UserError
from mrsr.models import autoencoder_start
from mrsr.precision import full

MULTIPLE = 16  # four poolings
EPSILON = 1e-7  # of a variance
POOLINGS = {"mean": F.avg_pool2d, "max": F.max_pool2d}


def _conv(inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0) -> nn.Conv2d:
    # zeros around a patch of tissue are an edge that training would fit before the anatomy
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="replicate")
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


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
    """Maps (batch, n, h, w) times a factor plus an offset per map, both linear in z_tex."""

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
    """Encoder and decoder; calling it reconstructs images (batch, 1, H, W)."""

    def __init__(
        self,
        structure_channels: int,
        texture: int,
        size: int,
        channels: Sequence[int],
        pooling: str,
    ) -> None:
        super().__init__()
        self.size = size
        self.encoder = Encoder(structure_channels, texture, channels, pooling)
        self.decoder = Decoder(structure_channels, texture, channels)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (batch, 1, H, W), as `prepare` gives them, to z_str and z_tex."""
        return self.encoder(image)

    def decode(self, z_str: Tensor, z_tex: Tensor) -> Tensor:
        """The image (batch, 1, H, W) of two codes, whichever images they come from."""
        return self.decoder(z_str, z_tex)

    def forward(self, image: Tensor) -> Tensor:
        return self.decode(*self.encode(image))


def prepare(image: Tensor, hr_size: tuple[int, int], size: int = 256) -> Tensor:
    """What the auto-encoder takes, the same way for LR, HR, output and patches. Differentiable.

    Args:
        image: (batch, 1, h, w), normalised. hr_size: height and width of the HR grid, to which
            an image of another size is resized (the bicubic kernel of `degrade`).
        size: then cropped or padded with zeros about the centre to this height and width; 0 pads
            only as far as the four poolings need.
    """
    if tuple(image.shape[-2:]) != tuple(hr_size):
        image = bicubic(image, (int(hr_size[0]), int(hr_size[1])))
    margins: list[int] = []
    for length in reversed(image.shape[-2:]):  # F.pad begins with the last dimension
        missing = (size or length + -length % MULTIPLE) - length
        margins += [missing // 2, missing - missing // 2]
    return F.pad(image, margins) if any(margins) else image


def unprepare(image: Tensor, hr_size: tuple[int, int]) -> Tensor:
    """The HR grid's part of a prepared image (batch, 1, H, W): less the zeros around it."""
    for dim, length in ((-2, hr_size[0]), (-1, hr_size[1])):
        missing = image.shape[dim] - length
        if missing > 0:
            image = image.narrow(dim, missing // 2, length)
    return image


def build(
    scale: int,
    structure_channels: int = 8,
    texture: int = 256,
    size: int = 256,
    channels: Sequence[int] = (64, 64, 32, 32),
    pooling: str = "mean",
    start: str = "linear",
) -> nn.Module:
    """The auto-encoder; it works on the HR grid, so it is built alike for every scale.

    Args:
        structure_channels: maps of z_str (1 as printed). texture: length of z_tex.
        size: height and width for `prepare`, a multiple of 16, or 0. channels: of the four blocks.
        pooling: `mean`, or `max` as printed (which always starts from random weights).
        start: `linear` (see `autoencoder_start.py`), or `random`, as a control.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    if structure_channels < 1 or texture < 1:
        raise UserError("autoencoder: structure_channels and texture must be 1 or more")
    if size < 0 or size % MULTIPLE:
        raise UserError(f"autoencoder: size must be a multiple of {MULTIPLE}, or 0, not {size}")
    if len(channels) != 4 or min(channels) < 1:
        raise UserError(f"autoencoder: channels must be four counts, not {channels}")
    if pooling not in POOLINGS:
        raise UserError(f"autoencoder: pooling must be mean or max, not '{pooling}'")
    if start not in ("linear", "random"):
        raise UserError(f"autoencoder: start must be linear or random, not '{start}'")
    network = AutoEncoder(structure_channels, texture, size, channels, pooling)
    known = autoencoder_start.fits(structure_channels, texture, channels)
    if start == "linear" and pooling == "mean" and known:
        autoencoder_start.linear(network.encoder, network.decoder)
    return network
