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
- As in EDSR here, the initial output is close to the input with each pixel repeated (ours).
- 8x: three stages of 2x, as 4x has two (the publication has 8x too; its stages are recalled,
  not verified).

The attention averages over its whole input: patches in training, whole slices afterwards, as in the
publication.
"""

from __future__ import annotations

from torch import Tensor, nn

from mrsr.errors import UserError
from mrsr.models.layers import AttentionGroup, Network, Skip, Upsampler, begin, convolution
from mrsr.params.typed import Positive


class RCAN(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); defaults as published.

    Args:
        features: maps of every layer. groups: residual groups. blocks: blocks of each group.
        reduction: of the maps inside the attention; must divide `features`.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        groups: Positive = 10,
        blocks: Positive = 20,
        reduction: Positive = 16,
        skip: Skip = "none",
    ) -> None:
        if features % reduction:
            raise UserError(f"rcan: reduction must divide features = {features}, not {reduction}")
        super().__init__(scale, skip)
        self.head = convolution(1, features)
        self.groups = nn.Sequential(
            *[AttentionGroup(features, blocks, reduction) for _ in range(groups)]
        )
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.head, self.enlarge, self.last, self.skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.head(lr)
        deep = shallow + self.trunk(self.groups(shallow))
        return self.skipped(self.last(self.enlarge(deep)), lr)


build = RCAN
