"""The masked pretext task: restore hidden patches (appendix B)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr import resampling
from mrsr.errors import UserError
from mrsr.models.layers import full
from mrsr.models.unetr import PATCH, Encoder2d


class Masked(nn.Module):
    """What is under the mask? Mean squared error of the masked patches' pixels.

    A learned token takes the place of the masked patches, and one linear layer, zero at first,
    predicts the pixels from the tokens. mask_ratio: the fraction of masked patches.
    """

    term = "squared_error"

    def __init__(self, encoder: Encoder2d, mask_ratio: float) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio must be between 0 and 1, not {mask_ratio}")
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.token = nn.Parameter(torch.zeros(encoder.hidden))
        self.head = nn.Linear(encoder.hidden, PATCH * PATCH)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def prepare(
        self, hr: Tensor, degraded: Tensor, organs: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Either version of each image, and (batch, tokens) 1 where a patch is masked."""
        images = _either(hr, degraded, rng)
        count = -(-hr.shape[-2] // PATCH) * -(-hr.shape[-1] // PATCH)
        if count < 2:
            raise UserError("the masked pretext task needs crops of at least 2 patches, 32 pixels")
        masked = min(count - 1, max(1, round(self.mask_ratio * count)))
        order = rng.random((len(hr), count)).argsort(axis=1)
        return images, torch.from_numpy(order < masked).to(hr)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        tokens, grid = self.encoder.patches(images)
        where = mask[..., None] > 0
        tokens = torch.where(where, self.token.to(tokens.dtype), tokens)
        states = self.encoder.states(tokens + self.encoder.position(grid), [-1])
        wanted = F.unfold(resampling.pad_to(images, PATCH)[0], PATCH, stride=PATCH).mT
        error = (full(self.head(states[0])) - wanted).square().mean(dim=2)
        return (error * mask).sum() / mask.sum()

    def measure(self, images: Tensor, mask: Tensor) -> dict[str, float]:
        """No metrics besides the loss."""
        return {}


def _either(hr: Tensor, degraded: Tensor, rng: np.random.Generator) -> Tensor:
    """Of each pair of images the HR or the degraded one, at random."""
    chosen = torch.from_numpy(rng.random((len(hr), 1, 1, 1)) < 0.5).to(hr.device)
    return torch.where(chosen, hr, degraded)
