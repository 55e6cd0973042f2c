"""Eight jobs at once, and a server that is killed: nothing is lost, nothing is there twice.

The server is the documented one, workflow/scripts/mlflow-server.sh.
Run: pytest -m slow tests/tracking/test_mlflow_server.py
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import builders
from builders import log_lines, record, write_evaluation, write_training
from project import BIN, ROOT

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "workflow" / "scripts" / "mlflow-server.sh"
WAIT = 120.0  # seconds, of which an idle machine needs a few


class Server:
    """The script in a process group of its own, so that kill -9 reaches all of it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if "MLFLOW" not in name},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": self.uri,
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        """Return when it answers."""
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(SCRIPT), "127.0.0.1", str(self.port), str(self.folder)],
                env=self.environment | {"MLFLOW_WORKERS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def rows(self, query: str) -> list[tuple]:
        """What its database says."""
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=60)) as base:
            return base.execute(query).fetchall()

    def content(self) -> tuple:
        """Everything it holds, and when each file was written."""
        tables = ("runs", "metrics", "params", "tags")
        files = sorted((self.folder / "mlartifacts").rglob("*"))
        return (
            [sorted(self.rows(f"SELECT * FROM {table}")) for table in tables],
            [(str(file), file.stat().st_mtime_ns) for file in files if file.is_file()],
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    try:
        started.start()
        yield started
    finally:
        started.kill()


# forked when MLflow is imported: eight processes begin within milliseconds
AT_ONCE = """
import os, sys
import mlflow.artifacts, mrsr.drawing
from mrsr.tracking import delivery, store
store._client(store.store_uri())
children = []
for path in sys.argv[1:]:
    child = os.fork()
    if not child:
        os._exit(0 if delivery.deliver(path) else 1)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def deliver_at_once(server: Server, paths: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, *map(str, paths)],
        env=server.environment,
        cwd=server.folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_eight_jobs_at_once_lose_nothing(server: Server, tmp_path: Path) -> None:
    steps = range(1, 201)
    folders = []
    for number in range(7):
        lines = log_lines(steps)
        lines[0] = lines[0] | {"digest": f"job{number}"}
        folders.append(write_training(tmp_path / f"job{number}", lines, end=True))
    folders.append(write_evaluation(tmp_path, record()))
    deliver_at_once(server, folders)
    content = server.content()

    assert server.rows("SELECT name FROM experiments WHERE name != 'Default'") == [("demo",)]
    keys = server.rows("SELECT value FROM tags WHERE key = 'mrsr.key'")
    assert len(keys) == len(set(keys)) == 8
    states = server.rows("SELECT status, lifecycle_stage, count(*) FROM runs GROUP BY 1, 2")
    assert states == [("FINISHED", "active", 8)]
    points = server.rows(
        "SELECT key, run_uuid, count(*), count(DISTINCT step) FROM metrics "
        "WHERE key IN ('train/total', 'validation/psnr') GROUP BY 1, 2"
    )
    found = Counter((key, count, steps) for key, _, count, steps in points)
    assert found == {("train/total", 200, 200): 7, ("validation/psnr", 100, 100): 7}
    names = Counter(Path(file).name for file, _ in content[1])
    assert names["log.jsonl"] == names["best.pt"] == names["curves.png"] == 7

    # again, and two processes with the same records: nothing new
    deliver_at_once(server, [folders[0], folders[0], folders[-1], folders[-1]])
    assert server.content() == content


# the training as it is, but slow, and delivering all the time
SLOWED = """
import sys, time
from mrsr.slices import batches
from mrsr.tracking import background
from mrsr.training import train_sr
background.DELIVER_SECONDS = 0.2
batch = batches.batch
def slowed(*arguments, **options):
    time.sleep(0.05)
    return batch(*arguments, **options)
batches.batch = slowed
train_sr.main(sys.argv[1:])
"""


def test_a_server_killed_during_a_training_gets_the_rest_once(
    server: Server, tmp_path: Path
) -> None:
    builders.toy_stores(tmp_path)
    settings = builders.sr(
        steps=200, checkpoint_every=5, validate_every=100, tracking={"enabled": True}
    )
    order = builders.command(tmp_path, tmp_path / "results/toy", settings)
    with open(tmp_path / "stderr", "w+") as errors:
        job = subprocess.Popen(
            [sys.executable, "-c", SLOWED, *order],
            env=server.environment,
            stderr=errors,
        )
        query = "SELECT count(*) FROM metrics m JOIN tags t ON m.run_uuid = t.run_uuid WHERE "
        query += "t.key = 'experiment' AND t.value = 'toy' AND m.key = 'train/l1'"
        until = time.monotonic() + WAIT
        while (sent := server.rows(query)[0][0]) == 0:
            assert job.poll() is None and time.monotonic() < until, errors
            time.sleep(0.05)
        server.kill()
        assert job.wait(WAIT) == 0, (tmp_path / "stderr").read_text()
    said = (tmp_path / "stderr").read_text()
    assert said.count("warning: ") == 1 and "mrsr sync" in said and "Traceback" not in said
    assert (tmp_path / "results/toy/best.pt").exists()
    assert sent < 200

    sync = [str(BIN / "mrsr"), "sync", "--results", str(tmp_path / "results")]
    options = {"env": server.environment, "capture_output": True, "text": True}
    down = subprocess.run(sync, **options)
    assert down.returncode == 2 and down.stderr.count("warning: ") == 1
    server.start()
    first = subprocess.run(sync, **options)
    assert (first.returncode, first.stdout, first.stderr) == (0, "1 delivered, 0 failed\n", "")
    lines = (tmp_path / "results/toy/log.jsonl").read_text().splitlines()
    expected = Counter()
    for line in map(json.loads, lines):
        for name, value in line.get("metrics", {}).items():
            expected[f"{line['split']}/{name}"] += value is not None
    rows = server.rows(
        "SELECT m.key, count(*), count(DISTINCT step) FROM metrics m JOIN tags t "
        "ON m.run_uuid = t.run_uuid WHERE t.key = 'experiment' AND t.value = 'toy' GROUP BY 1"
    )
    assert expected["train/l1"] == 200
    assert {key: (count, steps) for key, count, steps in rows} == {
        key: (count, count) for key, count in expected.items()
    }
    whole = server.content()
    again = subprocess.run(sync, **options)
    assert (again.returncode, again.stdout) == (0, "1 delivered, 0 failed\n")
    assert server.content() == whole
