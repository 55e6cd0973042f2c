"""Trainings whose network is dead or useless say so: `pytest tests/training/test_liveness.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from builders import lines, sr
from mrsr import checkpoint, compute, models
from mrsr.params.jobs import SuperResolution
from mrsr.params.typed import build
from mrsr.slices import batches, holding
from mrsr.training import liveness, train_sr

Run = Callable[..., Path]
TINY = {"features": 4, "blocks": 1}


@pytest.fixture
def held(stores: Path) -> tuple[holding.Slices, compute.Machine, SuperResolution]:
    settings = build(SuperResolution, sr(), strict=False)
    machine = compute.start(settings)
    return batches.load_for(settings, stores / "validation.h5", machine, None), machine, settings


@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_a_network_whose_relus_are_dead_is_found(
    held: tuple[holding.Slices, compute.Machine, SuperResolution], skip: str
) -> None:
    slices, machine, settings = held
    network = models.build("srresnet", 2, {**TINY, "skip": skip, "norm": "none"})
    assert liveness.depends_on_input(network, slices, machine)
    with torch.no_grad():
        network.stages[0].conv.bias.fill_(-1e3)  # each ReLU after the pixel shuffle gives zero
    assert not liveness.depends_on_input(network, slices, machine)
    assert network.training
    found = liveness.remarks(network, slices, machine, settings, psnr=99.0)
    assert len(found) == 1 and found[0].startswith("dead: ")
    assert ("the skip aside" in found[0]) == (skip == "bicubic")


def test_bicubic_is_measured_as_the_validation_measures(
    held: tuple[holding.Slices, compute.Machine, SuperResolution],
) -> None:
    slices, machine, settings = held
    network = models.build("bicubic", 2, {})
    expected = train_sr.evaluate(network, slices, machine, settings, {"l1": 1.0})["psnr"]
    assert liveness.bicubic_psnr(slices, machine, settings) == pytest.approx(expected, abs=1e-4)


def test_a_remark_reaches_terminal_log_and_checkpoint(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten steps of a tiny network without a skip are far below bicubic."""
    options = {**TINY, "skip": "none", "norm": "none"}
    done = run(model={"name": "srresnet", "options": options})
    said = [line["text"] for line in lines(done) if line.get("event") == "warning"]
    assert len(said) == 1 and said[0].startswith("below bicubic: ")
    assert f"warning: toy x2 srresnet: {said[0]}" in capsys.readouterr().err
    assert checkpoint.load(done / "best.pt").provenance["warnings"] == said


def test_a_useful_network_gets_no_remark(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**TINY, "skip": "bicubic", "norm": "none"}
    done = run(model={"name": "srresnet", "options": options}, steps=60)
    assert checkpoint.load(done / "best.pt").provenance["warnings"] == []
    assert "warning" not in capsys.readouterr().err
