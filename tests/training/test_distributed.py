"""Several processes are one training: `pytest tests/training/test_distributed.py`, and with `-m slow`.

Same weights with two processes as with one; signals, dead processes and exit codes of
`mrsr.training.launch`; the state that all this leaves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_train_autoencoder
import test_train_sr
import test_train_sr_adversarial
import test_train_vit
import torch
from test_resume import at_step, same
from torch import nn

from mrsr import checkpoint, compute
from mrsr.errors import INTERRUPTED
from mrsr.training import launch, resume, train_autoencoder, train_sr, train_vit

FP64: dict[str, Any] = {"precision": "fp64", "steps": 20, "validate_every": 20, "log_every": 5}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """One thread a process, and modules from `folder`."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | more


def launched(folder: Path, module: str, *arguments: str, count: int = 2) -> subprocess.Popen[str]:
    """`mrsr.training.launch` of a module, its words in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "mrsr.training.launch", str(count), "-m", module, *arguments],
        env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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


# --- the launcher -------------------------------------------------------------------------------


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
while how == "wait" and not got:
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
        (("0", "0"), 0, ""),
        (("0", "2"), 2, ""),
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_all_processes(tmp_path: Path, number: signal.Signals) -> None:
    job = toy(tmp_path, "wait", "wait")
    until(lambda: all((tmp_path / f"{rank}.pid").exists() for rank in (0, 1)), job)
    job.send_signal(number)
    assert "Traceback" not in job.communicate(timeout=120)[0]
    assert job.returncode == INTERRUPTED
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.got").read_text().split()[0] == number.name


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "world", "kind"), [
    ("cuda", 2, nn.SyncBatchNorm), ("cuda", 1, nn.BatchNorm2d), ("cpu", 2, nn.BatchNorm2d),
])  # fmt: skip
def test_batch_norm_over_all_gpus(device: str, world: int, kind: type[nn.Module]) -> None:
    machine = compute.Machine(torch.device(device), world=world)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    keys = list(network.state_dict())
    network = compute.synchronised(network, machine)
    assert type(network[1]) is kind
    assert list(network.state_dict()) == keys  # a checkpoint fits either


def test_a_lost_process_is_one_line() -> None:
    with pytest.raises(compute.LostProcess, match=r"is gone \(closed by peer\)"), compute.meeting():
        raise RuntimeError("closed by peer\nand a long trace")
    compute.wait(compute.Machine(torch.device("cpu")))  # alone: nobody to wait for


# --- two processes against one --------------------------------------------------------------------

# several trainings one after the other: torch is imported once
RANK = """
import importlib, json, os, sys
for port, module, arguments in json.load(open(sys.argv[1])):
    os.environ["MASTER_PORT"] = str(port)
    importlib.import_module(module).main(arguments)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def in_two(folder: Path, *jobs: tuple[str, list[str]]) -> None:
    """Run trainings (module, arguments) in two processes."""
    file = folder / "jobs.json"
    file.write_text(json.dumps([(free_port(), *job) for job in jobs]))
    here = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(file)],
            env=environment(folder, RANK=str(rank), LOCAL_RANK=str(rank), **here),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)


