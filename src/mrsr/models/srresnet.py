"""The paper's generator: a residual network with pixel-shuffle stages (Fig. 6a, appendix E).

Layout of SRResNet (Ledig et al., CVPR 2017): convolution and ReLU, residual blocks of two 3x3
convolutions, one convolution and a skip around them all, stages that double the size, output
convolution. 16 blocks of 64 maps have 1,380,993 parameters for one channel at 2x.

The paper has batch normalisation and no skip from the input: `norm: batch`, `skip: none`, the
defaults here. `norm: none` with `skip: bicubic` learns the difference from the interpolated image
and is several dB better after the same number of steps (figures in docs/replication.md).
ReLU replaces SRResNet's PReLU, as appendix E says.

Initialisation: He, scaled for depth. Without normalisation the second convolution of each block is
scaled by 0.1, so that the variance does not grow with the number of blocks. With the bicubic skip
the output convolution is scaled by 0.01, so that training starts from the interpolated image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.resampling import upsample

STAGES = {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


def _conv(inputs: int, outputs: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """Size-preserving convolution with odd kernel; He initialisation times `gain`."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


def _norm(features: int, norm: str) -> nn.Module:
    return nn.BatchNorm2d(features) if norm == "batch" else nn.Identity()


class Block(nn.Module):
    """Residual block: 3x3 convolution, norm, ReLU, 3x3 convolution, norm, plus the input."""

    def __init__(self, features: int, norm: str) -> None:
        super().__init__()
        self.conv1 = _conv(features, features, 3)
        self.norm1 = _norm(features, norm)
        self.conv2 = _conv(features, features, 3, gain=1.0 if norm == "batch" else 0.1)
        self.norm2 = _norm(features, norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(residual))


class Stage(nn.Module):
    """Upsample by `factor`: convolution to factor**2 times the maps, pixel shuffle, ReLU."""

    def __init__(self, features: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = _conv(features, features * factor**2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.pixel_shuffle(self.conv(x), self.factor))


class SRResNet(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(
        self,
        scale: int,
        features: int,
        blocks: int,
        norm: str,
        skip: bool,
        first_kernel: int,
        last_kernel: int,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip
        self.first = _conv(1, features, first_kernel)
        self.blocks = nn.Sequential(*[Block(features, norm) for _ in range(blocks)])
        self.trunk = _conv(features, features, 3, gain=1.0 if norm == "batch" else 0.1)
        self.trunk_norm = _norm(features, norm)
        self.stages = nn.Sequential(*[Stage(features, factor) for factor in STAGES[scale]])
        self.last = _conv(features, 1, last_kernel, gain=0.01 if skip else 1.0)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = F.relu(self.first(lr))
        deep = self.trunk_norm(self.trunk(self.blocks(shallow)))
        sr = self.last(self.stages(shallow + deep))
        return sr + upsample(lr, self.scale) if self.skip else sr


def build(
    scale: int,
    features: int = 64,
    blocks: int = 16,
    norm: str = "batch",
    skip: str = "none",
    first_kernel: int = 9,
    last_kernel: int = 9,
) -> nn.Module:
    """The generator for `scale` 2, 3, 4 or 8; defaults as in the paper.

    Args:
        features: maps of every layer. blocks: residual blocks.
        norm: `batch` or `none`. skip: `none`, or `bicubic` to add the interpolated input.
        first_kernel, last_kernel: odd sizes of the outer convolutions.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    if scale not in STAGES:
        raise UserError(f"srresnet: scale must be one of {list(STAGES)}, not {scale}")
    if norm not in ("batch", "none"):
        raise UserError(f"srresnet: norm must be batch or none, not '{norm}'")
    if skip not in ("none", "bicubic"):
        raise UserError(f"srresnet: skip must be none or bicubic, not '{skip}'")
    if features < 1 or blocks < 1:
        raise UserError("srresnet: features and blocks must be 1 or more")
    if first_kernel % 2 == 0 or last_kernel % 2 == 0:
        raise UserError("srresnet: first_kernel and last_kernel must be odd")
    return SRResNet(scale, features, blocks, norm, skip == "bicubic", first_kernel, last_kernel)
