"""Guided and joint networks of one's own, from training to metrics. Run: pytest this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from mrsr.params.settings import namespace
from test_batches import make_store
from test_evaluate import SETTINGS
from test_train_sr import curve, lines, settings

import mrsr.models
from mrsr import checkpoint, models
from mrsr.errors import INTERRUPTED, UserError
from mrsr.metrics import definitions, evaluate
from mrsr.params import declared
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
KINDS: dict[str, dict[str, Any]] = {
    "guided": {
        "type": "guided", "model": {"name": "toy_guided_net", "options": {}},
        "losses": {"l1": 1.0, "guide": 0.5},
    },
    "joint": {
        "type": "joint", "model": {"name": "toy_joint_net", "options": {}}, "acceleration": 4,
        "losses": {"l1": 1.0, "reconstruction": 0.5},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores with guides, and a folder outside the package with the two networks."""
    for number, split in enumerate(("train", "validation", "test")):
        make_store(tmp_path / f"{split}.h5", SHAPES, seed=number)
        (tmp_path / "guide").mkdir(exist_ok=True)
        guide = make_store(tmp_path / "guide" / f"{split}.h5", SHAPES, seed=10 + number)
        with h5py.File(guide, "r+") as file:
            file.attrs.update(
                guide="e", resampled=True, without_guide=json.dumps({"train": ["x.nii"]}),
                residual_mm=json.dumps({"median": 0.4, "largest": 1.25}),
            )  # fmt: skip
    plug_in = tmp_path / "own" / "models"
    plug_in.mkdir(parents=True)
    (plug_in / "toy_guided_net.py").write_text(GUIDED)
    (plug_in / "toy_joint_net.py").write_text(JOINT)
    monkeypatch.setattr(mrsr.models, "__path__", [*mrsr.models.__path__, str(plug_in)])
    return tmp_path


def command(folder: Path, kind: str, out: str = "run", **changes: Any) -> list[str]:
    given = settings(dataset="d", method=kind, steps=3, validate_every=2, checkpoint_every=1)
    given |= KINDS[kind] | changes
    guide = ["--guide", str(folder / "guide")] if kind == "guided" else []
    return [
        "--settings", json.dumps(given), *guide, "--train", str(folder / "train.h5"),
        "--validation", str(folder / "validation.h5"), "--test", str(folder / "test.h5"),
        "--out", str(folder / out / "best.pt"),
    ]  # fmt: skip


def run(folder: Path, kind: str, out: str = "run", **changes: Any) -> Path:
    """Train in this process; returns the folder with the results."""
    train_sr.main(command(folder, kind, out, **changes))
    return folder / out


