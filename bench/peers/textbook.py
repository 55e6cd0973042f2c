"""A training loop as tutorials write it: Dataset, DataLoader, fp32, Adam, `loss.item()` each step.

`pairs = textbook.Pairs("train.h5", scale=2, patch=48)` reads a slice store once; then
`textbook.steps(network, pairs, batch=16, count=20)` trains. The crops and flips are those of the
project's `augment: true`, each pair is made when it is asked for, and the LR patch is torch's own
bicubic downsampling of the HR patch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mrsr.slices import store


class Pairs(Dataset):
    """Random patches of all slices that are large enough: LR (1, p/s, p/s) and HR (1, p, p)."""

    def __init__(self, path: str | Path, *, scale: int, patch: int) -> None:
        self.scale, self.patch = scale, patch
        self.slices: list[Tensor] = []
        for volume in store.read_store(path):
            image = torch.from_numpy(store.normalised(store.read_slices(path, volume), volume))
            image = image.abs() if image.is_complex() else image
            self.slices += [one for one in image if min(one.shape) >= patch]
        if not self.slices:
            raise ValueError(f"{path} has no slice of {patch} pixels")

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, p = self.slices[index], self.patch
        top = int(torch.randint(image.shape[0] - p + 1, ()))
        left = int(torch.randint(image.shape[1] - p + 1, ()))
        hr = image[top : top + p, left : left + p]
        for axis in (0, 1):
            hr = hr.flip(axis) if torch.rand(()) < 0.5 else hr
        hr = (hr.T if torch.rand(()) < 0.5 else hr).contiguous()[None]
        lr = F.interpolate(
            hr[None], scale_factor=1 / self.scale, mode="bicubic", antialias=True
        )  # fmt: skip
        return lr[0], hr


def loader(pairs: Pairs, *, batch: int, count: int, workers: int = 0) -> DataLoader:
    """`count` batches of `batch` pairs, drawn with replacement so that a small store suffices."""
    sampler = RandomSampler(pairs, replacement=True, num_samples=batch * count)
    return DataLoader(pairs, batch_size=batch, sampler=sampler, num_workers=workers)


def steps(network: nn.Module, pairs: Pairs, *, batch: int, count: int, workers: int = 0) -> float:
    """Train for `count` steps on the network's device; the mean L1 loss.

    workers: processes of the DataLoader; 0, its default, makes batches in this one.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    network.train()
    losses = []
    for lr, hr in loader(pairs, batch=batch, count=count, workers=workers):
        lr, hr = lr.to(device), hr.to(device)
        optimizer.zero_grad()
        loss = F.l1_loss(network(lr), hr)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))
