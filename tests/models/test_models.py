"""Every network at every scale: `pytest tests/models/test_models.py`."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrsr import models
from mrsr.errors import UserError
from mrsr.resampling import degrade, upsample

SCALES = (2, 3, 4, 8)
# small, and each option at each of its values
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bicubic": ("bicubic", {}),
    "srcnn": ("srcnn", {"features": [8, 4]}),
    "srcnn 9-5-5 skip gaussian": (
        "srcnn",
        {"features": [8, 4], "kernels": [9, 5, 5], "skip": "bicubic", "init": "gaussian"},
    ),
    "srresnet printed": ("srresnet", {"features": 8, "blocks": 2}),
    "srresnet norm skip": ("srresnet", {"features": 8, "blocks": 2, "skip": "bicubic"}),
    "srresnet plain": ("srresnet", {"features": 8, "blocks": 2, "norm": "none"}),
    "srresnet strong": (
        "srresnet",
        {"features": 8, "blocks": 2, "norm": "none", "skip": "bicubic", "last_kernel": 3},
    ),
}
TRAINED = [key for key in NETWORKS if key != "bicubic"]


def make(key: str, scale: int, seed: int = 0) -> nn.Module:
    """A network from a seed."""
    torch.manual_seed(seed)
    name, options = NETWORKS[key]
    return models.build(name, scale, options)


def images(scale: int, count: int = 2, size: int = 6) -> tuple[Tensor, Tensor]:
    """LR and HR of discs: edges, which interpolation blurs."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size * scale)] * 2, indexing="ij")
    hr = torch.stack([(x**2 + y**2 < 0.2 * (i + 1)).float() for i in range(count)])[:, None]
    return degrade(hr, scale, "bicubic"), hr


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("key", NETWORKS)
def test_shape_and_finite(key: str, scale: int) -> None:
    with torch.no_grad():
        sr = make(key, scale)(torch.rand(2, 1, 7, 10))
    assert sr.shape == (2, 1, 7 * scale, 10 * scale)
    assert torch.isfinite(sr).all()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("key", TRAINED)
def test_gradient_reaches_every_parameter(key: str, scale: int) -> None:
    network = make(key, scale)
    lr, hr = images(scale)
    (network(lr) - hr).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("key", NETWORKS)
def test_state_survives_a_round_trip(key: str) -> None:
    one, two = make(key, 2), make(key, 2, seed=1)
    lr = torch.rand(1, 1, 8, 8)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    two.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(one.eval()(lr), two.eval()(lr))


@pytest.mark.parametrize("key", TRAINED)
def test_the_seed_decides(key: str) -> None:
    one, two, other = make(key, 2), make(key, 2), make(key, 2, seed=1)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    lr = torch.rand(1, 1, 8, 8)
    assert not torch.equal(one(lr), other(lr))


@pytest.mark.parametrize("key", ["srcnn", "srresnet printed", "srresnet plain", "srresnet strong"])
def test_overfits_a_batch_below_bicubic(key: str) -> None:
    network = make(key, 2)
    lr, hr = images(2, size=12)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (network(lr) - hr).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * (upsample(lr, 2) - hr).square().mean().item()


def test_starts_from_bicubic_where_it_says_so() -> None:
    lr = images(2)[0]
    for key, within in (("srcnn", 0.15), ("srresnet strong", 0.05), ("srresnet norm skip", 0.1)):
        error = (make(key, 2)(lr) - upsample(lr, 2)).abs().mean()
        assert error < within, (key, float(error))


def test_published_parameter_counts() -> None:
    def count(name: str, **options: Any) -> int:
        return sum(p.numel() for p in models.build(name, 2, options).parameters())

    assert count("srcnn") == 8_129
    assert count("srcnn", kernels=[9, 5, 5]) == 57_281
    assert count("srresnet") == 1_380_993
    assert count("bicubic") == 0


def test_bicubic_is_the_interpolation() -> None:
    lr = torch.rand(2, 1, 5, 6)
    assert torch.equal(make("bicubic", 4)(lr), upsample(lr, 4))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("srcnn", {"kernels": [9, 1]}),
        ("srcnn", {"kernels": [8, 1, 5]}),
        ("srcnn", {"features": [64]}),
        ("srcnn", {"skip": "linear"}),
        ("srcnn", {"init": "zeros"}),
        ("srresnet", {"norm": "layer"}),
        ("srresnet", {"skip": "nearest"}),
        ("srresnet", {"blocks": 0}),
        ("srresnet", {"last_kernel": 4}),
        ("srresnet", {"colour": 3}),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=name):
        models.build(name, 2, options)


def test_a_scale_without_stages_is_refused() -> None:
    with pytest.raises(UserError, match="scale"):
        models.build("srresnet", 5, {})
