"""Counts of networks: by hand, kept, and counted again when code changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from mrsr.errors import UserError
from mrsr.ops.plan import networks, work
from mrsr.ops.plan.networks import Counts, named
from mrsr.params import loading

EXPERIMENTS = ("paper", "paper_published", "demo", "smoke", "openms", "openms_ablation",
               "benchmark", "benchmark_gpu", "best")  # fmt: skip


def test_a_small_network_by_hand() -> None:
    """The discriminator of two base maps on 16 x 16: 3x3 convolutions and two dense layers."""
    options = {"base": 2, "pool": True, "norm": "none", "size": 16}
    found = networks.measure(named("discriminator", options, 1, (16, 16)))
    maps, pixels = [1, 2, 2, 4, 4, 8, 8, 16, 16], [256, 256, 64, 64, 16, 16, 4, 4, 1]
    layers = list(zip(maps, maps[1:], pixels, pixels[1:], strict=False))
    products = sum(9 * into * out * size for into, out, _, size in layers)
    assert found.multiply_adds == products + 16 * 32 + 32
    # what the layers read and write, and the leaky ReLU after each but the last
    read_and_written = sum(a * before + b * size for a, b, before, size in layers)
    assert found.moved == read_and_written + (16 + 32) + (32 + 1)
    activations = 2 * (sum(b * size for _, b, _, size in layers) + 32)
    assert found.moved_else == activations + 2 * 16  # and the mean of each last map
    assert found.calls == 10 + 9 + 1
    assert found.parameters == sum(9 * a * b + b for a, b, *_ in layers) + 33 * 1 + 17 * 32


def test_larger_images_cost_in_proportion() -> None:
    options = {"features": 8, "blocks": 2, "norm": "none", "skip": "none"}
    small, large = (networks.measure(named("srresnet", options, 2, (n, n))) for n in (32, 64))
    assert large.multiply_adds == 4 * small.multiply_adds
    assert large.moved == 4 * small.moved
    assert (large.parameters, large.calls) == (small.parameters, small.calls)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Counts are kept in a folder of the test's."""
    monkeypatch.setattr(networks, "OWN", tmp_path / "networks.json")
    networks.counts.cache_clear()
    networks._read.cache_clear()
    yield tmp_path / "networks.json"
    networks.counts.cache_clear()
    networks._read.cache_clear()


def test_counts_are_kept(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = named("srcnn", {"features": [5, 4]}, 2, (16, 16))
    found = networks.counts(network)
    assert [Counts(**row) for row in json.loads(own.read_text()).values()] == [found]
    networks.counts.cache_clear()
    monkeypatch.setattr(networks, "measure", lambda network: pytest.fail("counted again"))
    assert networks.counts(network) == found


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_file_is_counted_again(own: Path, content: str) -> None:
    own.write_text(content)
    found = networks.counts(named("srcnn", {"features": [5, 4]}, 2, (16, 16)))
    assert asdict(found) in json.loads(own.read_text()).values()


def test_changed_code_is_counted_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = named("srcnn", {"kernels": [9, 1, 5], "features": [64, 32]}, 2)
    networks.counts(network)
    assert not own.exists()  # the package has it
    networks.counts.cache_clear()
    monkeypatch.setattr(networks, "model_code", lambda model: "other")
    networks.counts(network)
    assert own.exists()


def test_the_packages_counts_are_of_todays_code(root: Path) -> None:
    """Else `mrsr plan` is right and slow."""
    kept = networks._read(networks.SHIPPED)
    every = {
        networks._key(network)
        for name in EXPERIMENTS
        for network in work.networks(loading.load(root / "params.yaml", name))
    }
    command = f"python -m mrsr.ops.plan.work {' '.join(EXPERIMENTS)}"
    assert every == set(kept), f"run {command}"


@pytest.mark.parametrize("method", ["srresnet", "vdsr", "swinir"])
def test_the_packages_counts_are_right(root: Path, method: str) -> None:
    paper = loading.load(root / "params.yaml", "paper")
    options = paper.methods[method].options
    network = named(paper.methods[method].model, options, 2)
    kept = networks._read(networks.SHIPPED)[networks._key(network)]
    assert Counts(**kept) == networks.measure(network)


def test_a_network_that_cannot_be_counted_is_a_line() -> None:
    """Its dense layer is for another size."""
    options = {"base": 2, "pool": False, "norm": "none", "size": 96}
    with pytest.raises(UserError, match="model 'discriminator' cannot compute an image of 32x32"):
        networks.measure(named("discriminator", options, 1, (32, 32)))
