"""Bicubic interpolation, the first method of the paper's tables. Not trained.

The kernel is that of the `bicubic` degradation (`mrsr.resampling.upsample`, MATLAB's imresize).
"""

from __future__ import annotations

from torch import Tensor, nn

from mrsr.resampling import upsample

TRAINED = False


class Bicubic(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w), without parameters."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr: Tensor) -> Tensor:
        return upsample(lr, self.scale)


build = Bicubic
