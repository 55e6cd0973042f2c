"""The contrastive pretext task: two views of one slice (appendix B)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.method.masked_task import _either
from mrsr.models.layers import full
from mrsr.models.unetr import Encoder2d


class Contrastive(nn.Module):
    """Which two are views of one slice? Normalised temperature-scaled cross-entropy (SimCLR).

    Two random views of each image (crop, flip, gain, version); the other images of the micro-batch
    are the negatives, so a micro-batch needs at least two images.
    """

    term = "nt_xent"

    def __init__(self, encoder: Encoder2d, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, not {temperature}")
        self.encoder = encoder
        self.temperature = temperature
        hidden = encoder.hidden
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, min(128, hidden))
        )

    def prepare(
        self, hr: Tensor, degraded: Tensor, organs: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Two views of every image."""
        one, two = (_view(_either(hr, degraded, rng), rng) for _ in range(2))
        return one, two

    def _similarities(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        codes = full(self.head(self.encoder(torch.cat([one, two]), [-1])[0].mean(dim=1)))
        codes = F.normalize(codes, dim=1)
        own = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        table = (codes @ codes.mT / self.temperature).masked_fill(own, float("-inf"))
        return table, torch.arange(len(codes), device=codes.device).roll(len(one))

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        table, partner = self._similarities(one, two)
        return F.cross_entropy(table, partner)

    def measure(self, one: Tensor, two: Tensor) -> dict[str, float]:
        """`accuracy`: how often the most similar view is the other one of the same slice."""
        table, partner = self._similarities(one, two)
        return {"accuracy": float((table.argmax(dim=1) == partner).float().mean())}


def _view(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A random part (0.6 to 1 of the side), flipped at random, intensities times 0.8 to 1.2."""
    n = len(images)
    side = rng.uniform(0.6, 1.0, n)
    flip = np.where(rng.random((2, n)) < 0.5, -1.0, 1.0)
    shift = rng.uniform(-1, 1, (2, n)) * (1 - side)
    theta = np.zeros((n, 2, 3))
    theta[:, 0, 0], theta[:, 1, 1] = side * flip[0], side * flip[1]
    theta[:, 0, 2], theta[:, 1, 2] = shift
    grid = F.affine_grid(torch.from_numpy(theta).to(images), list(images.shape), False)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (n, 1, 1, 1))).to(images)
    return gain * F.grid_sample(images, grid, padding_mode="border", align_corners=False)
