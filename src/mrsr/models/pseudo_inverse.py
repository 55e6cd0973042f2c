"""The pseudo-inverse of the degradation: what sharpening a known kernel gains. Not trained.

Of all images that degrade exactly to the LR image, it is the one of least energy. It shows how much
of a network's gain over bicubic is mere deblurring. Both degradations work on rows and columns
separately, so the inverse is a matrix on either side.

For k-space that is zero-filling: the known centre, and zeros around it. An image of even size lacks
one of the two outermost frequencies, which follows from the other because images are real.

By hand: `mrsr methods` lists it; `python -c "import torch; from mrsr import models;
print(models.build('pseudo_inverse', 2, {})(torch.rand(1, 1, 8, 8)).shape)"`.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mrsr.resampling import kspace_matrix, resize_matrix

TRAINED = False
NEGLIGIBLE = 1e-10  # singular values below this, relative to the largest, are rounding


@functools.lru_cache(maxsize=64)
def inverse_matrix(n: int, scale: int, degradation: str) -> Tensor:
    """(scale * n, n) float64: one dimension of the inverse, for n LR pixels."""
    if degradation == "bicubic":
        forward, wanted = resize_matrix(scale * n, n), np.eye(n)
    else:
        # the degraded image must be the LR image in its real part and zero in its imaginary part
        cropped = kspace_matrix(scale * n, scale).numpy()
        forward = np.concatenate([cropped.real, cropped.imag])
        wanted = np.concatenate([np.eye(n), np.zeros((n, n))])
    return torch.from_numpy(np.linalg.pinv(forward, rcond=NEGLIGIBLE) @ wanted)


class PseudoInverse(nn.Module):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w), without parameters.

    Args:
        degradation: the one to invert; an experiment gives the dataset's.
    """

    def __init__(self, scale: int, degradation: Literal["bicubic", "kspace"] = "bicubic") -> None:
        super().__init__()
        self.scale = scale
        self.degradation = degradation

    def forward(self, lr: Tensor) -> Tensor:
        # as `resampling.bicubic`: in float64, where the device has it
        kind = torch.float32 if lr.device.type == "mps" else torch.float64
        rows, columns = (
            inverse_matrix(n, self.scale, self.degradation).to(lr.device, kind)
            for n in lr.shape[-2:]
        )
        return (rows @ lr.to(kind) @ columns.mT).to(lr.dtype)


build = PseudoInverse
