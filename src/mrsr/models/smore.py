"""SMORE: a network of the EDSR kind that learns from the test volume itself.

Zhao, Dewey, Pham, Calabresi, Reich, Prince, "SMORE: A Self-Supervised Anti-Aliasing and
Super-Resolution Algorithm for MRI Using Deep Learning", IEEE TMI 2021, reference [193] of the
paper. Its network is EDSR (Lim et al., CVPR Workshops 2017): residual blocks of two convolutions
without normalisation, a skip around them, pixel shuffle without activations. Depth and width are
those of EDSR-baseline, 16 blocks of 64 maps (ours: the ones that SMORE trains were not verified):
1,367,553 parameters for one channel at 2x.

The publication takes volumes with a fine plane and thick slices: pairs made by degrading the fine
in-plane direction teach the network the through-plane one. It is then applied in several
orientations and the results are combined by Fourier burst accumulation (Delbracio and Sapiro,
CVPR 2015): each frequency is a mean of the orientations' coefficients, weighted by their
magnitudes to a power p.

Our protocol reduces both in-plane axes alike and leaves no direction of high resolution, so the
direction that teaches is not there and the pairs come from across scales: the LR slices of the test
volume, degraded once more, and those slices themselves. What is kept: no other data than the
volume at hand, the network's kind, the application in several orientations, and their combination.
What is not: the teaching direction, and the anti-aliasing network for 2D acquisitions (thick
slices alias, our LR slices do not). The training loop is elsewhere; it trains this network per
volume, from scratch (earlier versions of the authors' program started from trained weights).

In training mode forward applies the network once. In evaluation mode it applies it in
`orientations` quarter turns (ours: turns that need no interpolation), turns the results back and
combines them. With p = 0 that is their mean; p grows towards the coefficient of largest magnitude.
The weights are not smoothed over frequencies (theirs are), because the orientations see the same
image, not differently blurred ones. p is 11 in Delbracio and Sapiro (as recalled; not verified).

Initialisation: He, scaled for depth as in `srresnet.py`. `skip: bicubic` (ours, default `none`)
adds the interpolated image; the last convolution then starts a hundred times smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.degrade import upsample
from mrsr.errors import UserError
from mrsr.models.srresnet import STAGES, Block, _conv

SCALES = (2, 3, 4, 8)


def accumulate(images: Tensor, power: float) -> Tensor:
    """Fourier burst accumulation of (images, ..., H, W) real images to one (..., H, W).

    The weight of an image at a frequency is its magnitude there to `power`, over the sum of all
    images'. The result has the images' mean for power 0. float32 or float64.
    """
    spectra = torch.fft.rfft2(images.to(torch.promote_types(images.dtype, torch.float32)))
    size = spectra.abs()
    # relative to the largest one, so that no power of it over- or underflows
    largest = size.amax(dim=0).clamp(min=torch.finfo(size.dtype).tiny)
    weights = (size / largest) ** power
    weights = weights / weights.sum(dim=0).clamp(min=torch.finfo(size.dtype).tiny)
    combined = (weights * spectra).sum(dim=0)
    return torch.fft.irfft2(combined, s=images.shape[-2:])


class Smore(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(
        self,
        scale: int,
        features: int,
        blocks: int,
        orientations: int,
        power: float,
        skip: bool,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.orientations = orientations
        self.power = power
        self.skip = skip
        self.first = _conv(1, features, 3)
        self.blocks = nn.Sequential(*[Block(features, "none") for _ in range(blocks)])
        self.trunk = _conv(features, features, 3, gain=0.1)
        self.factors = STAGES[scale]
        # without activation after it, a stage keeps the variance at half of He's
        self.stages = nn.ModuleList(
            _conv(features, features * n**2, 3, gain=0.5**0.5) for n in self.factors
        )
        self.last = _conv(features, 1, 3, gain=0.01 if skip else 0.5**0.5)

    def once(self, lr: Tensor) -> Tensor:
        """The network applied to (batch, 1, h, w) as it lies."""
        shallow = self.first(lr)
        x = shallow + self.trunk(self.blocks(shallow))
        for factor, stage in zip(self.factors, self.stages, strict=True):
            x = F.pixel_shuffle(stage(x), factor)
        sr = self.last(x)
        return sr + upsample(lr, self.scale) if self.skip else sr

    def forward(self, lr: Tensor) -> Tensor:
        if self.training or self.orientations == 1:
            return self.once(lr)
        plane = (-2, -1)
        turned = [
            torch.rot90(self.once(torch.rot90(lr, turns, plane)), -turns, plane)
            for turns in range(self.orientations)
        ]
        return accumulate(torch.stack(turned), self.power)


def build(
    scale: int,
    features: int = 64,
    blocks: int = 16,
    orientations: int = 4,
    power: float = 11,
    skip: str = "none",
) -> nn.Module:
    """The network that SMORE trains for each volume, for `scale` 2, 3, 4 or 8.

    Args:
        features: maps of every layer. blocks: residual blocks.
        orientations: quarter turns, 1 to 4, in which it is applied in evaluation mode.
        power: p of the Fourier burst accumulation, 0 for the plain mean.
        skip: `none`, or `bicubic` to add the interpolated input.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    if scale not in SCALES:
        raise UserError(f"smore: scale must be one of {list(SCALES)}, not {scale}")
    if features < 1 or blocks < 1:
        raise UserError("smore: features and blocks must be 1 or more")
    if orientations not in (1, 2, 3, 4):
        raise UserError(f"smore: orientations must be 1, 2, 3 or 4, not {orientations}")
    if not 0 <= power <= 100:
        raise UserError(f"smore: power must be between 0 and 100, not {power}")
    if skip not in ("none", "bicubic"):
        raise UserError(f"smore: skip must be none or bicubic, not '{skip}'")
    return Smore(scale, features, blocks, orientations, power, skip == "bicubic")
