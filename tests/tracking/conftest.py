"""Shared by the tests of tracking."""

from __future__ import annotations

import pytest

from mrsr.tracking import store


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store initialised once; tests copy it."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert store.init_store(f"sqlite:///{file}")
    return file
