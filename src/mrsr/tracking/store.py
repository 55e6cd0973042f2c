"""The MLflow store: its address, its lock, and what happens when it is down."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrsr.errors import UserError, one_line

DEFAULT_URI = "sqlite:///mlflow.db"


LOCK_SECONDS = 60.0
ARTIFACTS = "/mlartifacts/"
# tables of MLflow's database with a place, and its column
PLACES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}


# long enough for a busy server; a dead one costs seconds (with MLflow's defaults: minutes)
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


NOISY = ("mlflow", "alembic", "urllib3.connectionpool")


def store_uri(uri: str | None = None) -> str:
    """The address of the store."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def switched_off(settings: Any = None) -> bool:
    """Whether the settings say `tracking.enabled: false`, or the environment MRSR_TRACKING=off."""
    if os.environ.get("MRSR_TRACKING", "").lower() == "off":
        return True
    return settings is not None and not settings.tracking.enabled


def init_store(uri: str | None = None) -> bool:
    """Create or upgrade the tables of an SQLite store, before several jobs use it at once.

    Returns:
        Whether the store is ready; if not, a warning was printed. Does nothing for a server.
    """
    uri = store_uri(uri)
    if switched_off() or not uri.startswith("sqlite:"):
        return True
    try:
        with _turn(uri):
            try:
                _client(uri).search_experiments(max_results=1)  # creates the tables of a new file
            except Exception as error:
                if "out-of-date" not in str(error):
                    raise
                command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
                subprocess.run(command, capture_output=True, check=True)
            relative_places(uri)
    except Exception as error:
        return _warn(uri, error)
    return True


def _client(uri: str) -> Any:
    """An MLflow client for the store, without MLflow's own messages."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient  # three seconds, and not on every compute node

    for name in NOISY:  # its import sets log levels
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


class Deleted(UserError):
    """Somebody deleted the experiment in the store; MLflow keeps its name until it is removed."""


def _experiment(client: Any, name: str) -> Any:
    """The store's experiment of this name, or None."""
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise Deleted(
            f"experiment '{name}' was deleted there; bring it back with `mlflow experiments "
            f"restore -x {found.experiment_id}`, or remove it for good with `mlflow gc "
            f"--experiment-ids {found.experiment_id}`; then `mrsr sync`"
        )
    return found


def _answers(uri: str) -> bool:
    try:
        with _turn(uri):
            _client(uri).search_experiments(max_results=1)
    except Exception:
        return False
    return True


def _database(uri: str) -> Path | None:
    """The file of an SQLite store."""
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name) if uri.startswith("sqlite:///") and name not in ("", ":memory:") else None


def relative_places(uri: str) -> None:
    """Name artifacts from the folder of an SQLite store, so that both can be moved together.

    MLflow makes every local place absolute and offers nothing else, so this writes to its tables;
    it also repairs a store that was moved before. Only where the store lies in the current folder,
    the project's root: from there `mlflow ui` and all jobs are started.
    """
    database, here = _database(uri), Path.cwd()
    if database is None or not database.exists() or database.parent.resolve() != here.resolve():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=LOCK_SECONDS)) as base, base:
        for table, column in PLACES.items():
            query = f"SELECT rowid, {column} FROM {table} WHERE {column} LIKE 'file:///%'"
            for row, old in base.execute(query).fetchall():
                relative = old[old.rfind(ARTIFACTS) + 1 :] if ARTIFACTS in old else ""
                moved = relative and not Path(urllib.request.url2pathname(old[7:])).exists()
                if relative and (moved or old.startswith(f"{here.as_uri()}/")):
                    base.execute(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (relative, row)
                    )


@contextlib.contextmanager
def _turn(uri: str) -> Iterator[None]:
    """Writers on one SQLite file take turns; a server does that itself."""
    database = _database(uri)
    if database is None:
        yield
        return
    import fcntl

    database.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{database}.lock", "w") as lock:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("other writers are busy") from None
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """One upload of a record at a time, also by `mrsr sync` during a training."""
    import fcntl

    try:
        file = open(path / "log.jsonl" if path.is_dir() else path, "rb+")  # noqa: SIM115
    except OSError:  # not writable or missing: the upload reports it
        yield
        return
    with file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _public(uri: str) -> str:
    """The store's address without user and password."""
    if "://" not in uri or uri.startswith("sqlite:"):
        return uri
    parts = urllib.parse.urlsplit(uri)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


def _reason(error: Exception) -> str:
    """What went wrong, short, without the user and password of a URL."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ImportError):
        return f"{error.name or 'mlflow'} is not installed"
    text = re.sub(r"//[^/@\s]+@", "//", one_line(str(error)))
    return f"{type(error).__name__}: {text[:160]}"


def _warn(uri: str, error: Exception, path: Path | str = "") -> bool:
    from mrsr.console import say  # tqdm

    say(
        f"warning: {path or 'nothing'} not tracked in {_public(uri)} ({_reason(error)}); "
        "the local files are complete, `mrsr sync` delivers them later"
    )
    return False
