"""Killed at any moment and started again, a training ends with the same weights, bit for bit.

`pytest tests/training/test_resume.py`; the first test kills real processes.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import at_step, command, discs, equal, in_step, same, sr, write_store
from mrsr import checkpoint, compute
from mrsr.compute import Machine
from mrsr.errors import INTERRUPTED
from mrsr.training import resume, train_sr

# batch norm, whose statistics are state too, a sum of losses, parts of a batch
TABLE = sr(
    losses={"l1": 1.0, "l2": 1.0}, steps=12, micro_batch=3, clip_gradient=1.0, validate_every=4,
    model={"name": "srresnet", "options": {"features": 8, "blocks": 1}}, checkpoint_every=3,
    log_every=2,
)  # fmt: skip


@pytest.fixture
def run(stores: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train in this process: `run(name, **changes)` gives the folder with the results."""

    def train(out: str = "broken", **changes: Any) -> Path:
        train_sr.main(command(stores, tmp_path / out, {**TABLE, **changes}))
        return tmp_path / out

    return train


@pytest.fixture(scope="module")
def whole(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training that nothing disturbed."""
    out = tmp_path_factory.mktemp("resume") / "whole"
    train_sr.main(command(stores, out, TABLE))
    return out


# the training as it is, slowed from a step on, so that a signal finds it running on any machine
SLOWED = """
import sys, time
from mrsr.slices import batches
from mrsr.training import train_sr
batch = batches.batch
def slowed(slices, step, **options):
    time.sleep(0.1 if step >= int(sys.argv[1]) else 0)
    return batch(slices, step, **options)
batches.batch = slowed
train_sr.main(sys.argv[2:])
"""


def test_kill_9_then_sigterm_then_the_end_is_the_uninterrupted_run(
    stores: Path, run: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {"steps": 60, "validate_every": 25, "checkpoint_every": 7}
    uninterrupted = run("whole", **changes)
    for number, step, code in (
        (signal.SIGKILL, 16, -signal.SIGKILL),
        (signal.SIGTERM, 40, INTERRUPTED),
    ):
        arguments = command(stores, tmp_path / "killed", TABLE | changes)
        job = subprocess.Popen(
            [sys.executable, "-c", SLOWED, str(step), *arguments],
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        at_step(tmp_path / "killed", step, job)
        job.send_signal(number)
        errors = job.communicate(timeout=60)[1].decode()
        assert job.returncode == code, errors
        assert (tmp_path / "killed" / "resume.pt").exists()
        assert not (tmp_path / "killed" / "best.pt").exists()
    assert "going on at step" in errors and "Traceback" not in errors
    assert "stopped by SIGTERM" in errors
    same(run("killed", **changes), uninterrupted)


@pytest.fixture
def broken(run: Callable[..., Path], tmp_path: Path) -> Callable[[int], Path]:
    """`broken(n)`: a training that crashed in the middle of step n."""

    def out_of_memory() -> None:
        raise MemoryError("crash")

    def train(at: int) -> Path:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
            in_step(patch, at, out_of_memory)
            run()
        return tmp_path / "broken"

    return train


@pytest.mark.parametrize("at", [1, 3, 4, 5, 12])
def test_a_crash_in_any_step(
    run: Callable[..., Path], broken: Callable[[int], Path], whole: Path, at: int
) -> None:
    broken(at)
    same(run(), whole)


def test_a_signal_in_every_third_step(
    run: Callable[..., Path], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in (3, 6, 9):
        in_step(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(SystemExit) as stop:
            run()
        assert stop.value.code == INTERRUPTED
    # too late: the training is complete
    in_step(monkeypatch, 12, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    same(run(), whole)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "missing", "both"])
def test_a_damaged_state_falls_back_to_the_one_before(
    run: Callable[..., Path], broken: Callable[[int], Path], whole: Path,
    capfd: pytest.CaptureFixture[str], damage: str,
) -> None:  # fmt: skip
    path = broken(8) / "resume.pt"  # states of steps 6 and 3
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    cut = {"truncate": content[:-100], "flip": content}.get(damage, b"")
    path.write_bytes(cut)
    if damage == "missing":  # killed between two renames
        path.unlink()
    if damage == "both":
        path.with_name("resume.previous.pt").write_bytes(b"garbage")
    capfd.readouterr()
    again = run()
    said = capfd.readouterr().err
    assert ("going on at step 3 of 12" in said) == (damage != "both")
    assert ("resume.pt is damaged" in said) == (damage != "missing")
    same(again, whole)


def test_a_state_of_other_settings_or_data_is_discarded(
    run: Callable[..., Path], broken: Callable[[int], Path], stores: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = run("other", seed=1)
    broken(8)
    same(run(seed=1), other)
    assert "belongs to other settings or data" in capfd.readouterr().err
    broken(8)
    shutil.copytree(stores, tmp_path / "stores")
    write_store(tmp_path / "stores" / "train.h5", discs(77, (5, 32, 32)), digest="toy77")
    train_sr.main(command(tmp_path / "stores", tmp_path / "broken", TABLE))
    assert "belongs to other settings or data" in capfd.readouterr().err


def test_how_often_one_saves_and_logs_is_free_to_change(
    run: Callable[..., Path], broken: Callable[[int], Path], whole: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    broken(8)
    again = run(checkpoint_every=5, log_every=3)
    assert "going on at step 6" in capfd.readouterr().err
    assert equal(whole, again)


@pytest.mark.parametrize("how", ["removed", "half a line"])
def test_a_log_that_was_touched_is_restored(
    run: Callable[..., Path], broken: Callable[[int], Path], whole: Path, how: str
) -> None:
    log = broken(8) / "log.jsonl"
    if how == "removed":  # by a workflow
        log.unlink()
    else:
        log.write_text(log.read_text() + '{"time": 1.0, "st')
    same(run(), whole)


def test_other_conditions_are_said(
    run: Callable[..., Path], broken: Callable[[int], Path], capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    broken(8)
    real = checkpoint.provenance
    monkeypatch.setattr(checkpoint, "provenance", lambda: {**real(), "threads": 9})
    run()
    assert "threads 1 -> 9" in capfd.readouterr().err


def test_a_new_start_removes_the_old_result_first(
    broken: Callable[[int], Path], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "broken")
    out = broken(2)
    assert not (out / "best.pt").exists() and not (out / "last.pt").exists()


def test_a_state_cannot_execute_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (tmp_path / "executed",)

    content = pickle.dumps(Bomb())
    head = resume.MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n"
    (tmp_path / "resume.pt").write_bytes(head + content)
    assert resume.load(tmp_path, Machine(torch.device("cpu")), digest="") is None
    assert not (tmp_path / "executed").exists()
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
