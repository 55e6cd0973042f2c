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
- `norm: none` is an option as in `srresnet.py`; the default is as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models import srresnet
from mrsr.models.layers import Skip, carry, factors
from mrsr.params.typed import Positive


class PReLU(nn.Module):
    """x where positive, a learned slope times x elsewhere, in the dtype of x."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((1,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope.to(x.dtype))


class SRGAN(srresnet.SRResNet):
    """SRResNet with PReLU; defaults as published.

    Args:
        features: maps of every layer. blocks: residual blocks. norm: `batch` or `none`.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 16,
        norm: srresnet.Norm = "batch",
        skip: Skip = "none",
    ) -> None:
        # blocks and stages are drawn after the outer layers: a seed gives the weights of before
        super().__init__(scale, features, 0, norm, skip)
        self.act = PReLU()
        body = [srresnet.Block(features, norm, PReLU) for _ in range(blocks)]
        self.blocks = nn.Sequential(*body)
        stages = [srresnet.Stage(features, factor, PReLU) for factor in factors(scale)]
        self.stages = nn.Sequential(*stages)
        if not self.skip:
            carry(self.first, self.stages, self.last)


build = SRGAN
