"""The training command on a tiny store: `pytest tests/training/test_train_sr.py`."""

from __future__ import annotations

import math
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from builders import command, curve, equal, lines, metrics, sr, toy_stores, weights
from mrsr import checkpoint, models
from mrsr.errors import Diverged
from mrsr.method import losses
from mrsr.tracking import delivery
from mrsr.training import train_sr

Run = Callable[..., Path]


def test_a_training_leaves_best_last_and_log(run: Run) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    done = run()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert sorted(path.name for path in done.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]
    log = lines(done)
    assert log[0]["event"] == "start" and log[0]["settings"]["steps"] == 10
    assert log[-1]["event"] == "end" and log[-1]["seconds"] > 0
    assert list(metrics(done)) == list(range(1, 11))
    assert set(metrics(done)[1]) == {"l1", "total", "lr", "images_per_second"}
    for split in ("validation", "test"):
        assert list(metrics(done, split)) == [5, 10]
    best = checkpoint.load(done / "best.pt")
    assert best.model_name == "srresnet" and best.scale == 2
    assert best.provenance["step"] in (5, 10) and best.provenance["threads"] == 1
    assert best.settings["losses"] == {"l1": 1.0}
    assert checkpoint.network(done / "last.pt")(torch.rand(1, 1, 5, 7)).shape == (1, 1, 10, 14)


