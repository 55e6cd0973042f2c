"""Killed at any moment and started again, a training ends with the same weights, bit for bit.

`pytest tests/training/test_resume.py`; the first test kills real processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mrsr import checkpoint, compute
from mrsr.compute import Machine
from mrsr.errors import INTERRUPTED
from mrsr.method import losses
from mrsr.training import resume, train_sr


def write_store(path: Path, seed: int, slices: int = 5, size: int = 32) -> None:
    """A slice store of random rectangles, in the layout of store.py."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((slices, size, size), dtype=np.float32)
    for image in volume:
        for _ in range(8):
            y, x = rng.integers(0, size - 8, 2)
            image[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] += rng.random()
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset="toy", organ="brain", contrast="T1", split="train")
        file.attrs.update(settings="{}", digest=f"toy{seed}")
        group = file.create_group("volumes/0000")
        group.attrs.update(subject="s0", visit="", path="s0.nii.gz", slope=1.0, intercept=0.0)
        group.attrs.update(scale=float(volume.max()), slice_index=list(range(slices)))
        group.attrs.update(affine=np.eye(4), voxel_size=[1.0, 1.0, 1.0])
        group.create_dataset("data", data=volume, chunks=(1, size, size))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, split in enumerate(("train", "validation", "test")):
        write_store(tmp_path / f"{split}.h5", number)
    return tmp_path


def command(folder: Path, out: str, **changes: Any) -> list[str]:
    """Arguments of a training with batch norm (its statistics are state too) and every loss."""
    optimizer = {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.1}
    settings = {
        "experiment": "toy", "dataset": "toy", "scale": 2, "method": "srresnet",
        "degradation": "bicubic", "losses": {"l1": 1.0, "l2": 1.0}, "steps": 12, "batch": 4,
        "model": {"name": "srresnet", "options": {"features": 8, "blocks": 1}},
        "micro_batch": 3, "patch": 16, "optimizer": {**optimizer, "decoupled": True},
        "schedule": {"kind": "cosine", "warmup": 2, "floor": 0.01}, "clip_gradient": 1.0,
        "augment": True, "seed": 0, "validate_every": 4, "checkpoint_every": 3, "log_every": 2,
        "validation_slices": 2, "test_curve": True, "precision": "auto", "compile": False,
        "channels_last": "auto", "device": "cpu", "threads": 1, "explode": 1e4,
        "tracking": {"enabled": False}, **changes,
    }  # fmt: skip
    return [
        "--settings", json.dumps(settings), "--train", str(folder / "train.h5"),
        "--validation", str(folder / "validation.h5"), "--test", str(folder / "test.h5"),
        "--out", str(folder / out / "best.pt"),
    ]  # fmt: skip


def run(folder: Path, out: str, **changes: Any) -> Path:
    """Train in this process."""
    train_sr.main(command(folder, out, **changes))
    return folder / out


def same(one: Path, two: Path) -> None:
    """Equal weights bit for bit, and equal logs but for the clock."""
    for name in ("best.pt", "last.pt"):
        first, second = checkpoint.load(one / name).weights, checkpoint.load(two / name).weights
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), (name, key)
    assert timeless(one) == timeless(two)
    assert not list(one.glob("resume*")) and not list(one.glob(".tmp-*"))


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        for key in ("time", "cpu", "seconds"):
            line.pop(key, None)
        line.get("metrics", {}).pop("images_per_second", None)
        line.get("provenance", {}).pop("commit", None)  # somebody may commit meanwhile
    return lines


def at_step(folder: Path, step: int, job: subprocess.Popen[bytes]) -> None:
    """Wait until the log has reached a step."""
    log = folder / "log.jsonl"
    for _ in range(20_000):
        text = log.read_text() if log.exists() else ""
        steps = [
            json.loads(line).get("step", 0) for line in text.splitlines(True) if line[-1] == "\n"
        ]
        if steps and max(steps) >= step:
            return
        assert job.poll() is None, "the training ended before it could be stopped"
        time.sleep(0.003)
    raise AssertionError("the training did not start")


# the training as it is, slowed from a step on, so that a signal finds it running on any machine
SLOWED = """
import sys, time
from mrsr import batches, train_sr
batch = batches.batch
def slowed(slices, step, **options):
    time.sleep(0.1 if step >= int(sys.argv[1]) else 0)
    return batch(slices, step, **options)
batches.batch = slowed
train_sr.main(sys.argv[2:])
"""


