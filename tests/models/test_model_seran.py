"""SERAN: squeeze, reasoning and excitation are at work, over the whole image."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mrsr import models
from mrsr.models.seran import Attention, Reasoning

SMALL: dict[str, Any] = {"features": 8, "blocks": 2, "descriptors": 4, "width": 4}


def small(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("seran", scale, {**SMALL, **options})


def attentions(network: nn.Module) -> list[Attention]:
    return [module for module in network.modules() if isinstance(module, Attention)]


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def test_parameter_count() -> None:
    features, descriptors, width = 64, 32, 32
    reasoning = 3 * width**2 + width  # query with bias, key and graph without
    attention = conv(features, width, 1) + features * descriptors + reasoning
    attention += conv(features, descriptors, 1) + conv(width, features, 1)
    block = 2 * conv(features, features, 3) + attention
    tail = conv(features, features, 3) + conv(features, 4 * features, 3) + conv(features, 1, 3)
    expected = conv(1, features, 3) + 20 * block + tail
    with torch.device("meta"):
        network = models.build("seran", 2, {})
        sr = network(torch.empty(1, 1, 13, 9))
    assert sum(p.numel() for p in network.parameters()) == expected == 1_891_457
    assert sr.shape == (1, 1, 26, 18)


def far_change(network: nn.Module) -> float:
    """Change of the first output pixels by one LR pixel far outside the convolutions' reach."""
    lr = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    other = lr.clone()
    other[..., -1, -1] += 1.0
    with torch.no_grad():
        return float((network(lr) - network(other))[..., :2, :2].abs().max())


def test_the_attention_sees_the_whole_image() -> None:
    network = small()
    assert far_change(network) > 0
    for attention in attentions(network):
        nn.init.zeros_(attention.restore.weight)
    assert far_change(network) == 0  # without it the network is local


def test_squeeze_reasoning_and_excitation_are_live() -> None:
    network, lr = small(), torch.rand(2, 1, 8, 8)
    before = network(lr)
    before.square().mean().backward()
    for attention in attentions(network):
        for name, parameter in attention.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for part in ("squeeze", "excite", "reasoning.graph", "reasoning.key"):
        changed = small()
        for attention in attentions(changed):
            nn.init.zeros_(attention.get_submodule(part).weight)
        assert not torch.equal(changed(lr), before), part


def test_reasoning_relates_descriptors() -> None:
    """Descriptor 0 depends on descriptor 1, and by nothing when the graph says nothing."""
    torch.manual_seed(0)
    reasoning = Reasoning(4)
    descriptors = torch.rand(1, 3, 4, requires_grad=True)
    reasoning(descriptors)[0, 0].sum().backward()
    assert descriptors.grad is not None and descriptors.grad[0, 1].abs().sum() > 0
    nn.init.zeros_(reasoning.graph.weight)
    torch.testing.assert_close(reasoning(descriptors), descriptors)


def test_descriptors_are_means_when_the_attention_is_even() -> None:
    """Even squeeze, silent reasoning, even excitation: the mean of the values, everywhere."""
    torch.manual_seed(0)
    attention = Attention(6, descriptors=3, width=6, scaling=0.5)
    nn.init.zeros_(attention.squeeze.weight)
    nn.init.zeros_(attention.excite.weight)
    nn.init.zeros_(attention.reasoning.graph.weight)
    nn.init.dirac_(attention.value.weight)
    nn.init.dirac_(attention.restore.weight)
    x = torch.rand(2, 6, 5, 7)
    torch.testing.assert_close(attention(x), x + 0.5 * x.mean((2, 3), keepdim=True))


def test_the_scaling_scales() -> None:
    torch.manual_seed(0)
    attention, x = Attention(6, 3, 4, scaling=0.1), torch.rand(1, 6, 5, 5)
    once = attention(x) - x
    attention.scaling = 0.2
    torch.testing.assert_close(attention(x) - x, 2 * once)