def close(one: Path, two: Path, atol: float = 1e-6) -> None:
    """The last weights of two trainings, and that there was something to learn."""
    first, second = (checkpoint.load(folder / "last.pt").weights for folder in (one, two))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=atol, msg=key)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every training twice: by one process in `NAME/one`, by two in `NAME/two`."""
    folder = tmp_path_factory.mktemp("two")
    sr, ae, vit = (folder / name for name in ("sr", "ae", "vit"))
    for path in (sr, ae, vit):
        path.mkdir()
    adversarial = {"adversarial": {"norm": "none", "warmup": 2, "r1": 0.5}, "clip_gradient": 1.0}
    organs = ("brain", "knee")

    def jobs(out: str) -> list[tuple[str, list[str]]]:
        rival = {"base": 4, "lr": 1e-4, "crop": 32, "warmup": 2, "norm": "none"}
        coder = {"discriminator": rival, "micro_batch": 0}
        pretext = {"phase": "pretext", "batch": 4, **FP64}
        return [
            ("mrsr.training.train_sr", test_train_sr.command(sr, FP64, f"l1/{out}")),
            (
                "mrsr.training.train_sr",
                test_train_sr_adversarial.command(sr, f"eq9/{out}", **FP64, **adversarial),
            ),
            (
                "mrsr.training.train_autoencoder",
                test_train_autoencoder.command(ae, FP64 | coder, out),
            ),
            ("mrsr.training.train_vit", test_train_vit.command(vit, f"seg/{out}", **FP64)),
            *(
                (
                    "mrsr.training.train_vit",
                    test_train_vit.command(
                        vit, f"{name}/{out}", organs, "seg/one/best.pt", pretext=name, **pretext
                    ),
                )
                for name in ("organ", "masked")
            ),
        ]

    modules = {module.__name__: module for module in (train_sr, train_autoencoder, train_vit)}
    for name, arguments in jobs("one"):
        modules[name].main(arguments)
    in_two(folder, *jobs("two"))
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
@pytest.mark.parametrize("name", ["sr/l1", "sr/eq9", "ae", "vit/seg", "vit/organ", "vit/masked"])
def test_two_processes_end_with_the_weights_of_one(trained: Path, name: str) -> None:
    close(trained / name / "one", trained / name / "two")
    log = [test_train_sr.lines(trained / name / out) for out in ("one", "two")]
    assert [line.get("step") for line in log[1]] == [line.get("step") for line in log[0]]
    assert log[1][0]["provenance"]["processes"] == 2
    files = sorted(path.name for path in (trained / name / "two").iterdir())
    assert files == ["best.pt", "last.pt", "log.jsonl"]


# --- a training among the dead ------------------------------------------------------------------

# the training as it is, slowed from a step on, so that a signal finds it running
SLOWED = """
import os, sys, time
from pathlib import Path
from mrsr import batches, train_sr
at, folder = int(os.environ["SLOW_FROM"]), Path(os.environ["PIDS"])
(folder / os.environ["RANK"]).write_text(str(os.getpid()))
batch = batches.batch
def slowed(slices, step, **options):
    time.sleep(0.1 if step >= at else 0)
    return batch(slices, step, **options)
batches.batch = slowed
train_sr.main()
"""
LONG = {"precision": "fp64", "steps": 60, "validate_every": 30, "checkpoint_every": 4}


def slowed(folder: Path, step: int, out: str = "killed") -> subprocess.Popen[str]:
    """Two processes of a training, held once they have reached a step."""
    (folder / "slowed.py").write_text(SLOWED)
    pids = folder / "pids"
    pids.mkdir(exist_ok=True)
    for file in pids.iterdir():
        file.unlink()
    arguments = test_train_sr.command(folder, LONG, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOW_FROM", str(step))
        patch.setenv("PIDS", str(pids))
        job = launched(folder, "slowed", *arguments)
    at_step(folder / out, step, job)
    return job


def pid(folder: Path, rank: int) -> int:
    return int((folder / "pids" / str(rank)).read_text())


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_process_ends_the_job_and_the_next_start_goes_on(tmp_path: Path, rank: int) -> None:
    job = slowed(tmp_path, 16)
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
    job = slowed(tmp_path, 40)
    job.send_signal(signal.SIGTERM)
    text = job.communicate(timeout=100)[0]
    assert job.returncode == INTERRUPTED, text
    assert "going on at step" in text and "Traceback" not in text
    state = resume.load(
        tmp_path / "killed", compute.Machine(torch.device("cpu")), digest=digest_in(tmp_path)
    )
    assert state is not None and state["step"] >= 40
    generators = [random["torch"] for random in state["random"]]
    assert len(generators) == 2 and not torch.equal(*generators)  # seeds of their own

    # to the end, and beside it a run that nothing disturbed: bit for bit the same
    in_two(
        tmp_path,
        ("mrsr.training.train_sr", test_train_sr.command(tmp_path, LONG, "killed")),
        ("mrsr.training.train_sr", test_train_sr.command(tmp_path, LONG, "whole")),
    )
    same(tmp_path / "killed", tmp_path / "whole")


def digest_in(folder: Path) -> str:
    return str(test_train_sr.lines(folder / "killed")[0]["digest"])


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
def test_nothing_outlives_the_launcher(tmp_path: Path) -> None:
    job = slowed(tmp_path, 4)
    job.kill()
    until(lambda: not any(alive(pid(tmp_path, rank)) for rank in (0, 1)))
    job.communicate(timeout=60)
