"""Guided and joint networks of one's own, from training to metrics. Run: pytest this file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mrsr.models
from builders import (
    command,
    curve,
    equal,
    evaluation,
    in_step,
    metrics,
    noise,
    preset,
    read,
    save,
    sr,
    weights,
    write_store,
)
from mrsr import checkpoint
from mrsr.errors import INTERRUPTED, UserError
from mrsr.metrics import definitions, evaluate
from mrsr.params import declared, jobs
from mrsr.params.schema import SPLITS
from mrsr.slices import batches, holding
from mrsr.training import session, train_sr

SHAPES = ((3, 33, 30), (2, 32, 36))  # odd sizes: padded and measured area differ
GUIDED = """
import torch
from torch import nn
from mrsr.resampling import upsample

GUIDED = True


class Net(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.layer = nn.Conv2d(2, 1, 3, padding=1)
        self.side = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, lr, guide):
        fine = upsample(lr, self.scale)
        assert guide.shape == fine.shape
        sr = fine + self.layer(torch.cat([fine, guide], 1))
        return (sr, {"guide": self.side(guide)}) if self.training else sr


def build(scale):
    return Net(scale)
"""
JOINT = """
from torch import nn
from mrsr.resampling import upsample


class Net(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.repair, self.layer = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))

    def forward(self, lr):
        whole = lr + self.repair(lr)
        fine = upsample(whole, self.scale)
        sr = fine + self.layer(fine)
        return (sr, {"reconstruction": whole}) if self.training else sr


def build(scale):
    return Net(scale)
"""
COMMON: dict[str, Any] = {"steps": 3, "validate_every": 2, "checkpoint_every": 1}
KINDS: dict[str, dict[str, Any]] = {
    "guided": COMMON | {
        "type": "guided", "model": {"name": "toy_guided_net", "options": {}},
        "losses": {"l1": 1.0, "guide": 0.5},
    },
    "joint": COMMON | {
        "type": "joint", "model": {"name": "toy_joint_net", "options": {}}, "acceleration": 4,
        "losses": {"l1": 1.0, "reconstruction": 0.5},
    },
}  # fmt: skip
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores, in `guide` those of a second contrast."""
    folder = tmp_path_factory.mktemp("types")
    about = {
        "guide": "e", "resampled": True, "without_guide": json.dumps({"train": ["x.nii"]}),
        "residual_mm": json.dumps({"median": 0.4, "largest": 1.25}),
    }  # fmt: skip
    for seed, split in enumerate(SPLITS):
        write_store(folder / f"{split}.h5", noise(seed, *SHAPES))
        write_store(folder / "guide" / f"{split}.h5", noise(10 + seed, *SHAPES), **about)
    return folder


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder outside the package with the two networks."""
    folder = tmp_path_factory.mktemp("own") / "models"
    folder.mkdir()
    (folder / "toy_guided_net.py").write_text(GUIDED)
    (folder / "toy_joint_net.py").write_text(JOINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mrsr.models, "__path__", [*mrsr.models.__path__, str(folder)])
        yield folder.parent


def arguments(stores: Path, out: Path, kind: str, **changes: Any) -> list[str]:
    guide = ["--guide", str(stores / "guide")] if kind == "guided" else []
    return command(stores, out, sr(method=kind, **KINDS[kind] | changes), *guide)


@pytest.fixture
def run(stores: Path, tmp_path: Path) -> Run:
    """Train in this process; returns the folder with the results."""

    def train(kind: str, out: str = "run", **changes: Any) -> Path:
        train_sr.main(arguments(stores, tmp_path / out, kind, **changes))
        return tmp_path / out

    return train


@pytest.fixture(scope="module")
def trained(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training of each kind."""
    found = {kind: tmp_path_factory.mktemp("trained") / kind for kind in KINDS}
    for kind, out in found.items():
        train_sr.main(arguments(stores, out, kind, precision="fp64"))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_validates_and_its_side_loss_acts(
    run: Run, trained: dict[str, Path], kind: str
) -> None:
    side = {"guided": "guide", "joint": "reconstruction"}[kind]
    done = trained[kind]
    assert list(metrics(done)) == [1, 2, 3]
    for one in metrics(done).values():
        assert one["total"] == pytest.approx(one["l1"] + 0.5 * one[side], rel=1e-5)
        assert one[side] > 0
    for split in ("validation", "test"):
        held = metrics(done, split).values()
        assert [set(one) for one in held] == [{"l1", "total", "psnr"}] * 2
        assert all(0 < one["psnr"] < 60 and one["total"] == one["l1"] for one in held)
    without = run(kind, precision="fp64", losses={"l1": 1.0})
    name = {"guided": "side.weight", "joint": "repair.weight"}[kind]
    assert not torch.equal(weights(done)[name], weights(without)[name])
    assert curve(without, "train", "l1")[0] == pytest.approx(curve(done, "train", "l1")[0])


def test_only_side_losses_have_no_validated_total(run: Run) -> None:
    done = run("guided", losses={"guide": 1.0})
    assert curve(done, "validation", "total") == [0.0, 0.0]
    assert all(value > 0 for value in curve(done, "validation", "psnr"))