def test_kill_9_then_sigterm_then_the_end_is_the_uninterrupted_run(folder: Path) -> None:
    changes = {"steps": 240, "validate_every": 90, "checkpoint_every": 7}
    whole = run(folder, "whole", **changes)
    for number, step, code in (
        (signal.SIGKILL, 16, -signal.SIGKILL),
        (signal.SIGTERM, 50, INTERRUPTED),
    ):
        job = subprocess.Popen(
            [sys.executable, "-c", SLOWED, str(step), *command(folder, "killed", **changes)],
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        at_step(folder / "killed", step, job)
        job.send_signal(number)
        errors = job.communicate(timeout=60)[1].decode()
        assert job.returncode == code, errors
        assert (folder / "killed" / "resume.pt").exists()
        assert not (folder / "killed" / "best.pt").exists()
    assert "going on at step" in errors and "Traceback" not in errors
    assert "stopped by SIGTERM" in errors
    same(run(folder, "killed", **changes), whole)


@pytest.fixture
def crash(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`crash.at` = n: the training does `crash.how` in the middle of step n."""
    state = SimpleNamespace(at=0, how=lambda: (_ for _ in ()).throw(MemoryError("crash")))

    def l2(sr: torch.Tensor, hr: torch.Tensor, context: Any) -> torch.Tensor:
        if context.step is not None and context.step == state.at:
            state.at = 0
            state.how()
        return losses.l2(sr, hr)

    monkeypatch.setitem(losses.LOSSES, "l2", l2)
    return state


def broken(folder: Path, crash: SimpleNamespace, at: int, out: str = "broken") -> Path:
    """A training that crashed in step `at`."""
    crash.at = at
    with pytest.raises(MemoryError):
        run(folder, out)
    return folder / out


@pytest.mark.parametrize("at", [1, 3, 4, 5, 12])
def test_a_crash_in_any_step(folder: Path, crash: SimpleNamespace, at: int) -> None:
    whole = run(folder, "whole")
    broken(folder, crash, at)
    same(run(folder, "broken"), whole)


def test_a_signal_in_every_third_step(folder: Path, crash: SimpleNamespace) -> None:
    whole = run(folder, "whole")
    crash.how = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    for at in (3, 6, 9):
        crash.at = at
        with pytest.raises(SystemExit) as stop:
            run(folder, "stopped")
        assert stop.value.code == INTERRUPTED
    crash.at = 12  # too late: the training is complete
    same(run(folder, "stopped"), whole)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "missing"])
def test_a_damaged_state_falls_back_to_the_one_before(
    folder: Path, crash: SimpleNamespace, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    whole = run(folder, "whole")
    path = broken(folder, crash, 8) / "resume.pt"  # states of steps 6 and 3
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":  # killed between two renames
        path.unlink()
    else:
        cut = {"truncate": content[:-100], "flip": content, "empty": b""}[damage]
        path.write_bytes(cut)
    capfd.readouterr()
    again = run(folder, "broken")
    said = capfd.readouterr().err
    assert "going on at step 3 of 12" in said
    assert damage == "missing" or "resume.pt is damaged" in said
    same(again, whole)


def test_both_states_damaged_starts_anew(
    folder: Path, crash: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run(folder, "whole")
    out = broken(folder, crash, 8)
    for name in ("resume.pt", "resume.previous.pt"):
        (out / name).write_bytes(b"garbage")
    same(run(folder, "broken"), whole)
    assert "going on" not in capfd.readouterr().err


def test_a_state_of_other_settings_or_data_is_discarded(
    folder: Path, crash: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    other = run(folder, "whole", seed=1)
    broken(folder, crash, 8)
    same(run(folder, "broken", seed=1), other)
    assert "belongs to other settings or data" in capfd.readouterr().err
    broken(folder, crash, 8)
    write_store(folder / "train.h5", 77)
    run(folder, "broken")
    assert "belongs to other settings or data" in capfd.readouterr().err


def test_how_often_one_saves_and_logs_is_free_to_change(
    folder: Path, crash: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = run(folder, "whole")
    broken(folder, crash, 8)
    again = run(folder, "broken", checkpoint_every=5, log_every=3)
    assert "going on at step 6" in capfd.readouterr().err
    pair = [checkpoint.load(path / "last.pt").weights for path in (whole, again)]
    assert all(torch.equal(pair[0][key], pair[1][key]) for key in pair[0])


def test_a_log_that_a_workflow_removed_is_restored(folder: Path, crash: SimpleNamespace) -> None:
    whole = run(folder, "whole")
    (broken(folder, crash, 8) / "log.jsonl").unlink()
    same(run(folder, "broken"), whole)


def test_half_a_line_at_the_end_of_the_log_is_gone_afterwards(
    folder: Path, crash: SimpleNamespace
) -> None:
    whole = run(folder, "whole")
    with open(broken(folder, crash, 8) / "log.jsonl", "a") as file:
        file.write('{"time": 1.0, "st')
    same(run(folder, "broken"), whole)


def test_other_conditions_are_said(
    folder: Path, crash: SimpleNamespace, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    broken(folder, crash, 8)
    real = checkpoint.provenance
    monkeypatch.setattr(checkpoint, "provenance", lambda: {**real(), "threads": 9})
    run(folder, "broken")
    assert "threads 1 -> 9" in capfd.readouterr().err


def test_a_new_start_removes_the_old_result_first(folder: Path, crash: SimpleNamespace) -> None:
    run(folder, "broken")
    out = broken(folder, crash, 2)
    assert not (out / "best.pt").exists() and not (out / "last.pt").exists()


def test_a_state_cannot_execute_code(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (folder / "executed",)

    content = pickle.dumps(Bomb())
    head = resume.MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n"
    (folder / "resume.pt").write_bytes(head + content)
    assert resume.load(folder, Machine(torch.device("cpu")), digest="") is None
    assert not (folder / "executed").exists()
    assert "damaged" in capfd.readouterr().err


def test_random_states_survive(tmp_path: Path) -> None:
    machine = Machine(torch.device("cpu"))
    compute.seed(3)
    random.random(), np.random.rand(), torch.rand(1)
    resume.save(tmp_path, machine, step=1, digest="d", parts={})
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    state = resume.load(tmp_path, machine, digest="d")
    assert state is not None and resume.restore(state, machine, {}) == 1
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
