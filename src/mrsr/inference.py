"""Slices through a network, padded and in batches."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mrsr import models, resampling


def apply(
    network: nn.Module,
    image: np.ndarray,
    scale: int,
    *,
    device: torch.device,
    batch: int,
    guide: np.ndarray | None = None,
    ensemble: int = 1,
) -> np.ndarray:
    """(slices, h, w) normalised -> (slices, scale * h, scale * w) float32, with a progress bar.

    guide: the second contrast, in the output's shape, for guided networks. ensemble: see `forward`.
    """
    slices, height, width = image.shape
    fine = np.empty((slices, height * scale, width * scale), np.float32)
    # disable=None: no bar where nobody watches, that is in a log file
    with torch.inference_mode(), tqdm(total=slices, unit="slice", disable=None) as bar:
        for start in range(0, slices, batch):
            lr = torch.from_numpy(np.ascontiguousarray(image[start : start + batch]))
            second = [] if guide is None else [guide[start : start + batch]]
            images = (torch.from_numpy(one)[:, None].float().to(device) for one in second)
            first = lr[:, None].float().to(device)
            sr = forward(network, first, scale, *images, ensemble=ensemble)
            fine[start : start + len(lr)] = sr[:, 0].float().cpu().numpy()
            bar.update(len(lr))
    return fine


def forward(
    network: nn.Module, lr: Tensor, scale: int, *guide: Tensor, ensemble: int = 1
) -> Tensor:
    """(n, 1, h, w) -> (n, 1, scale * h, scale * w), padded for networks that need it.

    guide: the second contrast (n, 1, scale * h, scale * w), for guided networks. A network whose
    layers need sizes that divide says so by an attribute `multiple` (LR pixels).
    ensemble: 8 averages over the flips and turns of the images, each turned back (Timofte et al.
    2016, "self-ensemble"); 1 does not.
    """
    if ensemble == 1:
        return _forward(network, lr, scale, *guide)
    total = torch.zeros(())
    for flips, turned in itertools.product(((), (-2,), (-1,), (-2, -1)), (False, True)):
        images = [(image.mT if turned else image).flip(flips) for image in (lr, *guide)]
        sr = _forward(network, images[0].contiguous(), scale, *images[1:]).flip(flips)
        total = total.to(sr) + (sr.mT if turned else sr)
    return total / 8


def _forward(network: nn.Module, lr: Tensor, scale: int, *guide: Tensor) -> Tensor:
    multiple = getattr(network, "multiple", 1)
    padded, (height, width) = resampling.pad_to(lr, multiple)
    second = [resampling.pad_to(one, multiple * scale)[0] for one in guide]
    sr = network(padded, *second)
    models.check_size(type(network).__module__.rpartition(".")[2], sr, padded, scale)
    return sr[..., : height * scale, : width * scale]
