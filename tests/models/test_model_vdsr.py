"""VDSR: `pytest tests/models/test_model_vdsr.py`."""

from __future__ import annotations

import torch

from mrsr import models
from mrsr.resampling import upsample

SMALL = {"features": 4, "layers": 4}


def test_parameters_as_published() -> None:
    """0.665 M in later papers' tables: the weights alone."""
    with torch.device("meta"):
        network = models.build("vdsr", 4, {})
    weights = 9 * 64 + 18 * 9 * 64 * 64 + 9 * 64
    biases = 19 * 64 + 1
    assert weights == 664_704
    assert sum(p.numel() for p in network.parameters()) == weights + biases == 665_921


def test_learns_the_residual_of_the_interpolated_image() -> None:
    torch.manual_seed(0)
    network = models.build("vdsr", 2, SMALL)
    lr = torch.rand(1, 1, 8, 9)
    before = network(lr)
    assert 0 < (before - upsample(lr, 2)).abs().max() < 0.1  # starts near it
    with torch.no_grad():
        network.residual[-1].weight.zero_()
    assert torch.equal(network(lr), upsample(lr, 2))
    assert not torch.equal(before, network(lr))


def test_very_deep_means_41_pixels() -> None:
    """D layers of 3x3 see 2 D + 1 pixels (section 3.1): all 20 of them act."""
    torch.manual_seed(0)
    network = models.build("vdsr", 2, {"features": 4}).double()
    for layer in network.residual[::2]:
        torch.nn.init.uniform_(layer.weight, 0.1, 0.2)  # positive: no ReLU is closed
    image = torch.rand(1, 1, 51, 51, dtype=torch.float64, requires_grad=True)
    network.residual(image)[0, 0, 25, 25].backward()
    seen = image.grad[0, 0] != 0
    assert seen[5:46, 5:46].all() and int(seen.sum()) == 41 * 41
