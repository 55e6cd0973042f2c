"""The discriminator of Fig. 6b: `pytest tests/method/test_discriminator.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrsr.errors import UserError
from mrsr.method import discriminator


def test_layers_are_those_of_the_figure() -> None:
    network = discriminator.build(2)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    drawn = [(64, 1), (64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)]
    assert [(layer.out_channels, layer.stride[0]) for layer in convolutions] == drawn
    assert all(layer.kernel_size == (3, 3) for layer in convolutions)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 7
    assert network.dense.out_features == 1024


@pytest.mark.parametrize("base, weights", [(64, 5_214_273), (32, 1_305_633)])
def test_parameter_counts_of_the_docstring(base: int, weights: int) -> None:
    network = discriminator.build(2, base=base)
    assert sum(parameter.numel() for parameter in network.parameters()) == weights


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_logits_for_any_size_with_pool_and_one_size_without(norm: str) -> None:
    pooled = discriminator.build(2, base=4, norm=norm)
    for height, width in ((32, 48), (17, 23)):
        assert pooled(torch.rand(3, 1, height, width)).shape == (3, 1)
    dense = discriminator.build(2, base=4, pool=False, size=33, norm=norm)
    assert dense(torch.rand(3, 1, 33, 33)).shape == (3, 1)
    with pytest.raises(RuntimeError):
        dense(torch.rand(3, 1, 64, 64))


@pytest.mark.parametrize("options", [{"base": 0}, {"norm": "layer"}, {"pool": False}])
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match="discriminator: "):
        discriminator.build(2, **options)
