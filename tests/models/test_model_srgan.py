"""SRGAN's generator: `pytest tests/models/test_model_srgan.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mrsr import models
from mrsr.models import srgan

SMALL: dict[str, Any] = {"features": 6, "blocks": 2}


def make(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("srgan", scale, {**SMALL, **options})


def count(scale: int, model: str = "srgan") -> int:
    with torch.device("meta"):
        network = models.build(model, scale, {})
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_of_the_published_width() -> None:
    block = 2 * (9 * 64 * 64 + 64) + 2 * 2 * 64 + 1  # convolutions, batch norms, slope
    outer = (81 * 64 + 64) + 1 + (9 * 64 * 64 + 64) + 2 * 64 + (81 * 64 + 1)
    stage = (9 * 64 * 256 + 256) + 1
    assert count(2) == outer + 16 * block + stage == 1_381_011
    assert count(4) == outer + 16 * block + 2 * stage
    assert count(2) == count(2, "srresnet") + 18  # one slope for each PReLU


def test_every_prelu_is_live() -> None:
    network, lr = make().eval(), torch.rand(1, 1, 7, 8)
    slopes = [m for m in network.modules() if isinstance(m, srgan.PReLU)]
    assert len(slopes) == 1 + 2 + 1
    before = network(lr)
    for module in slopes:
        with torch.no_grad():
            module.slope.fill_(0.9)
        assert (network(lr) - before).abs().max() > 1e-6
        before = network(lr)


def test_without_slopes_it_is_srresnet() -> None:
    network, lr = make(), torch.rand(2, 1, 7, 8)
    other = models.build("srresnet", 2, SMALL)
    weights = {k: v for k, v in network.state_dict().items() if not k.endswith("slope")}
    other.load_state_dict(weights)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, srgan.PReLU):
                module.slope.zero_()
        torch.testing.assert_close(network.eval()(lr), other.eval()(lr))
