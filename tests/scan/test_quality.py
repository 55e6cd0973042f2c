"""The disagreement over flips and turns. Run: pytest tests/scan/test_quality.py"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import models
from mrsr.scan import quality

CPU = torch.device("cpu")


class Leaning(nn.Module):
    """Nearest neighbours, and the difference to the pixel on the left."""

    def forward(self, lr: Tensor) -> Tensor:
        lean = lr + 0.5 * (lr - lr.roll(1, -1))
        return lean.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_it_is_the_standard_deviation_of_the_eight():
    image = np.random.default_rng(0).random((2, 6, 9)).astype(np.float32)
    estimates = []
    for turned, rows, columns in itertools.product((0, 1), (1, -1), (1, -1)):
        one = image.transpose(0, 2, 1) if turned else image
        one = np.ascontiguousarray(one[:, ::rows, ::columns])
        sr = Leaning()(torch.from_numpy(one)[:, None])[:, 0].numpy()[:, ::rows, ::columns]
        estimates.append(sr.transpose(0, 2, 1) if turned else sr)
    wanted = np.std(estimates, axis=0)
    found = [part for _, part in quality.maps(Leaning(), image, 2, device=CPU)]
    assert wanted.max() > 0.1
    assert np.allclose(np.concatenate(found), wanted, atol=1e-6)


def test_what_no_turn_changes_agrees():
    image = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    (_, found), *more = quality.maps(models.build("bicubic", 2, {}), image, 2, device=CPU)
    assert not more
    assert found.shape == (1, 16, 16)
    assert found.max() < 1e-5
