"""Stores and frozen networks that all trainings of a test run read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import builders
from mrsr.training import train_sr


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.h5, validation.h5 and test.h5, which tests leave as they are."""
    return builders.toy_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of a tiny vision transformer and a tiny auto-encoder."""
    return builders.write_frozen(tmp_path_factory.mktemp("frozen"))


@pytest.fixture
def run(stores: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train for super-resolution in this process: `run(name, **changes)` gives the folder."""

    def train(out: str = "run", **changes: object) -> Path:
        train_sr.main(builders.command(stores, tmp_path / out, builders.sr(**changes)))
        return tmp_path / out

    return train
