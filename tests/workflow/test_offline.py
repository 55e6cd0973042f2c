"""Compute jobs open no connection: `pytest -m "slow or long" tests/workflow/test_offline.py`.

Once the raw data is there, the smoke experiment runs in a network namespace that has a loopback
and no route, as on a compute node without internet. Python's own attempts to look up a name or to
connect anywhere else are noted as well: one that fails quietly is still one too many.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from project import copy_project, planned_jobs, run, snakemake

pytestmark = pytest.mark.slow

SMOKE = ("--config", "experiment=smoke")
# every Python process imports this on its start
WATCH = """
import os, sys

def watch(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host in ("None", "", "localhost", "::", "::1", "0.0.0.0", os.uname().nodename):
        return
    if host.startswith("127."):
        return
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{event} {host} {' '.join(sys.argv)[:200]}\\n")

sys.addaudithook(watch)
"""


def isolated(*command: str) -> list[str]:
    """A command in a namespace of its own that has nothing but a loopback."""
    bring_up = 'ip link set lo up && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", bring_up, "sh", *command]


@pytest.fixture(scope="module")
def namespace() -> None:
    """Skip where a network namespace is not permitted; CI must permit it."""
    tried = None
    if shutil.which("unshare") and shutil.which("ip"):
        tried = subprocess.run(isolated("true"), capture_output=True, text=True)
    if tried is None or tried.returncode != 0:
        why = tried.stderr.strip() if tried else "the commands unshare and ip are not both here"
        reason = f"no network namespace can be made: {why}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and CI must be able to")
        pytest.skip(reason)


def watched(folder: Path) -> dict[str, str]:
    """What makes Python processes note their connections in `folder/connections`."""
    (folder / "sitecustomize.py").write_text(WATCH)
    return {"CONNECTIONS": str(folder / "connections"), "PYTHONPATH": str(folder)}


def test_the_namespace_has_a_loopback_and_no_way_out_and_attempts_are_noted(
    namespace: None, tmp_path: Path
) -> None:
    routes = subprocess.run(
        isolated("ip", "route"), check=True, capture_output=True, text=True
    ).stdout
    assert routes == ""
    code = (
        "import socket; server = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(server.getsockname(), timeout=5); print('loopback'); "
        "socket.create_connection(('192.0.2.1', 80), timeout=5)"
    )
    tried = subprocess.run(
        isolated(sys.executable, "-c", code),
        env=os.environ | watched(tmp_path),
        capture_output=True,
        text=True,
    )
    assert tried.stdout == "loopback\n"
    assert "Network is unreachable" in tried.stderr
    noted = (tmp_path / "connections").read_text()
    assert "socket.connect 192.0.2.1" in noted and "127.0.0.1" not in noted


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_smoke_experiment_needs_no_network_once_raw_data_is_there(
    namespace: None, tmp_path: Path
) -> None:
    folder = copy_project(tmp_path / "project")
    snakemake(folder, "raw", *SMOKE)
    rest = planned_jobs(snakemake(folder, "--dry-run", "all", *SMOKE))
    assert "raw_source" not in rest and {"slice_dataset", "train_sr", "evaluate"} <= set(rest)

    watch = watched(tmp_path)
    noted = tmp_path / "connections"
    # a training by two processes: what they say to each other stays on the loopback
    run(
        folder,
        *isolated("snakemake", "--cores", "2", "--show-failed-logs", "all", *SMOKE,
                  "--set-resources", "train_sr:gpu=2"),
        **watch | {
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{folder / 'src'}",
            "MLFLOW_DISABLE_TELEMETRY": "",  # the project must see to that itself
        },
    )  # fmt: skip
    assert not noted.exists(), noted.read_text()
    table = pd.read_csv(folder / "results/smoke/tables/results.csv")
    assert set(table["method"]) == {"bicubic", "srcnn", "srresnet", "proposed"}
    log = next((folder / "results/smoke/checkpoints").rglob("srresnet/log.jsonl")).read_text()
    assert '"processes": 2' in log.splitlines()[0]
    assert (folder / "mlflow.db").exists()


def test_downloads_stay_where_snakemake_runs(root: Path) -> None:
    rules = (root / "Snakefile").read_text()
    local = rules.split("localrules:", 1)[1].split("\n\n", 1)[0]
    assert "raw_source," in local
