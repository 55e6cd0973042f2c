"""Shared by all tests: threads capped, tracking off, the mirror of real scans, tiny settings."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

# before torch is imported anywhere: two cores, several test processes
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest

from project import copy_project, snakemake

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real scans that MRSR_MIRROR names; in CI it must be there."""
    value = os.environ.get("MRSR_MIRROR", "")
    if value and Path(value).is_dir():
        return Path(value).resolve()
    reason = "MRSR_MIRROR does not name a folder of real scans (open_ms_data, spine_sct)"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the smoke experiment has run once; tests leave it as they find it.

    The processes of one test run share it: the first makes it, the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, made = shared / "smoke_project", shared / "smoke_project.made"
    with open(shared / "smoke_project.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_project(folder)
            snakemake(folder, "all", "--config", "experiment=smoke")
            made.touch()
    return folder
