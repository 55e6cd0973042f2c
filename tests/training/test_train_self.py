"""Training on each test volume itself. Run: pytest tests/training/test_train_self.py"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from builders import (
    curve,
    equal,
    evaluation,
    in_step,
    lines,
    metrics,
    noise,
    own,
    preset,
    read,
    write_store,
)
from mrsr import checkpoint, compute, models
from mrsr.errors import INTERRUPTED, UserError
from mrsr.metrics import definitions, evaluate
from mrsr.params.jobs import Evaluation, SuperResolution
from mrsr.resampling import degrade, pad_to
from mrsr.slices import batches, holding, store
from mrsr.training import one_volume, train_self

SHAPES = ((3, 40, 34), (2, 36, 36))
MODEL = own()["model"]
STEPS = own()["steps"]


def make_store(folder: Path, *shapes: tuple[int, int, int]) -> Path:
    return write_store(folder / "test.h5", noise(0, *(shapes or SHAPES)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store"))


def run(path: Path, folder: Path, **changes: Any) -> Path:
    """Train in this process; returns the checkpoint."""
    out = folder / "best.pt"
    given = ["--settings", json.dumps(own(**changes))]
    train_self.main([*given, "--slices", str(path), "--out", str(out)])
    return out


def same(one: Path, two: Path) -> None:
    assert equal(one.parent, two.parent, "best.pt")


@pytest.fixture(scope="module")
def whole(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an uninterrupted training."""
    return run(path, tmp_path_factory.mktemp("whole"))


def test_every_volume_gets_a_network_of_its_own(path: Path, whole: Path) -> None:
    saved = checkpoint.load(whole)
    names = models.build("srcnn", 2, MODEL["options"]).state_dict()
    assert set(saved.weights) == {f"{key}/{name}" for key in ("0000", "0001") for name in names}
    assert any(
        not torch.equal(saved.weights[f"0000/{name}"], saved.weights[f"0001/{name}"])
        for name in names
    )
    assert saved.provenance["volumes"] == {"0000": "s0.nii", "0001": "s1.nii"}
    assert (saved.provenance["steps"], saved.provenance["step"]) == (STEPS, 2 * STEPS)
    log = lines(whole.parent)
    assert log[0]["event"] == "start" and log[-1]["event"] == "end"
    assert list(metrics(whole.parent)) == [3, 4, 6, 8]
    assert len(curve(whole.parent, "train", "l1")) == 4
    assert sorted(p.name for p in whole.parent.iterdir()) == ["best.pt", "log.jsonl"]


def test_the_same_settings_give_the_same_bytes(path: Path, whole: Path, tmp_path: Path) -> None:
    again = run(path, tmp_path)
    same(again, whole)
    one = checkpoint.load(again)
    assert one.settings == checkpoint.load(whole).settings


def test_a_volume_does_not_depend_on_the_others(whole: Path, tmp_path: Path) -> None:
    """The second of the store alone: another store, the same volume, the same weights."""
    alone = make_store(tmp_path)
    with h5py.File(alone, "r+") as file:
        del file["volumes/0000"]
    weights = checkpoint.load(run(alone, tmp_path / "run")).weights
    first = checkpoint.load(whole).weights
    assert weights and all(torch.equal(value, first[key]) for key, value in weights.items())


