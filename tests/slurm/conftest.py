"""One SLURM for all tests, and one finished smoke run that they copy."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs import TARGET, Run, copy_for_training

from project import copy_project, edit_params

# few and thin volumes: the point is the cluster
SMALL = {
    "data": {
        "sources": {
            "phantom": {
                "subjects": {"train": 2, "validation": 1, "test": 1},
                "slices": 12,
                "knee": {"train": 2, "validation": 1, "test": 1},
            }
        }
    }
}


@pytest.fixture(scope="session")
def slurm() -> None:
    """A SLURM that answers; `make slurm-test` starts one."""
    up = shutil.which("scontrol") and subprocess.run(["scontrol", "ping"], capture_output=True)
    if up and up.returncode == 0 and b"UP" in up.stdout:
        return
    reason = "no SLURM answers here; `make slurm-test` starts one"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def whole(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project in which the smoke experiment has run once, every job through sbatch."""
    folder = copy_project(tmp_path_factory.mktemp("whole").resolve() / "project")
    edit_params(folder, SMALL)
    run = Run(folder, "all", MRSR_SLURM_GPU_PARTITION="gpu", MRSR_SLURM_ACCOUNT="lab")
    try:
        run.finish(1200)
    finally:
        run.stop()
    yield folder


@pytest.fixture(scope="session")
def limited(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A training under a time limit of one minute, started before its test: it takes minutes.

    The signal comes 20 to 50 seconds after each start, of which the start-up takes some; the steps
    take a minute or more.
    """
    folder = copy_for_training(whole, tmp_path_factory.mktemp("limited").resolve() / "copy", 6_000)
    limit = ("--set-resources", "train_sr:runtime=1")
    run = Run(folder, TARGET, *limit, MRSR_SLURM_EXTRA="--signal=TERM@10")
    yield run
    run.stop()


@pytest.fixture
def training(whole: Path, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start one training of so many steps through SLURM, in a copy of its own."""
    runs = []

    def start(steps: int, *arguments: str, **environment: str) -> Run:
        folder = copy_for_training(whole, tmp_path.resolve() / f"copy{len(runs)}", steps)
        runs.append(Run(folder, *arguments, **environment))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
