"""EDSR, and the enlargement that RDN and RCAN share: `pytest tests/models/test_model_edsr.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mrsr import models
from mrsr.models.layers import ToOneMap, Upsampler

SMALL = {"features": 4, "blocks": 2}


def conv(inputs: int, outputs: int) -> int:
    """Parameters of a 3x3 convolution."""
    return 9 * inputs * outputs + outputs


def count(scale: int, **options: Any) -> int:
    with torch.device("meta"):
        network = models.build("edsr", scale, options)
    return sum(p.numel() for p in network.parameters())


def test_parameters_as_published() -> None:
    body = 32 * 2 * conv(256, 256) + conv(256, 256)
    ends = conv(1, 256) + conv(256, 1)
    assert count(2) == ends + body + conv(256, 1024) == 40_720_385
    # the publication's table 1 has 43 M at 4x, with three channels instead of one
    assert count(4) == ends + body + 2 * conv(256, 1024) == 43_080_705
    baseline = {"features": 64, "blocks": 16, "residual_scale": 1.0}
    assert count(2, **baseline) == 33 * conv(64, 64) + 640 + 577 + conv(64, 256) == 1_367_553


def test_no_normalisation() -> None:
    with torch.device("meta"):
        network = models.build("edsr", 2, {})
    kinds = {type(m) for m in network.modules() if not list(m.children())}
    assert kinds == {nn.Conv2d, ToOneMap, nn.PixelShuffle}
    assert not list(network.buffers())


def test_residual_scale_scales_the_residual() -> None:
    torch.manual_seed(0)
    network = models.build("edsr", 2, SMALL)
    block, x = network.body[0], torch.rand(1, 4, 6, 7)
    lr = torch.rand(1, 1, 6, 7)
    with torch.no_grad():
        residual, sr = block(x) - x, network(lr)
        block.residual_scale = 0.2
        torch.testing.assert_close(block(x) - x, 2 * residual, atol=1e-6, rtol=1e-4)
        assert not torch.equal(network(lr), sr)
        block.residual_scale = 0.0
        assert torch.equal(block(x), x)


def test_blocks_start_alike_whatever_the_residual_scale() -> None:
    x = torch.rand(1, 4, 6, 7)
    results = []
    for residual_scale in (0.1, 1.0):
        torch.manual_seed(0)
        network = models.build("edsr", 2, {**SMALL, "residual_scale": residual_scale})
        results.append(network.body(x))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("scale", "stages"), [(2, 1), (3, 1), (4, 2), (8, 3)])
def test_enlargement(scale: int, stages: int) -> None:
    upsampler = Upsampler(2, scale)
    assert len(upsampler) == 2 * stages
    assert upsampler(torch.rand(1, 2, 3, 5)).shape == (1, 2, 3 * scale, 5 * scale)


@pytest.mark.parametrize("name", ["edsr", "rdn", "rcan"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_without_a_skip_training_starts_near_the_image(name: str, scale: int) -> None:
    torch.manual_seed(0)
    options = {"rcan": {"groups": 2, "reduction": 2}, "rdn": {"layers": 2, "growth": 4}}
    network = models.build(name, scale, {"features": 8, "blocks": 2, **options.get(name, {})})
    lr = torch.rand(1, 1, 6, 7)
    repeated = lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    with torch.no_grad():
        assert (network(lr) - repeated).abs().mean() < 0.2