def test_high_resolution_never_influences_the_result(
    path: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = holding.load

    def blind(*given: Any, **more: Any) -> holding.Slices:
        held = original(*given, **more)
        assert held.hr is not None
        held.hr.fill_(float("nan"))
        return held

    monkeypatch.setattr(holding, "load", blind)
    same(run(path, tmp_path), whole)


def test_a_volume_is_read_once(
    path: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed from disk, the store is not read again for each of its volumes."""
    original, read = store.read_slices, []

    def counted(source: Any, volume: store.StoredVolume, *more: Any) -> np.ndarray:
        read.append(volume.key)
        return original(source, volume, *more)

    monkeypatch.setattr(holding, "_place", lambda *_: "stream")
    monkeypatch.setattr(store, "read_slices", counted)
    same(run(path, tmp_path), whole)
    assert read == ["0000", "0001"]


def test_pairs_are_a_second_degradation() -> None:
    lr = torch.rand(3, 17, 20, generator=torch.Generator().manual_seed(0))
    pairs = one_volume.pairs_of(lr, read(SuperResolution, own()))
    assert pairs.canvas == (18, 20) and torch.equal(pairs.hr[:, :17, :20], lr)
    assert torch.equal(pairs.lr[1], degrade(pad_to(lr, 2)[0][1], 2, "bicubic"))
    small, fine = batches.batch(pairs, 0, batch=2, patch=16, seed=0, augment=True)
    assert small.shape == (2, 1, 8, 8) and fine.shape == (2, 1, 16, 16)


class Killed(BaseException):
    """What no handler of ours catches."""


@pytest.mark.parametrize("at", [2, STEPS, STEPS + 1, STEPS + 3])
def test_killed_and_started_again_ends_with_the_same_bits(
    path: Path, whole: Path, tmp_path: Path, at: int
) -> None:
    """Killed before a step of the first volume, between the two, and in the second."""

    def die() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        in_step(patch, at + 1, die)
        run(path, tmp_path)
    assert not (tmp_path / "best.pt").exists()
    same(run(path, tmp_path), whole)
    assert not list(tmp_path.glob("resume*"))
    assert list(metrics(tmp_path)) == [3, 4, 6, 8]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_writes_the_state_and_says_so(
    path: Path, whole: Path, tmp_path: Path, capfd: Any, number: signal.Signals
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        in_step(patch, STEPS + 2, lambda: os.kill(os.getpid(), number))
        run(path, tmp_path)
    assert stop.value.code == INTERRUPTED == 75
    assert f"stopped by {number.name} after step 6 of 8" in capfd.readouterr().err
    assert (tmp_path / "resume.pt").exists() and not (tmp_path / "best.pt").exists()
    same(run(path, tmp_path), whole)
    assert "going on at step 6 of 8" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"losses": {"l1": 1, "adversarial": 1}}, "pixel losses only"),
        ({"losses": {"vit": 1}}, "pixel losses only"),
        ({"losses": {"l1": 1, "reconstruction": 1}}, "pixel losses only"),
        ({"losses": {"l1": 0}}, "every weight is zero"),
        ({"patch": 32}, "patch 32 is larger than every slice of s0.nii"),
        ({"explode": 1e-9}, "exploded"),
    ],
)
def test_refusals_are_one_line(
    path: Path, tmp_path: Path, capfd: Any, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(SystemExit):
        run(path, tmp_path, **changes)
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mrsr: error: ") and told in last
    assert not (tmp_path / "best.pt").exists()


def asked(**changes: Any) -> Evaluation:
    """The evaluation of this method."""
    return read(
        Evaluation, evaluation(**{"method": "own", "type": "self", "model": MODEL} | changes)
    )


def test_evaluation_uses_each_volumes_own_network(path: Path, whole: Path, tmp_path: Path) -> None:
    record = evaluate.evaluate(asked(), path, tmp_path / "own.json", whole)
    assert (record["type"], record["steps"]) == ("self", STEPS)
    saved, network = checkpoint.load(whole), models.build("srcnn", 2, MODEL["options"])
    held = holding.load(path, scale=2, degradation="bicubic", device="cpu")
    for piece, lr, hr in batches.whole(held):
        checkpoint.adopt_part(network, saved, piece.volume.key)
        height, width = piece.size
        with torch.no_grad():
            sr = network(lr)[:, 0, :height, :width].numpy()
        expected = definitions.score(sr, hr[:, 0, :height, :width].numpy(), preset("slice"))
        (found,) = (v for v in record["per_volume"] if v["volume"] == piece.volume.path)
        assert found["psnr"] == pytest.approx(expected["psnr"], abs=1e-4)
    assert np.isfinite(record["psnr"]["mean"])


def test_evaluation_refuses_what_does_not_belong(path: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.json"
    other = make_store(tmp_path, *SHAPES[::-1])
    with h5py.File(other, "r+") as file:
        file["volumes/0001"].attrs["path"] = "another.nii"
    with pytest.raises(UserError, match="trained on other volumes"):
        evaluate.evaluate(asked(), other, out, whole)
    with pytest.raises(UserError, match="has to be trained"):
        evaluate.evaluate(asked(), path, out)
    wider = {"name": "srcnn", "options": {"features": [8, 2]}}
    with pytest.raises(UserError, match="do not fit model 'srcnn'"):
        evaluate.evaluate(asked(model=wider), path, out, whole)
    with pytest.raises(UserError, match="trained for type self"):
        evaluate.evaluate(asked(type="single"), path, out, whole)
    assert not out.exists()


def test_fit_gives_what_the_store_gave(path: Path, whole: Path) -> None:
    """One scan on its own, as `mrsr enhance` trains: the weights of that volume in the store."""
    held = holding.load(path, scale=2, degradation="bicubic", device="cpu")
    given = read(SuperResolution, own())
    network = one_volume.fit(train_self._lr(held, 1), given, compute.start(given), "one")
    saved = checkpoint.load(whole).weights
    for name, value in network.state_dict().items():
        assert torch.equal(value, saved[f"0001/{name}"])
    assert not network.training