@pytest.mark.parametrize("kind", KINDS)
def test_neither_place_nor_micro_batches_change_it(
    run: Run, trained: dict[str, Path], kind: str
) -> None:
    one = trained[kind]
    for place in ("host", "stream"):
        assert equal(run(kind, place, precision="fp64", place=place), one)
    parts = run(kind, "parts", precision="fp64", micro_batch=3)
    assert curve(parts, "train", "total") == pytest.approx(curve(one, "train", "total"), rel=1e-9)


class Killed(BaseException):
    """What no handler of ours catches."""


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_started_again_ends_with_the_same_bits(
    run: Run, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    changes = {"steps": 5, "checkpoint_every": 2}
    whole = run(kind, "whole", **changes)

    def die() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        in_step(patch, 4, die)
        run(kind, "killed", **changes)
    assert not (tmp_path / "killed" / "best.pt").exists()
    assert equal(run(kind, "killed", **changes), whole)
    assert "going on at step 2 of 5" in capfd.readouterr().err

    stops = iter([False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Stop, "asked", lambda *_: next(stops))
        with pytest.raises(SystemExit) as stop:
            run(kind, "stopped", **changes)
    assert stop.value.code == INTERRUPTED
    assert equal(run(kind, "stopped", **changes), whole, "best.pt")


def asked(kind: str, **changes: Any) -> jobs.Evaluation:
    """The evaluation of a kind."""
    entry = {key: KINDS[kind].get(key, 1) for key in ("type", "model", "acceleration")}
    return read(jobs.Evaluation, evaluation(method=kind, **entry | changes))


def test_a_guided_evaluation_says_how_well_the_guide_lies(
    stores: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    best, test, guide = (
        trained["guided"] / "best.pt", stores / "test.h5", stores / "guide" / "test.h5"
    )  # fmt: skip
    out = tmp_path / "metrics.json"
    record = evaluate.evaluate(asked("guided"), test, out, best, guide)
    assert record["guide"] == {
        "dataset": "e",
        "resampled": True,
        "without_guide": {"train": ["x.nii"]},
        "residual_mm": {"median": 0.4, "largest": 1.25},
    }
    assert json.loads(out.read_text()) == record and record["type"] == "guided"
    # by hand: the guide is that of the same slice
    network, expected = checkpoint.network(best), []
    held = holding.load(test, scale=2, degradation="bicubic", device="cpu", guide=guide)
    for piece, lr, hr, second in batches.whole(held):
        height, width = piece.size
        with torch.no_grad():
            sr = network(lr, second)[:, 0, :height, :width].numpy()
        reference = hr[:, 0, :height, :width].numpy()
        expected.append(definitions.score(sr, reference, preset("slice"))["psnr"])
    found = [volume["psnr"] for volume in record["per_volume"]]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_joint_evaluation_degrades_as_the_training_did(
    stores: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    test, best = stores / "test.h5", trained["joint"] / "best.pt"
    saved, scores = checkpoint.load(best), {}
    for acceleration in (4, 1):
        given = saved.settings | {"acceleration": acceleration}
        cell = save(tmp_path / "cell.pt", saved.model_name, {}, saved.weights, settings=given)
        wanted = asked("joint", acceleration=acceleration)
        record = evaluate.evaluate(wanted, test, tmp_path / "metrics.json", cell)
        assert record["acceleration"] == acceleration and "guide" not in record
        scores[acceleration] = record["psnr"]["mean"]
    assert scores[4] != pytest.approx(scores[1], abs=1e-3)
    with pytest.raises(UserError, match="trained for acceleration 4, the evaluation asks for 1"):
        evaluate.evaluate(asked("joint", acceleration=1), test, tmp_path / "x.json", best)


def test_a_guide_that_is_missing_or_too_many_is_one_line(
    stores: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(kind: str, guide: Path | None) -> str:
        given = command(stores, tmp_path / "run", sr(method=kind, **KINDS[kind]))
        with pytest.raises(SystemExit) as stop:
            train_sr.main(given + (["--guide", str(guide)] if guide else []))
        assert stop.value.code == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    assert "needs a second contrast; give it with --guide" in refused("guided", None)
    assert "takes no second contrast; leave --guide out" in refused("joint", stores / "guide")
    assert "no slice store" in refused("guided", tmp_path)
    best = save(tmp_path / "any.pt", "toy_guided_net", {})
    with pytest.raises(UserError, match="needs a second contrast"):
        evaluate.evaluate(asked("guided"), stores / "test.h5", tmp_path / "x.json", best)


def test_a_side_loss_without_side_output_is_one_line(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("joint", losses={"l1": 1.0, "guide": 1.0})
    assert "losses.guide: the model gives no such side output" in capfd.readouterr().err


def test_a_file_outside_says_what_it_takes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "PACKAGE_FOLDERS", (*declared.PACKAGE_FOLDERS, own))
    assert declared.model_is_guided("toy_guided_net")
    assert not declared.model_is_guided("toy_joint_net")
    assert declared.model_options("toy_joint_net") == []
