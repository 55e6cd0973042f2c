"""Initialise the auto-encoder as a good linear auto-encoder, without training.

Pairs of ReLU maps of opposite sign, relu(a) - relu(-a) = a, make layers linear ("looks-linear",
Balduzzi et al., ICML 2017), and mean pooling is linear. That leaves two choices:

- the code: per channel of z_str two 3x3 derivative filters, one before each of the two poolings.
  The order in `FILTERS` comes from adding, one at a time, the channel that most reduced the error
  of the best linear decoder on T1W slices (MS patients and phantom, training subjects);
- the decoder: a 3x3 least-squares filter from the code to each of the 4x4 pixels of a code point,
  fitted when the network is built, on noise with the spectrum of images (no data needed).

Measured on 128x128 patches of training slices with 8 channels: 31.9 dB on real T1W (bicubic from
2x: 30.7) and 35.3 dB on the phantom (33.3). From random weights the reconstruction is still at
25 dB after 300 steps. Unused maps are initialised randomly, as are all maps if there are too few.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIXELS = 16  # 4x4 pixels per point of z_str
# (before the first pooling, before the second); a number is 3 * row derivative + column derivative
FILTERS = (
    *((0, 0), (0, 1), (0, 3), (1, 5), (1, 2), (3, 3)),
    *((2, 2), (3, 7), (3, 6), (4, 7), (1, 0), (6, 0)),
)


class Encoder(Protocol):
    """What is written into of the encoder in `autoencoder.py`."""

    blocks: nn.ModuleList
    structure: nn.Conv2d
    gain: nn.Parameter
    texture: nn.Linear


class Decoder(Protocol):
    """What is written into of the decoder in `autoencoder.py`."""

    blocks: nn.ModuleList
    modulations: nn.ModuleList  # each has `linear`
    last: nn.Conv2d


def fits(structure_channels: int, texture: int, channels: Sequence[int]) -> bool:
    """Whether there are enough maps for the linear initialisation."""
    return (
        structure_channels <= len(FILTERS)
        and texture > structure_channels
        and channels[0] >= 18
        and channels[1] >= max(8, 2 * structure_channels)
        and min(channels[2:]) >= 2 * PIXELS
    )


def _kernels(smooth: Sequence[float]) -> Tensor:
    """(9, 3, 3): unit-norm products of a row and a column filter; `smooth` has order 0."""
    rows = torch.tensor([smooth, [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]], dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return torch.einsum("ai,bj->abij", rows, rows).reshape(9, 3, 3)


def _code_filters() -> tuple[Tensor, Tensor]:
    """The filters before the first and the second pooling."""
    return _kernels([0.0, 1.0, 0.0]), _kernels([1.0, 1.0, 1.0])


@functools.lru_cache(maxsize=4)
def _decoder_filters(structure_channels: int) -> tuple[Tensor, Tensor]:
    """Gains (C,) and, for the code with those gains, least-squares filters (16, C, 3, 3).

    The gains halve (in logarithm) the differences in strength between channels. The filters
    estimate 4x4 pixels from a 3x3 neighbourhood of the code.
    """
    random, size = np.random.default_rng(0), 128
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1 / size
    noise = random.standard_normal((12, 1, size, size))
    images = np.fft.ifft2(np.fft.fft2(noise) * frequency**-1.6).real
    images -= images.mean(axis=(-2, -1), keepdims=True)
    images /= images.std(axis=(-2, -1), keepdims=True)
    image = torch.from_numpy(images)
    first, second = _code_filters()
    code = []
    for one, two in FILTERS[:structure_channels]:
        half = F.avg_pool2d(F.conv2d(image, first[one][None, None], padding=1), 2)
        code.append(F.avg_pool2d(F.conv2d(half, second[two][None, None], padding=1), 2))
    gains = torch.stack([code[0].std() / channel.std() for channel in code]).sqrt()
    known = F.unfold(
        torch.cat(code, dim=1) * gains[:, None, None], 3
    )  # (images, C * 9, inner points)
    wanted = F.pixel_unshuffle(image, 4)[:, :, 1:-1, 1:-1].flatten(2)
    gram = torch.einsum("nip,njp->ij", known, known)
    gram += 1e-7 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, torch.einsum("nip,njp->ij", known, wanted))
    return gains, solution.T.reshape(PIXELS, structure_channels, 3, 3)


def _write(layer: nn.Conv2d, plus: int, minus: int, row: Tensor) -> None:
    """Set output maps `plus` and `minus` to the filter `row` (inputs, 3, 3) and its negative."""
    layer.weight[plus] = row.to(layer.weight.dtype)
    layer.weight[minus] = -row.to(layer.weight.dtype)


def _row(layer: nn.Conv2d) -> Tensor:
    return torch.zeros(layer.in_channels, *layer.kernel_size, dtype=torch.float64)


@torch.no_grad()
def linear(encoder: Encoder, decoder: Decoder) -> None:
    """Write the linear auto-encoder into a network for which `fits` is true."""
    channels = encoder.structure.out_channels
    # torch takes what is in a ModuleList for a Module of any kind
    before = cast(list[nn.Conv2d], list(encoder.blocks))
    modulations = cast(list[nn.Linear], [each.linear for each in decoder.modulations])
    expand, keep, shuffle, merge = cast(list[nn.Conv2d], list(decoder.blocks))
    first, second = _code_filters()
    gains, pixels = _decoder_filters(channels)

    for index in range(9):
        _write(before[0], index, 9 + index, first[index][None])
    encoder.structure.weight.zero_()
    for index, (one, two) in enumerate(FILTERS[:channels]):
        row = _row(before[1])
        row[one], row[9 + one] = second[two], -second[two]
        _write(before[1], index, channels + index, row)
        encoder.structure.weight[index, index] = 1
        encoder.structure.weight[index, channels + index] = -1
    # fine channels are weak (down to 1/90); amplified, they count in the cosine of two codes
    encoder.gain.copy_(gains[:, None, None])
    # z_tex starts with the means and deviation removed from z_str, which the decoder restores;
    # the rest of it starts small
    encoder.texture.weight.mul_(0.1)
    encoder.texture.weight[: channels + 1] = torch.eye(
        channels + 1, encoder.texture.in_features, dtype=encoder.texture.weight.dtype
    )
    encoder.texture.bias.zero_()
    for modulation in modulations:
        modulation.weight.zero_()
    restore = modulations[0]
    for index in range(channels):
        restore.weight[index, channels] = 1
        restore.weight[channels + index, index] = gains[index]
    restore.bias[:channels] = -1

    half = 4  # pixels per point of the half-size map
    for index in range(PIXELS):
        _write(expand, index, PIXELS + index, pixels[index])
        row = _row(keep)
        row[index, 1, 1], row[PIXELS + index, 1, 1] = 1, -1
        _write(keep, index, PIXELS + index, row)
        # pixel (y, x) of 4x4: which point of the half-size map, and which pixel of that point
        y, x = divmod(index, 4)
        point, pixel = 2 * (y // 2) + x // 2, 2 * (y % 2) + x % 2
        row = _row(shuffle)
        row[index, 1, 1], row[PIXELS + index, 1, 1] = 1, -1
        _write(shuffle, 4 * pixel + point, 4 * (half + pixel) + point, row)
    decoder.last.weight.zero_()
    for index in range(half):
        row = _row(merge)
        row[index, 1, 1], row[half + index, 1, 1] = 1, -1
        _write(merge, index, half + index, row)
        decoder.last.weight[index, index, 1, 1] = 1
        decoder.last.weight[index, half + index, 1, 1] = -1
