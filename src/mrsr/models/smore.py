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

Initialisation: He, scaled for depth as in `srresnet.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Block, Network, Skip, convolution, factors, full
from mrsr.params.typed import Bound, Positive


def accumulate(images: Tensor, power: float) -> Tensor:
    """Fourier burst accumulation of (images, ..., H, W) real images to one (..., H, W).

    The weight of an image at a frequency is its magnitude there to the power `power`, divided by
    the sum over all images. Power 0 gives the mean of the images. float32 or float64.
    """
    spectra = torch.fft.rfft2(full(images))
    size = spectra.abs()
    # relative to the largest, so that powers neither overflow nor underflow
    largest = size.amax(dim=0).clamp(min=torch.finfo(size.dtype).tiny)
    weights = (size / largest) ** power
    weights = weights / weights.sum(dim=0).clamp(min=torch.finfo(size.dtype).tiny)
    combined = (weights * spectra).sum(dim=0)
    return torch.fft.irfft2(combined, s=images.shape[-2:])


class Smore(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w).

    Args:
        features: maps of every layer. blocks: residual blocks.
        orientations: rotations by multiples of 90 degrees in evaluation mode.
        power: p of the Fourier burst accumulation, 0 for the plain mean.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 16,
        orientations: Literal[1, 2, 3, 4] = 4,
        power: Annotated[float, Bound(least=0, most=100)] = 11,
        skip: Skip = "none",
    ) -> None:
        super().__init__(scale, skip)
        self.orientations = orientations
        self.power = power
        self.first = convolution(1, features)
        self.blocks = nn.Sequential(*[Block(features) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)
        self.factors = factors(scale)
        # without activation after it, a stage keeps the variance at half of He's
        half = 0.5**0.5
        self.stages = nn.ModuleList(
            convolution(features, features * n**2, gain=half) for n in self.factors
        )
        self.last = convolution(features, 1, gain=self.last_gain if self.skip else half)

    def once(self, lr: Tensor) -> Tensor:
        """Apply the network to (batch, 1, h, w) without rotation."""
        shallow = self.first(lr)
        x = shallow + self.trunk(self.blocks(shallow))
        for factor, stage in zip(self.factors, self.stages, strict=True):
            x = F.pixel_shuffle(stage(x), factor)
        return self.skipped(self.last(x), lr)

    def forward(self, lr: Tensor) -> Tensor:
        if self.training or self.orientations == 1:
            return self.once(lr)
        plane = (-2, -1)
        turned = [
            torch.rot90(self.once(torch.rot90(lr, turns, plane)), -turns, plane)
            for turns in range(self.orientations)
        ]
        return accumulate(torch.stack(turned), self.power)


build = Smore
