"""A Snakemake that runs through SLURM in a copy of the project, and questions to SLURM."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from project import ENVIRONMENT, edit_experiment

TRAINING = "results/smoke/checkpoints/phantom_t1/x2/srcnn"
TARGET = f"{TRAINING}/best.pt"
# a training must last as long as a test needs it, on fast and on slow machines
SLOW = """
import time

from mrsr.models import srcnn


def _wait(network, _):
    if network.training:
        time.sleep(0.01)


def build(scale, kernels=(9, 1, 5), features=(64, 32), skip="none", init="identity"):
    network = srcnn.build(
        scale, kernels=kernels, features=features, skip=skip, init=init
    )
    network.register_forward_pre_hook(_wait)
    return network
"""
BEGAN = time.strftime("%Y-%m-%dT%H:%M:%S")  # the accounting remembers earlier suites too
LOG = "logs/smoke/checkpoints/phantom_t1/x2/srcnn.log"


def ask(*command: str) -> str:
    """Output of a SLURM command."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def wait_for(what: str, question: Callable[[], Any], seconds: float = 240) -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds} s\n{ask('squeue')}")


def jobs(folder: Path) -> list[dict[str, str]]:
    """The jobs of a folder that wait, run or end just now."""
    keys = ("id", "state", "partition", "comment", "folder")
    listed = ask("squeue", "--noheader", "--format", "%i|%T|%P|%k|%Z").splitlines()
    found = [dict(zip(keys, line.split("|"), strict=True)) for line in listed]
    return [job for job in found if job["folder"] == str(folder)]


def accounts(folder: Path, rule: str = "") -> list[dict[str, str]]:
    """What the accounting knows of a folder's jobs, in the order of their ids."""
    keys = ("id", "state", "memory", "tres", "minutes", "comment", "name", "folder")
    fields = "JobIDRaw,State,ReqMem,ReqTRES,TimelimitRaw,Comment,JobName,WorkDir"
    since = ("--starttime", BEGAN)
    listed = ask("sacct", "-X", *since, "--noheader", "--parsable2", "--format", fields)
    found = [dict(zip(keys, line.split("|"), strict=True)) for line in listed.splitlines()]
    return [
        job
        for job in found
        if job["folder"] == str(folder) and job["comment"].startswith(f"rule_{rule}")
    ]


class Run:
    """`snakemake --profile slurm ...` in a folder."""

    def __init__(
        self, folder: Path, *arguments: str, command: tuple[str, ...] = (), **environment: str
    ) -> None:
        self.folder = folder
        self.output = folder / "snakemake.out"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MRSR_"))}
        kept |= ENVIRONMENT | {"PYTHONPATH": str(folder / "src"), "MRSR_TRACKING": "off"}
        command = command or (
            *("snakemake", "--profile", "slurm"),
            *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10"),
            *(*arguments, "--config", "experiment=smoke"),
        )
        with open(self.output, "w") as file:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=kept | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # a shell's & would have left it ignored
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text()

    def finish(self, seconds: float = 600) -> str:
        """Wait for its end, which must be a good one; what it printed."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"runs after {seconds} s\n{self.text}\n{self.log()}") from None
        assert code == 0, f"{self.text}\n{self.log()}"
        return self.text

    def log(self) -> str:
        """The training's log; empty before there is one."""
        path = self.folder / LOG
        return path.read_text() if path.exists() else ""

    def reach(self, step: int) -> None:
        """Wait until the training has logged that step or a later one."""

        def reached() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"ended before step {step}\n{self.text}\n{self.log()}")
            steps = re.findall(r"step (\d+)/", self.log())
            return bool(steps) and int(steps[-1]) >= step

        wait_for(f"step {step}", reached)

    def went_on(self) -> int:
        """Wait until the training says at which step it goes on; that step."""
        say = re.compile(r"going on at step (\d+)")
        return int(wait_for("going on", lambda: say.search(self.log())).group(1))

    def stop(self) -> None:
        """End whatever is left of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if left := [job["id"] for job in jobs(self.folder)]:
            ask("scancel", *left)
            wait_for("jobs end", lambda: not jobs(self.folder))
        # without cgroups SLURM loses sight of a Snakemake whose shell ended before it
        for entry in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if entry.readlink() == self.folder:
                    os.kill(int(entry.parent.name), signal.SIGKILL)


def copy_for_training(whole: Path, target: Path, steps: int) -> Path:
    """A copy of a finished run in which one training is to do again, a hundredth second a step."""
    folder = Path(shutil.copytree(whole, target, symlinks=True))
    for left in (".snakemake/slurm_logs", ".snakemake/log"):
        shutil.rmtree(folder / left)
    (folder / "src/mrsr/models/slow.py").write_text(SLOW)
    training = {
        "steps": steps,
        "batch": 1,
        # only a signal makes it write its state
        **dict.fromkeys(("checkpoint_every", "validate_every"), 10**6),
        "log_every": 100,
    }
    change = {"sr": training, "methods": {"srcnn": {"model": "slow"}}}
    edit_experiment(folder, "smoke", {"set": change})
    return folder
