"""Shared by all tests: threads capped, tracking off, the mirror of real scans, tiny settings."""

from __future__ import annotations

import os
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

    Tests that use it are in one xdist group, `smoke`, so that it runs once in all.
    """
    folder = copy_project(tmp_path_factory.mktemp("project"))
    snakemake(folder, "all", "--config", "experiment=smoke")
    return folder
