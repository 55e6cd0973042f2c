"""SMORE's network and its Fourier burst accumulation: `pytest tests/models/test_model_smore.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mrsr import models
from mrsr.models.smore import accumulate

SMALL: dict[str, Any] = {"features": 6, "blocks": 2}


def make(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("smore", scale, {**SMALL, **options})


def test_parameters_of_the_default_width() -> None:
    def conv(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + outputs

    with torch.device("meta"):
        network = models.build("smore", 2, {})
    expected = conv(1, 64) + 16 * 2 * conv(64, 64) + conv(64, 64) + conv(64, 256) + conv(64, 1)
    assert sum(p.numel() for p in network.parameters()) == expected == 1_367_553


def test_no_power_is_the_mean() -> None:
    images = torch.rand(4, 2, 1, 7, 10)
    torch.testing.assert_close(accumulate(images, 0), images.mean(dim=0))


@pytest.mark.parametrize("power", [0, 1, 2.5, 11, 100])
def test_images_that_agree_stay(power: float) -> None:
    image = torch.rand(2, 1, 9, 7)
    torch.testing.assert_close(accumulate(torch.stack([image] * 3), power), image)
    zero = torch.zeros(3, 1, 1, 6, 6)
    assert torch.equal(accumulate(zero, power), zero[0])


def test_a_large_power_takes_the_largest_coefficient() -> None:
    images = torch.rand(3, 1, 1, 9, 7, dtype=torch.float64)
    found = torch.fft.fft2(accumulate(images, 100)).abs()
    largest = torch.fft.fft2(images).abs().amax(dim=0)
    weights_of_one = torch.fft.fft2(accumulate(images, 1)).abs()
    assert (found >= 0.7 * largest).double().mean() > 0.9
    assert (found - largest).abs().sum() < (weights_of_one - largest).abs().sum()


def test_each_frequency_comes_from_the_image_that_has_it() -> None:
    x = torch.arange(16) * (2 * torch.pi / 16)
    rows, columns = torch.cos(3 * x)[:, None].expand(16, 16), torch.cos(5 * x).expand(16, 16)
    both = accumulate(torch.stack([rows, columns]), 2)
    torch.testing.assert_close(both, rows + columns, atol=1e-5, rtol=1e-5)
    mean = accumulate(torch.stack([rows, columns]), 0)
    torch.testing.assert_close(mean, (rows + columns) / 2, atol=1e-5, rtol=1e-5)


def test_orientations_and_power_are_live_in_evaluation_alone() -> None:
    lr = torch.rand(1, 1, 9, 12)
    networks = {(n, p): make(orientations=n, power=p) for n in (1, 2, 4) for p in (0, 1, 11)}
    trained = {key: network(lr) for key, network in networks.items()}
    assert all(torch.equal(sr, trained[1, 0]) for sr in trained.values())
    found = {key: network.eval()(lr) for key, network in networks.items()}
    assert torch.equal(found[1, 0], found[1, 11]) and torch.equal(found[1, 0], trained[1, 0])
    different = [found[1, 0], *(found[n, p] for n in (2, 4) for p in (0, 1, 11))]
    for number, one in enumerate(different):
        for other in different[:number]:
            assert (one - other).abs().max() > 1e-6


@pytest.mark.parametrize("power", [0, 1, 11])
def test_four_quarter_turns_treat_all_directions_alike(power: float) -> None:
    network, lr = make(power=power).eval(), torch.rand(1, 1, 9, 12)
    turned = network(torch.rot90(lr, 1, (-2, -1)))
    torch.testing.assert_close(turned, torch.rot90(network(lr), 1, (-2, -1)), atol=2e-5, rtol=1e-4)
    network.train()
    turned = network(torch.rot90(lr, 1, (-2, -1)))
    assert (turned - torch.rot90(network(lr), 1, (-2, -1))).abs().max() > 1e-3
