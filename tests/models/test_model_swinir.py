"""SwinIR: `pytest tests/models/test_model_swinir.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrsr import models
from mrsr.models import swinir

SMALL: dict[str, Any] = {"embed": 8, "depths": [2], "heads": 2, "window": 4, "features": 6}
LIGHT: dict[str, Any] = {"embed": 60, "depths": [6] * 4, "upsampler": "pixelshuffledirect"}


def make(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("swinir", scale, {**SMALL, **options})


def count(**options: Any) -> int:
    with torch.device("meta"):
        network = models.build("swinir", 2, options)
    return sum(parameter.numel() for parameter in network.parameters())


def layer(c: int, hidden: int) -> int:
    """Two norms, qkv, projection, position biases of 6 heads, two linear layers."""
    attention = (c * 3 * c + 3 * c) + (c * c + c) + 15**2 * 6
    return 2 * 2 * c + attention + (c * hidden + hidden) + (hidden * c + c)


def conv(inputs: int, outputs: int) -> int:
    return 9 * inputs * outputs + outputs


def test_parameters_of_the_published_widths() -> None:
    def trunk(c: int, groups: int) -> int:
        outer = conv(1, c) + 2 * 2 * c + conv(c, c)
        return outer + groups * (6 * layer(c, 2 * c) + conv(c, c))

    medium = trunk(180, 6) + conv(180, 64) + conv(64, 256) + conv(64, 1)
    assert count() == medium == 11_748_093
    assert count(**LIGHT) == trunk(60, 4) + conv(60, 4) == 904_744


def test_windows_and_back() -> None:
    x = torch.arange(2 * 6 * 9 * 2).view(2, 6, 9, 2)
    windows = swinir.to_windows(x, 3)
    assert windows.shape == (2, 6, 9, 2)
    assert torch.equal(windows[0, 4], x[0, 3:6, 3:6].reshape(9, 2))
    assert torch.equal(swinir.from_windows(windows, 3, (6, 9)), x)


def test_offsets_are_relative_positions() -> None:
    pairs = swinir.offsets(3, torch.device("cpu"))
    assert pairs.shape == (9, 9)
    assert sorted(set(pairs.flatten().tolist())) == list(range(25))
    assert (pairs.diagonal() == 12).all()  # no offset: the middle of the table
    assert pairs[0, 4] == pairs[4, 8] and pairs[0, 4] != pairs[4, 0]


@pytest.mark.parametrize("size", [(8, 12), (4, 12), (12, 4)])
def test_only_neighbours_attend_to_each_other(size: tuple[int, int]) -> None:
    shift = swinir.shift_for(size, 4)
    apart = swinir.strangers(size, 4, shift, torch.device("cpu"))
    y, x = torch.meshgrid(*[torch.arange(length) for length in size], indexing="ij")
    rolled = torch.stack([y, x], -1).roll((-shift[0], -shift[1]), dims=(0, 1))
    places = swinir.to_windows(rolled[None], 4)[0]
    distance = (places[:, :, None] - places[:, None]).abs().amax(dim=-1)
    assert torch.equal(apart, distance >= 4)


def attention_of(network: nn.Module, number: int = 0) -> swinir.WindowAttention:
    return network.groups[0].layers[number].attention


def reach(network: nn.Module, lr: Tensor) -> Tensor:
    """Which LR pixels the output's first pixel depends on."""
    lr = lr.clone().requires_grad_()
    network(lr)[..., 0, 0].sum().backward()
    return lr.grad[0, 0].abs() > 0


def test_attention_sees_its_window_and_the_shifted_one_more() -> None:
    lr = torch.rand(1, 1, 16, 16)
    seen = reach(make(depths=[1], upsampler="pixelshuffledirect"), lr)
    shifted = reach(make(depths=[2], upsampler="pixelshuffledirect"), lr)
    # three convolutions on either side of the attention reach further, but not by a whole window
    assert not seen[-1].any() and seen.sum() < shifted.sum()


@pytest.mark.parametrize("part", ["attention", "shift", "bias"])
def test_the_part_is_live(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lr = torch.rand(1, 1, 9, 12)
    network = make()
    before = network(lr)
    if part == "shift":
        monkeypatch.setattr(swinir, "shift_for", lambda size, window: (0, 0))
    else:
        at = attention_of(network)
        with torch.no_grad():
            (at.out.weight if part == "attention" else at.bias).zero_()
    assert (network(lr) - before).abs().max() > 1e-7


def test_uniform_attention_is_the_mean_of_the_window() -> None:
    at = swinir.WindowAttention(4, 2, 2)
    with torch.no_grad():
        at.bias.zero_()
        at.qkv.weight.zero_()
        at.qkv.weight[8:] = torch.eye(4)  # queries and keys 0, values the input
        at.out.weight.copy_(torch.eye(4))
    x = torch.rand(1, 3, 4, 4)
    mixed = at(x, swinir.offsets(2, x.device), None)
    torch.testing.assert_close(mixed, x.mean(dim=2, keepdim=True).expand_as(x))


def test_a_bias_picks_the_neighbour() -> None:
    at = swinir.WindowAttention(2, 1, 2)
    pairs = swinir.offsets(2, torch.device("cpu"))
    with torch.no_grad():
        at.qkv.weight.zero_()
        at.qkv.weight[4:] = torch.eye(2)
        at.out.weight.copy_(torch.eye(2))
        at.bias.fill_(-50.0)
        at.bias[pairs[0, 1]] = 50.0  # the pixel to the right
    x = torch.rand(1, 1, 4, 2)
    torch.testing.assert_close(at(x, pairs, None)[0, 0, 0], x[0, 0, 1])


def test_nothing_is_stored_but_weights() -> None:
    assert not list(make().buffers())
