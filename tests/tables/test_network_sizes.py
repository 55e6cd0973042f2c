"""`mrsr methods`, and that docs/methods.md says what it prints."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from mrsr import models
from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.tables import network_sizes
from project import ROOT


@pytest.mark.parametrize("options", [[], ["--experiment", "benchmark"]])
def test_the_page_has_what_the_command_prints(
    options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["methods", *options], catch_exceptions=False)
    assert done.output in (ROOT / "docs" / "methods.md").read_text()


def test_every_method_has_its_part_of_the_page() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    parts = set(re.findall(r"^### .*`(\w+)`$", page, re.MULTILINE))
    methods = loading.load(ROOT / "params.yaml").full_methods
    own = {key for key, method in methods.items() if method.kind in ("baseline", "added")}
    of_another = {"srresnet_published", "t2net_undersampled", "seran_all", "seran_all_8"}
    assert own - parts == of_another
    benchmark = loading.load(ROOT / "params.yaml", "benchmark").methods
    assert parts <= set(benchmark) | {"bicubic", "pseudo_inverse"}


def test_the_benchmark_is_of_all_methods_and_small_enough() -> None:
    benchmark = loading.load(ROOT / "params.yaml", "benchmark").methods
    for entry in network_sizes.entries(list(benchmark.values()), 2):
        assert entry.parameters <= 700_000, entry.key


def test_counts_of_a_known_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # SRCNN at 240x240: 9*9*64 + 64*32 + 5*5*32 multiply-adds a pixel, and the interpolation
    parameters, work = network_sizes.count("srcnn", {}, 2)
    convolutions = (81 * 64 + 64 * 32 + 25 * 32) * 240 * 240
    # the border that is replicated first is convolved as well
    assert parameters == 8129 and convolutions < work < 1.1 * convolutions


def test_guided_networks_are_counted_with_their_guide() -> None:
    assert network_sizes.count("lyu", {"features": 4, "blocks": 1}, 2)[1] > 0


def test_an_output_that_the_scale_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="does not divide"):
        network_sizes.count("srcnn", {}, 2, output=241)


def test_nothing_is_computed() -> None:
    with torch.device("meta"):
        network = models.build("edsr", 2, {})
    assert isinstance(network, nn.Module)
    assert all(parameter.is_meta for parameter in network.parameters())
