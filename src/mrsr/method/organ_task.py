"""The organ pretext task: which organ does a slice show? (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.method.masked_task import _either
from mrsr.models.layers import full
from mrsr.models.unetr import Encoder2d
from mrsr.slices import store

_BINS, _BRIGHTEST = 32, 1.5  # of the trivial classifier's histograms


class Organ(nn.Module):
    """Which organ? Zero-initialised D x K layer on the mean token, cross-entropy over K organs."""

    term = "cross_entropy"

    def __init__(self, encoder: Encoder2d, organs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.hidden, organs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def logits(self, images: Tensor) -> Tensor:
        """(batch, organs) of images (batch, 1, H, W)."""
        return self.head(self.encoder(images, [-1])[0].mean(dim=1))

    def prepare(
        self, hr: Tensor, degraded: Tensor, organs: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The pair that `forward` takes: either version of each image, and its organ."""
        return _either(hr, degraded, rng), organs

    def forward(self, images: Tensor, organs: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return F.cross_entropy(full(self.logits(images)), organs)

    def measure(self, images: Tensor, organs: Tensor) -> dict[str, float]:
        """No metrics besides the loss; accuracies are of all images, see `organ_scores`."""
        return {}


def organ_scores(predicted: Tensor, organs: Tensor) -> dict[str, float]:
    """Accuracy, and balanced accuracy (the mean recall over organs), of (n,) and (n,) organs."""
    right = (predicted == organs).double()
    each = [float(right[organs == organ].mean()) for organ in organs.unique()]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(each))}


def histogram_classifier(images: Tensor, organs: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """The trivial classifier to compare with: logistic regression on an image's histogram.

    images: (n, 1, H, W), organs: (n,) to learn from. Returns a function from images to organs. It
    uses only how often each of 32 intensities occurs: what it gets right needs no ViT.
    """

    def histogram(pictures: Tensor) -> Tensor:
        bins = (pictures.flatten(1).double().cpu() * (_BINS / _BRIGHTEST)).long()
        return F.one_hot(bins.clamp(0, _BINS - 1), _BINS).double().mean(dim=1).sqrt()

    seen, organs = histogram(images), organs.cpu()
    layer = nn.Linear(_BINS, count).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    # rare organs count as much as common ones, as in balanced accuracy
    share = len(organs) / (count * torch.bincount(organs, minlength=count).clamp(min=1).double())
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(seen), organs, weight=share)
        loss = loss + 1e-4 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda pictures: layer(histogram(pictures)).argmax(dim=1).detach()


def organs_of(paths: list[Path]) -> list[str]:
    """The organ of each store.

    Raises:
        UserError: a store does not give it.
    """
    found = [str(store.attributes(path).get("organ", "")) for path in paths]
    for path, organ in zip(paths, found, strict=True):
        if not organ:
            raise UserError(f"{path} has no organ; set `organ` and slice again")
    return found
