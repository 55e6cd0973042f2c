"""Trainings of a generator with networks inside it: `pytest tests/training/test_train_fused.py`."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from builders import FROZEN_CODER as CODER
from builders import FROZEN_VIT as VIT
from builders import (
    command,
    curve,
    equal,
    evaluation,
    in_step,
    load,
    parameters,
    put,
    read,
    refused,
    save,
    sr,
)
from mrsr import checkpoint, cli
from mrsr.errors import UserError
from mrsr.metrics import evaluate
from mrsr.ops.plan import jobs
from mrsr.params.experiment import Resolved
from mrsr.params.jobs import Evaluation
from mrsr.scan.export import choosing
from mrsr.training import train_sr

OPTIONS = {"features": 8, "blocks": 1, "width": 4, "vit": VIT, "autoencoder": CODER}
Train = Callable[..., Path]


def table(networks: str, **changes: Any) -> dict[str, Any]:
    """Settings of a short training."""
    options = {**OPTIONS, "networks": networks}
    mine = {"method": "fused", "model": {"name": "fused", "options": options}, "steps": 6}
    return sr(**(mine | changes))


def given(paths: dict[str, Path]) -> list[str]:
    """The options that hand over checkpoints."""
    return [text for name, path in paths.items() for text in (f"--{name}", str(path))]


@pytest.fixture
def train(stores: Path, frozen: dict[str, Path], tmp_path: Path) -> Train:
    """Train in this process: `train(networks, out, **changes)` gives the folder."""

    def one(networks: str, out: str = "run", **changes: Any) -> Path:
        paths = frozen if networks == "trained" else {}
        settings = table(networks, **changes)
        train_sr.main(command(stores, tmp_path / out, settings, *given(paths)))
        return tmp_path / out

    return one


def inside(path: Path) -> dict[str, torch.Tensor]:
    """Weights of the networks inside, from a checkpoint of a generator."""
    names = ("vit.", "autoencoder.")
    saved = checkpoint.load(path).weights
    return {key: value for key, value in saved.items() if key.startswith(names)}


def test_trained_weights_are_the_checkpoints_and_stay(
    train: Train, frozen: dict[str, Path]
) -> None:
    done = train("trained")
    own = {f"vit.{key}": value for key, value in checkpoint.load(frozen["vit"]).weights.items()}
    for key, value in checkpoint.load(frozen["autoencoder"]).weights.items():
        if key.startswith("encoder."):
            own[f"autoencoder.{key.removeprefix('encoder.')}"] = value
    for name in ("best.pt", "last.pt"):
        found = inside(done / name)
        assert found.keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in found.items())
    saved = checkpoint.load(done / "best.pt")
    assert {"vit_sha256", "autoencoder_sha256"} <= saved.provenance.keys()


@pytest.mark.parametrize("networks", ["trained", "random", "joint", "own"])
def test_a_table_counts_what_was_trained(
    train: Train, stores: Path, tmp_path: Path, networks: str
) -> None:
    best = train(networks, steps=2) / "best.pt"
    model = {"name": "fused", "options": checkpoint.load(best).options}
    settings = evaluation(method="fused", model=model, full_options=model["options"])
    found = evaluate.evaluate(
        read(Evaluation, settings), stores / "test.h5", tmp_path / "fused.json", best
    )
    weights = sum(value.numel() for value in inside(best).values())
    fixed = weights if networks in ("trained", "random") else None
    assert found.get("frozen_parameters") == fixed
    assert found["parameters"] == found["full_parameters"]
    assert 0 < found["parameters"] - (weights if networks == "joint" else 0) < 10_000


def test_each_row_is_another_training(train: Train) -> None:
    curves = {}
    for networks in ("trained", "random", "joint", "own"):
        curves[networks] = curve(train(networks, networks, steps=4), "train", "l1")
    first = {values[0] for values in curves.values()}
    assert len(first) == 1  # before the first step all are the plain generator
    assert len({tuple(values) for values in curves.values()}) == 4


def test_random_networks_stay_and_joint_ones_move(train: Train) -> None:
    one, two = (inside(train("random", f"r{steps}", steps=steps) / "last.pt") for steps in (2, 4))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    one, two = (inside(train("joint", f"j{steps}", steps=steps) / "last.pt") for steps in (2, 4))
    assert all(not torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize("networks", ["trained", "joint"])
def test_a_stopped_training_ends_with_the_same_weights(
    train: Train, monkeypatch: pytest.MonkeyPatch, networks: str
) -> None:
    whole = train(networks, "whole")
    in_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(SystemExit):
        train(networks, "stopped")
    assert equal(train(networks, "stopped"), whole)


def test_other_networks_are_another_training(
    stores: Path, frozen: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    vit = Path(shutil.copy(frozen["vit"], tmp_path / "vit.pt"))
    arguments = command(stores, tmp_path / "run", table("trained"), *given(frozen | {"vit": vit}))
    in_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(SystemExit):
        train_sr.main(arguments)
    saved = checkpoint.load(vit)
    save(vit, "unetr", saved.options, {key: value + 0.1 for key, value in saved.weights.items()})
    capfd.readouterr()
    train_sr.main(arguments)
    assert "belongs to other settings or data" in capfd.readouterr().err


def test_what_is_missing_or_does_not_fit_is_one_line(
    stores: Path, frozen: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = dict(OPTIONS, networks="trained", autoencoder={**CODER, "texture": 4})
    heads = dict(OPTIONS, networks="trained", vit={**VIT, "heads": 4})
    swapped = {"vit": frozen["autoencoder"], "autoencoder": frozen["vit"]}
    fitting = {**OPTIONS, "networks": "trained"}
    for options, paths, problem in (
        (fitting, {"vit": frozen["vit"]}, "the generator has the autoencoder inside: give"),
        (fitting, {"autoencoder": frozen["autoencoder"]}, "network with --vit best.pt"),
        (fitting, swapped, "not a vision transformer"),
        (other, frozen, "its texture is 8, and autoencoder.texture of the generator 4"),
        (heads, frozen, "its heads is 2, and vit.heads of the generator 4"),
    ):
        settings = table("trained", model={"name": "fused", "options": options})
        with pytest.raises(SystemExit) as stop:
            train_sr.main(command(stores, tmp_path / "run", settings, *given(paths)))
        assert stop.value.code == 2
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("mrsr: error: ") and problem in last
        assert not (tmp_path / "run" / "best.pt").exists()


def test_enhance_needs_nothing_but_the_checkpoint(train: Train, tmp_path: Path) -> None:
    best = shutil.copy(train("trained") / "best.pt", tmp_path / "alone.pt")
    values = np.random.default_rng(0).random((13, 18, 3)).astype("float32")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    words = ["enhance", str(tmp_path / "scan.nii.gz"), str(tmp_path / "fine.nii.gz")]
    done = CliRunner().invoke(cli.app, [*words, "--model", str(best)])
    assert done.exit_code == 0, done.output
    fine = nibabel.load(tmp_path / "fine.nii.gz")
    assert fine.shape == (26, 36, 3) and np.isfinite(fine.get_fdata()).all()
    with pytest.raises(UserError, match="works in windows of 8 pixels"):
        choosing.choose(str(best))  # for ONNX


def rules(resolved: Resolved) -> dict[str, tuple[str, ...]]:
    """What each super-resolution training waits for besides its stores, by method."""
    found = {}
    for job in jobs.every(resolved):
        if job.rule == "train_sr":
            waits = [path for path in job.inputs if path.endswith("best.pt")]
            found[job.wildcards["method"]] = tuple(Path(path).parent.name for path in waits)
    return found


def test_a_row_waits_for_what_it_takes_in(tmp_path: Path) -> None:
    tables = parameters("fused", "openms_ablation", "demo")
    resolved = load(tmp_path, tables, "fused")
    assert rules(resolved) == {
        "proposed_fused": ("organ", "autoencoder"),
        **dict.fromkeys(("srresnet", "fused_random", "fused_joint", "fused_own"), ()),
    }
    job = resolved.super_resolution("openms_t1", 2, "proposed_fused")
    assert job.features is None and job.adversarial is None
    assert job.model.options["vit"]["hidden"] == resolved.params.vit.network.hidden == 192
    full = resolved.evaluation("openms_t1", 2, "proposed_fused").full_options
    assert full["vit"]["hidden"] == 768 and full["features"] == 64
    # without such a row neither network is trained, and the experiment needs no data for them
    put(tables, "fused grid 0 methods", ["fused_random", "fused_joint", "fused_own"])
    alone = load(tmp_path, tables, "fused")
    assert not alone.pool and not alone.autoencoders()
    assert {job.rule for job in jobs.every(alone)} & {
        "train_vit_pretext",
        "train_autoencoder",
    } == set()


def test_wrong_entries_are_refused(tmp_path: Path) -> None:
    for path, value, problem in (
        ("options depth", 3, "methods.proposed_fused.options.depth: model 'fused' has no such"),
        ("type", "self", "methods.proposed_fused.type: model 'fused' takes in a trained vit"),
        ("train features", {"target": "hr"}, "train.features: no loss of the method uses it"),
    ):
        tables = parameters("demo")
        put(tables, f"params methods proposed_fused {path}", value)
        assert problem in refused(tmp_path, tables)
