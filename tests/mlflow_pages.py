"""`mlflow ui` as the README starts it, for tests of its pages and for the screenshots in docs/."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from project import BIN, ENVIRONMENT

WAIT = 180.0  # seconds; an idle machine needs about ten
COMMAND = ("mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the pages of the store in `folder`, a project's root."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    with open(folder / "mlflow_ui.log", "w") as log:
        server = subprocess.Popen(
            [str(BIN / COMMAND[0]), *COMMAND[1:], "--port", str(port), "--workers", "1"],
            cwd=folder,
            env=environment | ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + WAIT
        while not _answers(address):
            assert server.poll() is None and time.monotonic() < until, (
                folder / "mlflow_ui.log"
            ).read_text()
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
