"""The generator with frozen networks inside: `pytest tests/models/test_model_fused.py`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr import checkpoint, inference, models
from mrsr.models import fused
from mrsr.params import loading
from mrsr.resampling import degrade
from mrsr.training import muon
from project import ROOT

VIT = {
    **{"hidden": 8, "layers": 3, "heads": 2, "mlp": 16, "size": [16, 32, 32]},
    "feature_size": 2,
}
CODER = {"structure_channels": 2, "texture": 8, "size": 0, "channels": [4, 4, 4, 4]}
SMALL: dict[str, Any] = {
    "features": 8, "blocks": 2, "width": 6, "vit": VIT, "autoencoder": CODER,
}  # fmt: skip
INSIDE = ("trained", "random", "joint")
EVERY = (*INSIDE, "own")


def make(networks: str = "trained", scale: int = 2, seed: int = 0, **options: Any) -> Any:
    """A small generator from a seed."""
    torch.manual_seed(seed)
    return models.build("fused", scale, {**SMALL, "networks": networks, **options})


def images(count: int = 4, size: int = 24) -> tuple[Tensor, Tensor]:
    """LR and HR of discs of different sizes and intensities."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 2 * size)] * 2, indexing="ij")
    discs = [(0.2 + i / count) * (x**2 + (y - i / 9) ** 2 < 0.1 * (i + 1)) for i in range(count)]
    hr = torch.stack(discs)[:, None].float()
    return degrade(hr, 2, "bicubic"), hr


def fit(network: Any, steps: int = 5) -> None:
    """Train a little."""
    lr, hr = images()
    network.calibrate(lr)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.l1_loss(network(lr), hr).backward()
        optimizer.step()


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("networks", EVERY)
@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_training_starts_as_srresnet_from_the_same_seed(
    networks: str, scale: int, skip: str
) -> None:
    network = make(networks, scale, skip=skip)
    torch.manual_seed(0)
    plain = {"features": 8, "blocks": 2, "norm": "none", "skip": skip}
    srresnet = models.build("srresnet", scale, plain)
    lr = torch.rand(2, 1, 9, 14)
    network.calibrate(torch.rand(5, 1, 9, 14))
    with torch.no_grad():
        assert torch.equal(network(lr), srresnet(lr))


