"""Trainings in several processes, started and stopped: `pytest tests/training/test_launch.py`.

Exit codes, signals and dead processes of `mrsr.training.launch`, and the state that they leave;
whole trainings with `-m slow`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from builders import at_step, command, lines, same, sr
from mrsr import compute
from mrsr.errors import INTERRUPTED
from mrsr.training import launch, resume


def launched(folder: Path, module: str, *arguments: str, count: int = 2) -> subprocess.Popen[str]:
    """`mrsr.training.launch` of a module, perhaps of one in `folder`; its words in a pipe."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "mrsr.training.launch", str(count), "-m", module, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def alive(pid: int) -> bool:
    """A process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], object], job: subprocess.Popen[str] | None = None) -> None:
    """Wait, two minutes at most, and no longer than the job runs."""
    for _ in range(12_000):
        if true():
            return
        assert job is None or job.poll() is None, f"it ended too early: {job.communicate()[0]}"
        time.sleep(0.01)
    raise AssertionError("it never came")


@pytest.mark.parametrize(
    ("codes", "asked", "expected"),
    [
        ([75, 75], False, 75),
        ([75, -15], True, 75),
        ([-15, -15], True, 75),  # nothing had begun
        ([-15, -15], False, 1),
        ([-9, 1], False, 1),
        ([-9, 1], True, 1),
        ([2, 1], False, 2),
        ([1, 4], False, 4),
        ([0, -9], False, 1),
    ],
)
def test_exit_codes(codes: list[int], asked: bool, expected: int) -> None:
    assert launch.exit_code(codes, asked) == expected


def test_no_and_one_gpu_are_plain_python(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import os, sys; print(sys.argv[1:], os.getenv('RANK'))")
    for count in (0, 1):
        job = launched(tmp_path, "shown", "a b", "-m", count=count)
        assert job.communicate()[0] == "['a b', '-m'] None\n"
        assert job.returncode == 0


@pytest.mark.parametrize("given", [[], ["2"], ["two", "-m", "x"], ["2", "x", "y"], ["2", "-m"]])
def test_wrong_use_is_one_line(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        launch.main(given)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("mrsr: error: usage: python -m mrsr.training.launch")


def test_children_are_found_by_their_parent() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in launch.children()
        child.kill()
    assert child.pid not in launch.children()


# stands in for a training: notes a signal, meets nobody, imports no torch
TOY = """
import os, signal, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
how = sys.argv[2 + rank]
assert os.environ["WORLD_SIZE"] == "2"
got = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: got.append(number))
(folder / f"{rank}.pid").write_text(str(os.getpid()))
while len(got) < {"wait": 1, "wait for two": 2}.get(how, 0):
    time.sleep(0.01)
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
(folder / f"{rank}.got").write_text(" ".join(signal.Signals(n).name for n in got))
sys.exit(75 if got else int(how))
"""


def toy(folder: Path, *how: str) -> subprocess.Popen[str]:
    (folder / "toy.py").write_text(TOY)
    return launched(folder, "toy", str(folder), *how)


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (("wait", "4"), 4, ""),
        (("wait", "killed"), 75, ""),  # torchrun told the other one to end, and it has a state
        (("killed", "killed"), 1, "mrsr: error: processes of this training ended: 0 by SIGKILL"),
    ],
)
def test_what_a_process_says_the_job_says(
    tmp_path: Path, how: tuple[str, str], code: int, said: str
) -> None:
    job = toy(tmp_path, *how)
    text = job.communicate(timeout=120)[0]
    assert job.returncode == code, text
    assert said in text and "Traceback" not in text


def test_signals_reach_all_processes_as_often_as_they_come(tmp_path: Path) -> None:
    job = toy(tmp_path, "wait for two", "wait for two")
    until(lambda: all((tmp_path / f"{rank}.pid").exists() for rank in (0, 1)), job)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        job.send_signal(number)
    assert "Traceback" not in job.communicate(timeout=120)[0]
    assert job.returncode == INTERRUPTED
    for rank in (0, 1):
        assert {*(tmp_path / f"{rank}.got").read_text().split()} == {"SIGTERM", "SIGUSR1"}


# --- a training among the dead ------------------------------------------------------------------

# the training as it is, slowed from a step on, so that a signal finds it running
SLOWED = """
import os, sys, time
from pathlib import Path
from mrsr.slices import batches
from mrsr.training import train_sr
at, folder = int(os.environ["SLOW_FROM"]), Path(os.environ["PIDS"])
(folder / os.environ["RANK"]).write_text(str(os.getpid()))
batch = batches.batch
def slowed(slices, step, **options):
    time.sleep(0.1 if step >= at else 0)
    return batch(slices, step, **options)
batches.batch = slowed
train_sr.main()
"""
LONG = sr(precision="fp64", steps=60, validate_every=30, checkpoint_every=4)


def slowed(stores: Path, folder: Path, step: int) -> subprocess.Popen[str]:
    """Two processes of a training, held once they have reached a step."""
    (folder / "slowed.py").write_text(SLOWED)
    pids = folder / "pids"
    pids.mkdir(exist_ok=True)
    for file in pids.iterdir():
        file.unlink()
    arguments = command(stores, folder / "killed", LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOW_FROM", str(step))
        patch.setenv("PIDS", str(pids))
        job = launched(folder, "slowed", *arguments)
    at_step(folder / "killed", step, job)
    return job


def pid(folder: Path, rank: int) -> int:
    return int((folder / "pids" / str(rank)).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_process_ends_the_job_and_the_next_start_goes_on(
    stores: Path, tmp_path: Path, rank: int
) -> None:
    job = slowed(stores, tmp_path, 16)
    os.kill(pid(tmp_path, rank), signal.SIGKILL)
    text = job.communicate(timeout=100)[0]
    assert job.returncode == 1, text
    last = text.strip().splitlines()[-1]
    assert last.startswith("mrsr: error: processes of this training ended: ")
    assert f"{rank} by SIGKILL" in last and "Traceback" not in text
    assert not alive(pid(tmp_path, 1 - rank))
    assert not (tmp_path / "killed" / "best.pt").exists()

    if rank == 0:
        return  # the rest is the same for both
    # the next one is asked to stop: one state, all processes at the same step
    job = slowed(stores, tmp_path, 40)
    job.send_signal(signal.SIGTERM)
    text = job.communicate(timeout=100)[0]
    assert job.returncode == INTERRUPTED, text
    assert "going on at step" in text and "Traceback" not in text
    digest = str(lines(tmp_path / "killed")[0]["digest"])
    machine = compute.Machine(torch.device("cpu"))
    state = resume.load(tmp_path / "killed", machine, digest=digest)
    assert state is not None and state["step"] >= 40
    generators = [random["torch"] for random in state["random"]]
    assert len(generators) == 2 and not torch.equal(*generators)  # seeds of their own

    # to the end, and beside it a run that nothing disturbed: bit for bit the same
    for name in ("killed", "whole"):
        job = launched(tmp_path, "mrsr.training.train_sr", *command(stores, tmp_path / name, LONG))
        text = job.communicate(timeout=300)[0]
        assert job.returncode == 0, text
    same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_nothing_outlives_the_launcher(stores: Path, tmp_path: Path) -> None:
    job = slowed(stores, tmp_path, 4)
    job.kill()
    until(lambda: not any(alive(pid(tmp_path, rank)) for rank in (0, 1)))
    job.communicate(timeout=60)