def same(one: Path, two: Path) -> None:
    for name in ("best.pt", "last.pt"):
        first, second = (checkpoint.load(folder / name).weights for folder in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_validates_and_its_side_loss_acts(folder: Path, kind: str) -> None:
    side = {"guided": "guide", "joint": "reconstruction"}[kind]
    done = run(folder, kind)
    train = [line["metrics"] for line in lines(done) if line.get("split") == "train"]
    assert len(train) == 3
    for one in train:
        assert one["total"] == pytest.approx(one["l1"] + 0.5 * one[side], rel=1e-5)
        assert one[side] > 0
    for split in ("validation", "test"):
        held = [line["metrics"] for line in lines(done) if line.get("split") == split]
        assert [set(one) for one in held] == [{"l1", "total", "psnr"}] * 2
        assert all(0 < one["psnr"] < 60 and one["total"] == one["l1"] for one in held)
    without = run(folder, kind, "without", losses={"l1": 1.0})
    weights = [checkpoint.load(one / "last.pt").weights for one in (done, without)]
    name = {"guided": "side.weight", "joint": "repair.weight"}[kind]
    assert not torch.equal(weights[0][name], weights[1][name])
    assert curve(without, "train", "l1")[0] == pytest.approx(curve(done, "train", "l1")[0])


def test_only_side_losses_have_no_validated_total(folder: Path) -> None:
    done = run(folder, "guided", losses={"guide": 1.0})
    assert curve(done, "validation", "total") == [0.0, 0.0]
    assert all(value > 0 for value in curve(done, "validation", "psnr"))


@pytest.mark.parametrize("place", ["host", "stream"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_place_nor_micro_batches_change_it(folder: Path, kind: str, place: str) -> None:
    one = run(folder, kind, "one", precision="fp64")
    same(run(folder, kind, "two", precision="fp64", place=place), one)
    parts = run(folder, kind, "parts", precision="fp64", micro_batch=3)
    assert curve(parts, "train", "total") == pytest.approx(curve(one, "train", "total"), rel=1e-9)


class Killed(BaseException):
    """What no handler of ours catches."""


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_started_again_ends_with_the_same_bits(
    folder: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run(folder, kind, "whole", steps=5, checkpoint_every=2)
    original, calls = batches.batch, []

    def dying(*given: Any, **more: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            raise Killed
        return original(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "batch", dying)
        with pytest.raises(Killed):
            run(folder, kind, "killed", steps=5, checkpoint_every=2)
    assert not (folder / "killed" / "best.pt").exists()
    same(run(folder, kind, "killed", steps=5, checkpoint_every=2), whole)
    assert "going on at step 2 of 5" in capfd.readouterr().err

    stops = iter([False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Stop, "asked", lambda *_: next(stops))
        with pytest.raises(SystemExit) as stop:
            run(folder, kind, "stopped", steps=5, checkpoint_every=2)
    assert stop.value.code == INTERRUPTED
    same(run(folder, kind, "stopped", steps=5, checkpoint_every=2), whole)


def asked(kind: str, **changes: Any) -> Any:
    entry = {key: value for key, value in KINDS[kind].items() if key != "losses"}
    return namespace({**SETTINGS, "dataset": "d", "method": kind, **entry, **changes})


def test_a_guided_evaluation_says_how_well_the_guide_lies(folder: Path) -> None:
    best = run(folder, "guided") / "best.pt"
    out, guide = folder / "metrics.json", folder / "guide" / "test.h5"
    record = evaluate.evaluate(asked("guided"), folder / "test.h5", out, best, guide)
    assert record["guide"] == {
        "dataset": "e",
        "resampled": True,
        "without_guide": {"train": ["x.nii"]},
        "residual_mm": {"median": 0.4, "largest": 1.25},
    }
    assert json.loads(out.read_text()) == record and record["type"] == "guided"
    # by hand: the guide is that of the same slice
    network, expected = checkpoint.network(best), []
    held = holding.load(
        folder / "test.h5", scale=2, degradation="bicubic", device="cpu", guide=guide
    )
    for piece, lr, hr, second in batches.whole(held):
        height, width = piece.size
        with torch.no_grad():
            sr = network(lr, second)[:, 0, :height, :width].numpy()
        reference = hr[:, 0, :height, :width].numpy()
        expected.append(definitions.score(sr, reference, definitions.PRESETS["slice"])["psnr"])
    found = [volume["psnr"] for volume in record["per_volume"]]
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_joint_evaluation_degrades_as_the_training_did(folder: Path) -> None:
    best = run(folder, "joint") / "best.pt"
    scores = {}
    for acceleration in (4, 1):
        saved = checkpoint.load(best)
        same_cell = folder / f"{acceleration}.pt"
        checkpoint.save(
            same_cell, model_name=saved.model_name, options={}, scale=2, weights=saved.weights,
            settings=saved.settings | {"acceleration": acceleration}, provenance={},
        )  # fmt: skip
        record = evaluate.evaluate(
            asked("joint", acceleration=acceleration), folder / "test.h5",
            folder / f"{acceleration}.json", same_cell,
        )  # fmt: skip
        assert record["acceleration"] == acceleration and "guide" not in record
        scores[acceleration] = record["psnr"]["mean"]
    assert scores[4] != pytest.approx(scores[1], abs=1e-3)
    with pytest.raises(UserError, match="trained for acceleration 4, the evaluation asks for 1"):
        evaluate.evaluate(asked("joint", acceleration=1), folder / "test.h5", folder / "x", best)


def test_a_guide_that_is_missing_or_too_many_is_one_line(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            train_sr.main(arguments)
        assert stop.value.code == 2
        return capfd.readouterr().err.strip().splitlines()[-1]

    arguments = command(folder, "guided")
    index = arguments.index("--guide")
    assert "needs a second contrast; give it with --guide" in refused(
        arguments[:index] + arguments[index + 2 :]
    )
    joint = [*command(folder, "joint"), "--guide", str(folder / "guide")]
    assert "takes no second contrast; leave --guide out" in refused(joint)
    (folder / "guide" / "validation.h5").unlink()
    assert "no slice store" in refused(arguments)

    best = folder / "any.pt"
    checkpoint.save(
        best, model_name="toy_guided_net", options={}, scale=2, settings={}, provenance={},
        weights=models.build("toy_guided_net", 2, {}).state_dict(),
    )  # fmt: skip
    with pytest.raises(UserError, match="needs a second contrast"):
        evaluate.evaluate(asked("guided"), folder / "test.h5", folder / "x.json", best)


def test_a_side_loss_without_side_output_is_one_line(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(folder, "joint", losses={"l1": 1.0, "guide": 1.0})
    assert "losses.guide: the model has no such side output" in capfd.readouterr().err


def test_a_file_outside_says_what_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "PACKAGE_FOLDERS", (*declared.PACKAGE_FOLDERS, folder / "own"))
    assert declared.model_is_guided("toy_guided_net")
    assert not declared.model_is_guided("toy_joint_net")
    assert declared.model_options("toy_joint_net") == []