@pytest.mark.parametrize("networks", EVERY)
@pytest.mark.parametrize("size", [(5, 7), (16, 16), (17, 31), (1, 3)])
def test_any_size_and_the_same_twice(networks: str, size: tuple[int, int]) -> None:
    network = make(networks).eval()
    fit(network)
    lr = torch.rand(2, 1, *size)
    with torch.no_grad():
        sr = inference.forward(network, lr, 2)
        assert sr.shape == (2, 1, 2 * size[0], 2 * size[1]) and torch.isfinite(sr).all()
        assert torch.equal(network(lr), sr)
        # an image does not depend on the others of its batch
        torch.testing.assert_close(network(lr[:1]), sr[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("networks", INSIDE)
def test_each_code_acts_after_a_few_steps(networks: str) -> None:
    network = make(networks).eval()
    lr, _ = images()
    network.calibrate(lr)
    codes, grid = network.look(lr)
    size = (lr.shape[-2], lr.shape[-1])

    def steered(changed: fused.Codes) -> list[Tensor]:
        with torch.no_grad():
            return list(network.steering(changed, grid, size))

    added, places, channels = steered(codes)
    assert not added.any() and (places == 1).all() and (channels == 1).all()
    fit(network)
    codes, _ = network.look(lr)
    codes = fused.Codes(*(code.detach() for code in codes))
    before = steered(codes)
    for name, moved in (
        ("tokens", (True, True, True)),
        ("structure", (True, True, False)),
        ("texture", (False, False, True)),
    ):
        other = codes._replace(**{name: getattr(codes, name).roll(1, dims=0)})
        after = steered(other)
        found = tuple(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert found == moved, name
    assert all((gates > 0).all() and (gates < 2).all() for gates in before[1:])
    # one factor per place, one per feature
    assert before[1].shape == (4, 2, *size) and before[2].shape == (4, 2, 8)


def test_own_gates_depend_on_the_image_alone() -> None:
    network = make("own").eval()
    assert not [name for name, _ in network.named_modules() if name in (*fused.FROZEN, "steering")]
    fit(network)
    seen: list[Tensor] = []
    network.own[0].excite.register_forward_hook(lambda *found: seen.append(found[2]))
    with torch.no_grad():
        network(images()[0])
    (logits,) = seen
    assert logits.any() and not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("networks", EVERY)
def test_what_moves_is_what_should(networks: str) -> None:
    network = make(networks)
    start = copy.deepcopy(network.state_dict())
    fit(network)
    moved = {
        name: not torch.equal(value, start[name]) for name, value in network.state_dict().items()
    }
    parameters = dict(network.named_parameters())
    inside = [name for name in moved if name.startswith(("vit.", "autoencoder."))]
    assert bool(inside) == (networks != "own")
    for name in inside:
        assert moved[name] == (networks == "joint"), name
        assert (name in parameters) == (networks == "joint"), name
    assert all(moved[name] for name in parameters)
    # Muon takes weights of layers, whatever they are
    frozen = {id(value) for name, value in network.named_buffers() if name in inside}
    assert not frozen & {id(weight) for weight in muon.hidden_matrices(network)}


def test_the_frozen_ones_are_saved_and_the_seed_decides(tmp_path: Path) -> None:
    network = make("random")
    names = set(network.state_dict())
    assert names == set(make("joint").state_dict()) == set(make("trained").state_dict())
    assert torch.equal(make("random").vit.patch.weight, network.vit.patch.weight)
    assert not torch.equal(make("random", seed=1).vit.patch.weight, network.vit.patch.weight)
    fit(network)
    checkpoint.save(
        tmp_path / "best.pt", model_name="fused", options={**SMALL, "networks": "random"}, scale=2,
        weights=network.state_dict(), settings={}, provenance={},
    )  # fmt: skip
    again = checkpoint.network(tmp_path / "best.pt")
    lr, _ = images()
    with torch.no_grad():
        assert torch.equal(again(lr), network.eval()(lr))


def test_codes_lie_where_the_image_has_them() -> None:
    """A bright LR pixel shows in its patch, and within two structure cells of its place."""
    for scale in (2, 3, 4, 8):
        network = make("joint", scale).eval()
        lr = torch.zeros(1, 1, 37, 45)
        lr[..., 20, 33] = 1.0
        with torch.no_grad():
            codes, grid = network.look(lr)
            empty, _ = network.look(torch.zeros_like(lr))
        assert grid[0] >= 37 and grid[1] >= 45
        for code, none, near in (
            (codes.tokens, empty.tokens, 0),
            (codes.structure, empty.structure, 2),  # convolutions see a neighbourhood
        ):
            rows, columns = code.shape[-2:]
            assert rows / columns == pytest.approx(grid[0] / grid[1])
            changed = (code - none).abs().sum(dim=1)[0]
            row, column = divmod(int(changed.argmax()), columns)
            assert abs(row - int(20.5 * rows / grid[0])) <= near
            assert abs(column - int(33.5 * columns / grid[1])) <= near


def test_codes_are_standardised_by_the_images_of_the_start() -> None:
    network = make("trained")
    lr, _ = images(6)
    network.calibrate(lr)
    codes, _ = network.look(lr)
    standard = network.steering.vector
    scaled = (codes.vector() - standard.mean) / standard.deviation
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(24), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.ones(24), atol=1e-2, rtol=0)
    assert standard(codes.vector() * 1e6).abs().max() <= fused.BENT
    # a code that never changes is no reason for infinite values
    same = fused.Standard(2)
    same.measure(torch.tensor([[0.0, 5.0], [0.0, 5.0]]))
    assert torch.isfinite(same(torch.tensor([[0.0, 5.1], [1.0, 5.0]]))).all()
    own = make("own")
    before = copy.deepcopy(own.state_dict())
    own.calibrate(lr)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize("experiment", ["paper", "fused"])
def test_the_control_trains_as_many_numbers(experiment: str) -> None:
    resolved = loading.load(ROOT / "params.yaml", experiment)
    methods = resolved.full_methods if experiment == "paper" else resolved.methods
    counts = {}
    for key in ("srresnet", "proposed_fused", "fused_random", "fused_own", "fused_joint"):
        with torch.device("meta"):
            network = models.build(methods[key].model, 2, methods[key].options)
        counts[key] = sum(weight.numel() for weight in network.parameters())
    assert counts["proposed_fused"] == counts["fused_random"]
    assert counts["fused_own"] == pytest.approx(counts["proposed_fused"], rel=0.005)
    assert counts["srresnet"] < counts["fused_own"] < counts["fused_joint"]


def test_a_network_of_buffers_computes_the_same() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3, bias=False))
    x, names = torch.rand(1, 1, 8, 8, requires_grad=True), list(network.state_dict())
    before = network(x)
    fused.freeze(network)
    assert torch.equal(network(x), before) and list(network.state_dict()) == names
    assert not list(network.parameters())
    network(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