def test_best_is_the_best_validation_and_the_test_set_never_chooses(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([30.0, 1.0, 35.0, 2.0, 33.0, 99.0])  # validation, test, validation, ...
    monkeypatch.setattr(train_sr, "evaluate", lambda *_: {"psnr": next(scores)})
    done = run(steps=6, validate_every=2)
    assert checkpoint.load(done / "best.pt").provenance["step"] == 4
    assert lines(done)[-1]["best_step"] == 4


def test_same_settings_same_bytes_and_no_test_curve_changes_nothing(run: Run) -> None:
    one, two = run("one", steps=4), run("two", steps=4)
    assert (one / "best.pt").read_bytes() == (two / "best.pt").read_bytes()
    three = run("three", steps=4, test_curve=False)
    assert equal(one, three, "best.pt")
    assert not curve(three, "test", "psnr")


def test_micro_batches_give_the_full_batch(run: Run) -> None:
    whole = run("whole", precision="fp64", steps=5)
    parts = run("parts", precision="fp64", steps=5, micro_batch=3)  # 3 + 1 of 4
    assert curve(parts, "train", "l1") == pytest.approx(curve(whole, "train", "l1"), rel=1e-9)


@pytest.mark.parametrize("name", ["srcnn", "srresnet"])
def test_options_of_every_kind_train(run: Run, name: str) -> None:
    """Others than the tiny ones: each does what it says."""
    options = {"srcnn": {"skip": "bicubic"}, "srresnet": {"features": 4, "blocks": 1}}[name]
    done = run(
        model={"name": name, "options": options}, scale=4, degradation="kspace", patch=0,
        losses={"l2": 1, "l1": 0.5}, steps=2, clip_gradient=1e-3, precision="bf16",
        channels_last="off", schedule={"kind": "step", "every": 1, "warmup": 0},
        optimizer={"name": "sgd", "lr": 0.5, "weight_decay": 0},
    )  # fmt: skip
    assert curve(done, "train", "lr") == [0.5, 0.25]
    for found in metrics(done).values():
        assert found["total"] == pytest.approx(found["l2"] + 0.5 * found["l1"], rel=1e-5)
    torch.manual_seed(0)
    network = models.build(name, 4, options)
    end = weights(done)
    moved = [(end[key] - start).flatten() for key, start in network.named_parameters()]
    # SGD with momentum 0.9 on gradients of norm 0.001 at most
    assert 0 < torch.cat(moved).norm() < 1e-3 * (0.5 + 0.25 * 1.9) * 1.001
    network.load_state_dict(end)
    assert network(torch.rand(1, 1, 5, 7)).shape == (1, 1, 20, 28)
    exact = curve(run("exact", **lines(done)[0]["settings"] | {"precision": "fp32"}), "train", "l1")
    assert exact != curve(done, "train", "l1") == pytest.approx(exact, rel=0.02)


def test_weights_decay_decoupled_or_coupled(run: Run) -> None:
    one = run("one", steps=3, optimizer={"weight_decay": 10.0})
    two = run("two", steps=3, optimizer={"weight_decay": 10.0, "decoupled": False})
    assert curve(one, "train", "l1") != curve(two, "train", "l1")


def test_nan_stops_with_step_and_term_and_saves_nothing_bad(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def bomb(sr: torch.Tensor, hr: torch.Tensor, context: object) -> torch.Tensor:
        calls.extend([1] * sr.requires_grad)  # validation has no gradient
        return (sr - hr).abs().mean() * (math.nan if len(calls) == 7 else 1.0)

    monkeypatch.setitem(losses.LOSSES, "bomb", bomb)
    with pytest.raises(SystemExit) as stop:
        run(losses={"bomb": 1.0})
    assert stop.value.code == Diverged.exit_code
    message = capfd.readouterr().err
    assert "step 7" in message and "'bomb'" in message and "Traceback" not in message
    assert not (tmp_path / "run" / "best.pt").exists()
    (tmp_path / "state").write_bytes(
        (tmp_path / "run" / "resume.pt").read_bytes().split(b"\n", 1)[1]
    )
    kept = torch.load(tmp_path / "state", weights_only=True)
    assert kept["step"] == 6
    assert all(torch.isfinite(value).all() for value in kept["parts"]["network"].values())


def test_an_exploding_loss_stops_and_a_large_weight_does_not(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(optimizer={"lr": 1e6}, explode=10.0)
    assert re.search(r"step \d+: loss term '\w+' (exploded|is not finite)", capfd.readouterr().err)
    done = run("large", losses={"l1": 1e4}, explode=10.0, steps=2)
    assert max(curve(done, "train", "l1")) < 10 < min(curve(done, "train", "total"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"losses": {"l3": 1}}, "losses.l3"),
        ({"losses": {"l1": 0}}, "every weight is zero"),
        ({"model": {"name": "none_such", "options": {}}}, "none_such"),
        ({"model": {"name": "srresnet", "options": {"depth": 3}}}, "depth"),
        ({"model": {"name": "bicubic", "options": {}}}, "nothing to train"),
        ({"patch": 999_998}, "patch"),
        ({"steps": 0}, "steps"),
        ({"precision": "fp8"}, "precision"),
        ({"channels_last": "maybe"}, "channels_last"),
        ({"device": "abacus"}, "abacus"),
        ({"schedule": {"kind": "spiral"}}, "spiral"),
        ({"schedule": {"kind": "step"}}, "every: must be 1 or more"),
        ({"optimizer": {"name": "lion"}}, "lion"),
    ],
)
def test_wrong_settings_are_one_line(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, object],
    problem: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        run(**changes)
    assert stop.value.code == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mrsr: error: ") and problem in last
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_missing_setting_and_a_missing_store_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = command(toy_stores(tmp_path), tmp_path / "run", sr())
    (tmp_path / "train.h5").unlink()
    with pytest.raises(SystemExit):
        train_sr.main(arguments)
    assert "train.h5" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        train_sr.main(["--settings", '{"scale": 2}', *arguments[2:]])
    assert "is missing" in capfd.readouterr().err


def test_plain_lines_off_a_terminal_and_a_bar_on_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(steps=4, log_every=2)
    plain = capfd.readouterr().err
    assert re.search(
        r"toy x2 srresnet  step 2/4  l1 \S+  total \S+  lr \S+  images_per_second", plain
    )
    assert re.search(r"left \d+:\d\d:\d\d", plain) and "\r" not in plain
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("again", steps=4, log_every=2)
    assert "\r" in capfd.readouterr().err


def test_a_failing_tracker_costs_one_warning(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def down(*_: object) -> bool:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(delivery, "deliver", down)
    done = run(steps=2, tracking={"enabled": True})
    assert (done / "best.pt").exists()
    assert "warning: tracking failed" in capfd.readouterr().err
