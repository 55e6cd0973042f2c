"""RCAN: residual groups of residual blocks with channel attention.

Zhang, Li, Li, Wang, Zhong, Fu, "Image Super-Resolution Using Very Deep Residual Channel Attention
Networks", ECCV 2018; not in the paper's tables, added here. The file follows its section 3
with Fig. 2 (residual in residual), Fig. 3 (channel attention) and Fig. 4 (block):

- block: 3x3 convolution, ReLU, 3x3 convolution, channel attention, plus the input;
- channel attention: mean over the image, 1x1 convolution to 1/`reduction` of the maps, ReLU, 1x1
  convolution back, sigmoid; the maps are multiplied by it;
- group: blocks and a 3x3 convolution, plus the input (short skip); all groups and a 3x3
  convolution, plus the shallow features (long skip);
- sub-pixel upsampling as in EDSR, and an output convolution.

10 groups of 20 blocks with 64 maps and reduction 16 have 15,442,337 parameters for one channel at
2x and 15,590,049 at 4x (others report 15.59 M for three channels).

Departures and choices:

- Initialisation (ours): He; the last convolution of a block, a group or the trunk is scaled by 0.1,
  so the variance does not grow with depth. The attention's first bias starts at 0.5: its few units
  get one number per image, and with a bias of 0 all units of a block can start dead.
- As in EDSR here, the initial output is close to the input with each pixel repeated (ours), or,
  with `skip: bicubic` (ours, adds the interpolated input), close to bicubic; `none` is as
  published.
- 8x: three stages of 2x, as 4x has two (the publication has 8x too; its stages are recalled,
  not verified).

The attention averages over its whole input: patches in training, whole slices afterwards, as in the
publication.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.layers import Upsampler, begin, check, convolution
from mrsr.resampling import upsample

SCALES = (2, 3, 4, 8)


class ChannelAttention(nn.Module):
    """Multiply each map of (b, features, h, w) by one factor in 0..1 per image and map."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = convolution(features, features // reduction, 1)
        self.excite = convolution(features // reduction, features, 1)
        nn.init.constant_(self.squeeze.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        content = x.mean(dim=(-2, -1), keepdim=True)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(content))))


class Block(nn.Module):
    """Residual channel attention block (Fig. 4)."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        self.conv1 = convolution(features, features)
        self.conv2 = convolution(features, features, gain=0.1)
        self.attention = ChannelAttention(features, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.conv2(F.relu(self.conv1(x))))


class Group(nn.Module):
    """Residual group: blocks, one convolution, plus the input."""

    def __init__(self, features: int, blocks: int, reduction: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[Block(features, reduction) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.trunk(self.blocks(x))


class RCAN(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w)."""

    def __init__(
        self, scale: int, features: int, groups: int, blocks: int, reduction: int, skip: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.skip = skip
        self.head = convolution(1, features)
        self.groups = nn.Sequential(*[Group(features, blocks, reduction) for _ in range(groups)])
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.head, self.enlarge, self.last, skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        deep = shallow + self.trunk(self.groups(shallow))
        sr = self.last(self.enlarge(deep))
        return sr + upsample(lr, self.scale) if self.skip else sr


def build(
    scale: int,
    features: int = 64,
    groups: int = 10,
    blocks: int = 20,
    reduction: int = 16,
    skip: str = "none",
) -> nn.Module:
    """RCAN for `scale` 2, 3, 4 or 8; defaults as published.

    Args:
        features: maps of every layer. groups: residual groups. blocks: blocks of each group.
        reduction: of the maps inside the attention; must divide `features`.
        skip: `none`, or `bicubic` to add the interpolated input.

    Raises:
        UserError: an option has a value that the network does not know.
    """
    check("rcan", scale, skip, features=features, groups=groups, blocks=blocks, reduction=reduction)
    if features % reduction:
        raise UserError(f"rcan: reduction must divide features = {features}, not {reduction}")
    return RCAN(scale, features, groups, blocks, reduction, skip == "bicubic")
