"""The progressive network after Lyu et al.: `pytest tests/models/test_model_lyu.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrsr import models
from mrsr.resampling import bicubic

SMALL = {"features": 4, "blocks": 1}


def make(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("lyu", scale, SMALL | options)


def images(scale: int = 2, height: int = 6, width: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 1, height, width), torch.rand(2, 1, scale * height, scale * width)


def test_parameter_count() -> None:
    three = 64 * 64 * 9 + 64
    encoder = (9 * 64 + 64) + 2 * three
    level = 2 * encoder + (64 * 256 * 9 + 256) + (128 * 64 * 9 + 64) + 4 * 2 * three + (64 * 9 + 1)
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in models.build("lyu", scale, {}).parameters()) for scale in (2, 4)
        ]
    assert counts == [level, 2 * level] == [666_497, 1_332_994]


def test_levels_follow_each_other() -> None:
    assert [level.scale for level in make(3).levels] == [3]
    assert [level.scale for level in make(4, progressive=False).levels] == [4]
    network, (lr, guide) = make(4), images(4)
    first, second = network.levels
    assert (first.scale, second.scale) == (2, 2)
    with torch.no_grad():
        middle = first(lr, bicubic(guide, (12, 14)))
        assert torch.equal(network(lr, guide), second(middle, guide))
        assert len(make(8).levels) == 3


def test_each_level_is_live() -> None:
    network, (lr, guide) = make(4), images(4)
    with torch.no_grad():
        before = network(lr, guide)
        network.levels[0].last.weight.zero_()
        assert not torch.equal(network(lr, guide), before)


@pytest.mark.parametrize("fusion", ["features", "pixels"])
@pytest.mark.parametrize("scale", [2, 4])
def test_the_guide_matters(scale: int, fusion: str) -> None:
    network, (lr, guide) = make(scale, fusion=fusion), images(scale)
    with torch.no_grad():
        assert not torch.equal(network(lr, guide), network(lr, guide.flip(-1)))


def test_contrasts_have_layers_of_their_own_before_they_meet() -> None:
    network, (lr, guide) = make(), images()
    with torch.no_grad():
        before = network(lr, guide)
        level = network.levels[0]
        level.fuse.weight[:, 4:] = 0  # the guide's half
        assert not torch.equal(network(lr, guide), before)
        assert torch.equal(network(lr, guide), network(lr, guide.flip(-1)))
