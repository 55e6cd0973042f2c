"""RDN: `pytest tests/models/test_model_rdn.py`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrsr import models

SMALL = {"features": 4, "blocks": 3, "layers": 2, "growth": 3}


def conv(inputs: int, outputs: int, kernel: int = 3) -> int:
    """Parameters of a convolution."""
    return kernel**2 * inputs * outputs + outputs


def small() -> nn.Module:
    torch.manual_seed(0)
    return models.build("rdn", 2, SMALL)


def test_parameters_by_hand_sum() -> None:
    """Eight dense layers over 64, 128, ... 512 maps and a fusion of 576, sixteen times."""
    with torch.device("meta"):
        network = models.build("rdn", 2, {})
    dense = sum(conv(64 + 64 * index, 64) for index in range(8))
    block = dense + conv(64 + 8 * 64, 64, 1)
    assert dense == 1_327_616 and block == 1_364_544
    shallow = conv(1, 64) + conv(64, 64)
    fusion = conv(16 * 64, 64, 1) + conv(64, 64)
    up = conv(64, 256) + conv(64, 1)
    total = sum(p.numel() for p in network.parameters())
    assert total == shallow + 16 * block + fusion + up == 22_121_089


@torch.no_grad()
def test_dense_layers_see_the_whole_memory() -> None:
    """The last layer of a block reads the block's input and every layer before it."""
    block = small().blocks[0]
    x = torch.rand(1, 4, 6, 7)
    before = block(x)
    for first, width in ((0, 4), (4, 3)):
        weight = block.layers[1].weight
        kept = weight.clone()
        weight[:, first : first + width] = 0
        assert not torch.equal(block(x), before)
        weight.copy_(kept)
    assert torch.equal(block(x), before)


@torch.no_grad()
def test_local_fusion_and_local_residual() -> None:
    block = small().blocks[0]
    x = torch.rand(1, 4, 6, 7)
    assert not torch.equal(block(x), x)
    block.fusion.weight.zero_()
    assert torch.equal(block(x), x)


@torch.no_grad()
@pytest.mark.parametrize("block", range(3))
def test_global_fusion_reads_every_block(block: int) -> None:
    network, lr = small(), torch.rand(1, 1, 6, 7)
    before = network(lr)
    network.fusion1.weight[:, 4 * block : 4 * block + 4] = 0
    assert not torch.allclose(network(lr), before, atol=1e-5)


@torch.no_grad()
def test_global_residual_carries_the_first_features() -> None:
    """Without the fusion the output is what is enlarged from F_-1."""
    network, lr = small(), torch.rand(1, 1, 6, 7)
    network.fusion3.weight.zero_()
    assert torch.equal(network(lr), network.last(network.enlarge(network.shallow1(lr))))
