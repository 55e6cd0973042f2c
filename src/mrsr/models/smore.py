"""SMORE: an EDSR-like network trained on the test volume itself.

Zhao, Dewey, Pham, Calabresi, Reich, Prince, "SMORE: A Self-Supervised Anti-Aliasing and
Super-Resolution Algorithm for MRI Using Deep Learning", IEEE TMI 2021, reference [193] of the
paper. Its network is EDSR (Lim et al., CVPR Workshops 2017): residual blocks of two convolutions
without normalisation, a skip around them, pixel shuffle without activations. Depth and width are
those of the EDSR baseline, 16 blocks of 64 maps (ours: SMORE's own were not verified):
1,367,553 parameters for one channel at 2x.

The publication handles volumes with a fine plane and thick slices. It trains on pairs made by
degrading the fine in-plane direction and applies the network through the plane, in several
orientations. The results are combined by Fourier burst accumulation (Delbracio and Sapiro, CVPR
2015): each frequency is a mean of the orientations' coefficients, weighted by their magnitudes to a
power p.

Our protocol degrades both in-plane axes, which leaves no high-resolution direction to train on. So
the pairs come from across scales: the LR slices of the test volume, degraded once more, and those
slices themselves. We keep the restriction to the one volume, the type of network, the application
in several orientations, and their combination. We drop the high-resolution direction and the
anti-aliasing network for 2D acquisitions (thick slices alias, our LR slices do not). The training
loop is elsewhere; it trains this network per volume, from scratch (earlier versions of the authors'
code started from trained weights).

In training mode forward applies the network once. In evaluation mode it applies it to the image
rotated by `orientations` multiples of 90 degrees (ours: they need no interpolation), rotates the
results back and combines them. p = 0 gives their mean; a large p favours the coefficient of largest
magnitude. The weights are not smoothed over frequencies (theirs are), because all orientations show
the same image, not differently blurred ones. p is 11 in Delbracio and Sapiro (recalled, not
verified).

Initialisation: He, scaled for depth as in `srresnet.py`. `skip: bicubic` (ours, default `none`)
adds the interpolated image; the last convolution is then scaled by 0.01.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.srresnet import STAGES, Block, _conv
from mrsr.resampling import upsample

SCALES = (2, 3, 4, 8)


def accumulate(images: Tensor, power: float) -> Tensor:
    """Fourier burst accumulation of (images, ..., H, W) real images to one (..., H, W).

    The weight of an image at a frequency is its magnitude there to the power `power`, divided by
    the sum over all images. Power 0 gives the mean of the images. float32 or float64.
    """
    spectra = torch.fft.rfft2(images.to(torch.promote_types(images.dtype, torch.float32)))
    size = spectra.abs()
    # relative to the largest, so that powers neither overflow nor underflow
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
        """Apply the network to (batch, 1, h, w) without rotation."""
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
        orientations: rotations by multiples of 90 degrees in evaluation mode, 1 to 4.
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
