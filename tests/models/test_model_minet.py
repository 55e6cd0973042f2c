"""MINet: the count, its two attentions and the guide: `pytest tests/models/test_model_minet.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr import models
from mrsr.models import minet

SMALL = {"features": 4, "groups": 2, "blocks": 1, "reduction": 2}


def make(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("minet", scale, SMALL | options)


def images(scale: int = 2, height: int = 6, width: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 1, height, width), torch.rand(2, 1, scale * height, scale * width)


def test_published_parameter_count() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("minet", 2, {}).parameters())

    def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
        return inputs * outputs * kernel**2 + outputs

    block = 2 * conv(64, 64) + conv(64, 4, 1) + conv(4, 64, 1)
    body = 6 * (6 * block + conv(64, 64)) + conv(64, 64)
    enlarge = conv(64, 256) + conv(64, 64)
    attention = 27 + 1 + 1  # of channels and space, with its strength
    exchange = 7 * conv(128, 64, 1)
    merges = conv(64, 64) + conv(128, 64)
    acting = 2 * (conv(1, 64) + body + attention + conv(64, 1)) + enlarge + exchange + merges
    assert count == acting + 1 + conv(14 * 64, 64) == 6_748_189

    # what the authors' program registers: three branches with everything (the third without its
    # two ends), and layers that nothing calls
    tail = attention + 1 + conv(7 * 64, 64) + merges + enlarge
    branches = 3 * (body + tail) + 2 * (conv(1, 64) + conv(64, 1))
    uncalled = conv(128, 64) + 7 * (2 * conv(64, 32, 1) + conv(64, 1))
    uncalled += conv(64, 32) + 2 * 32 + conv(32, 64, 1)
    registered = branches + exchange + uncalled
    assert registered == 10_662_899  # published: 10.7 M
    assert registered + conv(14 * 64, 64) - conv(7 * 64, 64) - count == 4_172_758


@pytest.mark.parametrize("scale", [2, 3])
def test_side_output_in_training_alone(scale: int) -> None:
    network, (lr, guide) = make(scale), images(scale, 7, 10)
    sr, aside = network(lr, guide)
    assert sr.shape == aside["guide"].shape == guide.shape
    with torch.no_grad():
        assert torch.allclose(network.eval()(lr, guide), sr, atol=1e-6)


def test_integration_adds_the_least_similar_stages() -> None:
    stages = torch.zeros(1, 3, 1, 2, 2)
    stages[0, 0, 0, 0, 0] = stages[0, 1, 0, 0, 0] = 10.0  # the same
    stages[0, 2, 0, 1, 1] = 10.0
    integration = minet.Integration()
    with torch.no_grad():
        integration.strength.fill_(0.5)
        out = integration(stages).view_as(stages)
    # stages 0 and 1 differ from stage 2 alone; 2 differs from both, which share the weight
    torch.testing.assert_close(out[0, 0], stages[0, 0] + 0.5 * stages[0, 2])
    torch.testing.assert_close(out[0, 2], stages[0, 2] + 0.5 * stages[0, 0])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channel_spatial_attention_is_a_3d_convolution(channels: int) -> None:
    torch.manual_seed(0)
    attention, x = minet.ChannelSpatial(), torch.randn(2, channels, 4, 6)
    kernel = attention.kernel[None, None]
    factor = torch.sigmoid(F.conv3d(x[:, None], kernel, attention.bias, padding=1))[:, 0]
    torch.testing.assert_close(attention(x), x * (1 + attention.strength * factor))


@pytest.mark.parametrize("part", ["integration", "guide.attention", "target.attention"])
def test_attentions_are_live(part: str) -> None:
    network, (lr, guide) = make(), images()
    before = network(lr, guide)
    with torch.no_grad():
        network.get_submodule(part).strength.zero_()
        after = network(lr, guide)
    restored = part == "guide.attention"
    assert torch.equal(before[0], after[0]) == restored
    assert torch.equal(before[1]["guide"], after[1]["guide"]) != restored


def test_the_integration_sees_every_stage_of_both_contrasts() -> None:
    network, (lr, guide) = make(), images()
    with torch.no_grad():
        full = network(lr, guide)[0]
        for stage in range(6):
            kept = network.gather.weight.clone()
            network.gather.weight[:, 4 * stage : 4 * stage + 4] = 0
            assert not torch.equal(network(lr, guide)[0], full), stage
            network.gather.weight.copy_(kept)


def test_the_guide_matters() -> None:
    network, (lr, guide) = make().eval(), images()
    with torch.no_grad():
        assert not torch.equal(network(lr, guide), network(lr, guide.flip(-1)))
    guide.requires_grad_()
    network(lr, guide).square().mean().backward()
    assert guide.grad is not None and guide.grad.abs().sum() > 0
