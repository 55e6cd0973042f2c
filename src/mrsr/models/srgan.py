"""SRGAN's generator: the original SRResNet, with PReLU and batch normalisation.

Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network", CVPR 2017; not in the paper's tables, added here. Follows its Fig. 4 and section 2.1.1:
a 9x9 convolution and PReLU, 16 residual blocks of 64 maps, a convolution, batch norm and a skip
around them, pixel-shuffle stages with PReLU, a 9x9 convolution. Convolutions, normalisation and
their initialisation are those of `srresnet.py`, with PReLU instead of ReLU.
1,381,011 parameters for one channel at 2x: SRResNet's 1,380,993 and 18 slopes.

What makes it SRGAN is the loss, not this file: `losses: {l1: 1, adversarial: 0.001}`. The
discriminator is `discriminator.py`, SRGAN's with added pooling.

Departures:

- No VGG: mrsr does not include its weights, so the content term compares pixels (L1) and the
  method's label is 'SRGAN (no VGG)'. What remains of the publication's training is the adversarial
  term (weight 0.001) and the pixel-only start, set by `train.adversarial.warmup`.
- A PReLU has one slope, initially 0.25, for all maps of its layer (ours: the publication does not
  say whether each map has its own).
- Scales: the publication has 4x; 2x, 3x and 8x have fewer or more stages.
- `norm: none` and `skip: bicubic` are options as in `srresnet.py`; the defaults are as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models import srresnet
from mrsr.resampling import upsample

SCALES = (2, 3, 4, 8)


class PReLU(nn.Module):
    """x where positive, a learned slope times x elsewhere, in the dtype of x."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope.to(x.dtype))


class Block(srresnet.Block):
    """SRResNet's residual block with PReLU."""

    def __init__(self, features: int, norm: str) -> None:
        super().__init__(features, norm)
        self.act = PReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.act(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(residual))


class Stage(srresnet.Stage):
    """SRResNet's upsampling stage with PReLU."""

    def __init__(self, features: int, factor: int) -> None:
        super().__init__(features, factor)
        self.act = PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(F.pixel_shuffle(self.conv(x), self.factor))


class Generator(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(self, scale: int, features: int, blocks: int, norm: str, skip: bool) -> None:
        super().__init__()
        # the outer layers are SRResNet's; blocks and stages are built here, with PReLU
        outer = srresnet.SRResNet(scale, features, 0, norm, skip, first_kernel=9, last_kernel=9)
        self.scale = scale
        self.skip = skip
        self.first = outer.first
        self.act = PReLU()
        self.blocks = nn.Sequential(*[Block(features, norm) for _ in range(blocks)])
        self.trunk = outer.trunk
        self.trunk_norm = outer.trunk_norm
        self.stages = nn.Sequential(*[Stage(features, n) for n in srresnet.STAGES[scale]])
        self.last = outer.last

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.act(self.first(lr))
        deep = self.trunk_norm(self.trunk(self.blocks(shallow)))
        sr = self.last(self.stages(shallow + deep))
        return sr + upsample(lr, self.scale) if self.skip else sr


def build(
    scale: int, features: int = 64, blocks: int = 16, norm: str = "batch", skip: str = "none"
) -> nn.Module:
    """The generator for `scale` 2, 3, 4 or 8; defaults as published.

    Args:
        features: maps of every layer. blocks: residual blocks.
        norm: `batch` or `none`. skip: `none`, or `bicubic` to add the interpolated input.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    if scale not in SCALES:
        raise UserError(f"srgan: scale must be one of {list(SCALES)}, not {scale}")
    if norm not in ("batch", "none"):
        raise UserError(f"srgan: norm must be batch or none, not '{norm}'")
    if skip not in ("none", "bicubic"):
        raise UserError(f"srgan: skip must be none or bicubic, not '{skip}'")
    if features < 1 or blocks < 1:
        raise UserError("srgan: features and blocks must be 1 or more")
    return Generator(scale, features, blocks, norm, skip == "bicubic")
