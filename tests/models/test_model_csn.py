"""CSN: both branches and the merge between them are at work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mrsr import models
from mrsr.models.csn import DenseBranch, ResidualBranch, Unit

SMALL: dict[str, Any] = {"features": 8, "growth": 4, "layers": 2, "units": 2, "blocks": 2}


def small(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("csn", scale, {**SMALL, **options})


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def test_parameter_count() -> None:
    half, growth, both = 128, 64, 256
    residual = 2 * conv(half, half, 3)
    dense = conv(half, growth, 3) + conv(half + growth, growth, 3)
    dense += conv(half + 2 * growth, half, 1)
    block = 2 * (residual + dense) + conv(both, both, 1)
    tail = conv(both, both, 3) + conv(both, 4 * both, 3) + conv(both, 1, 3)
    expected = conv(1, both, 3) + 10 * block + tail
    with torch.device("meta"):
        network = models.build("csn", 2, {})
        sr = network(torch.empty(1, 1, 13, 9))
    assert sum(p.numel() for p in network.parameters()) == expected == 13_863_425
    assert sr.shape == (1, 1, 26, 18)


@pytest.mark.parametrize("kind", [ResidualBranch, DenseBranch])
def test_each_branch_is_live(kind: type[nn.Module]) -> None:
    network, lr = small(), torch.rand(1, 1, 8, 8)
    before = network(lr)
    before.square().mean().backward()
    branches = [module for module in network.modules() if isinstance(module, kind)]
    assert len(branches) == SMALL["units"] * SMALL["blocks"]
    for branch in branches:
        for name, parameter in branch.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
            with torch.no_grad():
                parameter.zero_()
    assert not torch.equal(network(lr), before)


def test_the_branches_see_half_of_the_channels() -> None:
    unit = small().blocks[0].units[0]
    assert unit.residual.conv1.in_channels == SMALL["features"] // 2
    assert [layer.in_channels for layer in unit.dense.layers] == [4, 8]
    assert unit.dense.fuse.in_channels == 12


def test_merge_and_run_hands_each_branch_the_mean_of_both() -> None:
    torch.manual_seed(0)
    unit = Unit(4, growth=2, layers=2)
    a, b = torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 6)
    left, right = unit(a, b)
    torch.testing.assert_close(left - unit.residual(a), (a + b) / 2)
    torch.testing.assert_close(right - unit.dense(b), (a + b) / 2)


def test_what_one_branch_holds_reaches_the_other() -> None:
    torch.manual_seed(0)
    unit = Unit(4, growth=2, layers=2)
    a, b = torch.rand(2, 1, 4, 6, 6).requires_grad_().unbind(0)
    b.retain_grad()
    unit(a, b)[0].sum().backward()
    assert b.grad is not None and b.grad.abs().sum() > 0
