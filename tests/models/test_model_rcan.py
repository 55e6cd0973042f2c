"""RCAN: `pytest tests/models/test_model_rcan.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrsr import models
from mrsr.models.layers import ChannelAttention

SMALL = {"features": 8, "groups": 2, "blocks": 1, "reduction": 4}


def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    """Parameters of a convolution."""
    return kernel**2 * inputs * outputs + outputs


def small() -> nn.Module:
    torch.manual_seed(0)
    return models.build("rcan", 2, SMALL)


@pytest.mark.parametrize(("scale", "stages", "total"), [(2, 1, 15_442_337), (4, 2, 15_590_049)])
def test_parameters_by_hand_sum(scale: int, stages: int, total: int) -> None:
    with torch.device("meta"):
        network = models.build("rcan", scale, {})
    attention = conv(64, 4, 1) + conv(4, 64, 1)
    block = 2 * conv(64, 64) + attention
    group = 20 * block + conv(64, 64)
    assert (attention, block, group) == (580, 74_436, 1_525_648)
    ends = conv(1, 64) + conv(64, 64) + stages * conv(64, 256) + conv(64, 1)
    assert sum(p.numel() for p in network.parameters()) == 10 * group + ends == total


@torch.no_grad()
def test_attention_is_one_factor_for_each_image_and_map() -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(8, 4)
    x = torch.rand(2, 8, 5, 6) + 0.1
    factor = attention(x) / x
    assert factor.amin() > 0 and factor.amax() < 1
    torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor))
    assert not torch.allclose(factor[0, :, 0, 0], factor[1, :, 0, 0])  # of the image's content
    assert not torch.allclose(factor[0, 0], factor[0, 1])  # of the map


@torch.no_grad()
def test_attention_changes_the_network() -> None:
    network, lr = small(), torch.rand(1, 1, 6, 7)
    before = network(lr)
    for group in network.groups:
        group.blocks[0].attention = nn.Identity()
    assert not torch.allclose(network(lr), before, atol=1e-5)


def test_attention_sees_the_whole_image() -> None:
    """The seven 3x3 layers reach 7 pixels; what lies 40 away acts through the attention alone."""
    network = small().double()
    lr = torch.rand(1, 1, 5, 60, dtype=torch.float64, requires_grad=True)
    network(lr)[0, 0, 4, 4].backward()
    assert (lr.grad[..., 40:] != 0).any()
    for group in network.groups:
        group.blocks[0].attention = nn.Identity()
    lr.grad = None
    network(lr)[0, 0, 4, 4].backward()
    assert (lr.grad[..., 40:] == 0).all() and (lr.grad[..., :4] != 0).any()


def test_no_attention_starts_dead() -> None:
    """With 2 units in each of 40 blocks a few would start dead without their first bias."""
    torch.manual_seed(0)
    options = {"features": 8, "groups": 4, "blocks": 10, "reduction": 4}
    network = models.build("rcan", 2, options)
    network(torch.rand(2, 1, 8, 8)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_residual_in_residual() -> None:
    """Without its last convolution a group passes its input on, and so does the trunk."""
    network, lr = small(), torch.rand(1, 1, 6, 7)
    x = torch.rand(1, 8, 6, 7)
    group = network.groups[0]
    assert not torch.equal(group(x), x)
    group.trunk.weight.zero_()
    assert torch.equal(group(x), x)
    network.trunk.weight.zero_()
    assert torch.equal(network(lr), network.last(network.enlarge(network.head(lr))))
