"""The progressive network after Lyu et al.: `pytest tests/models/test_model_lyu.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrsr import models
from mrsr.errors import UserError
from mrsr.models import lyu
from mrsr.resampling import bicubic, upsample

SMALL = {"features": 4, "blocks": 1}
VARIANTS = [{}, {"progressive": False}, {"fusion": "pixels"}, {"skip": "bicubic"}]


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


@pytest.mark.parametrize("scale", lyu.SCALES)
@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("size", [(7, 10), (13, 9)])
def test_odd_sizes(scale: int, options: dict[str, Any], size: tuple[int, int]) -> None:
    network, (lr, guide) = make(scale, **options), images(scale, *size)
    with torch.no_grad():
        assert network(lr, guide).shape == guide.shape


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("options", VARIANTS)
def test_every_parameter_learns(scale: int, options: dict[str, Any]) -> None:
    network, (lr, guide) = make(scale, **options), images(scale)
    network(lr, guide).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_levels_follow_each_other() -> None:
    assert [level.factor for level in make(3).levels] == [3]
    assert [level.factor for level in make(4, progressive=False).levels] == [4]
    network, (lr, guide) = make(4), images(4)
    first, second = network.levels
    assert (first.factor, second.factor) == (2, 2)
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


@pytest.mark.parametrize("scale", [2, 4])
def test_skip_starts_from_the_interpolation(scale: int) -> None:
    lr, guide = images(scale)
    sr = make(scale, skip="bicubic")(lr, guide)
    assert (sr - upsample(lr, scale)).abs().mean() < 0.05


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("options", VARIANTS)
def test_bf16_autocast_is_close(scale: int, options: dict[str, Any]) -> None:
    network, (lr, guide) = make(scale, **options), images(scale)
    with torch.no_grad():
        full = network(lr, guide)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(lr, guide)
    assert torch.isfinite(half).all()
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean() + 0.01


@pytest.mark.parametrize("scale", lyu.SCALES)
def test_meta_device(scale: int) -> None:
    with torch.device("meta"):
        sr = make(scale)(torch.empty(1, 1, 7, 10), torch.empty(1, 1, 7 * scale, 10 * scale))
    assert sr.shape == (1, 1, 7 * scale, 10 * scale)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"features": 0}, "features"),
        ({"blocks": 0}, "blocks"),
        ({"fusion": "sum"}, "fusion"),
        ({"skip": "linear"}, "skip"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=f"lyu: {word}"):
        make(**options)
    with pytest.raises(UserError, match="lyu: scale"):
        make(5)
