"""Kill -9 at random, again and again, and compare with an undisturbed run: `make soak`.

    python tests/soak.py --seed 0 --kills 20 --out soak.md

In a copy of the project the experiment `smoke`, with trainings long enough to be hit, runs once
undisturbed. Then everything but the raw data is removed and it runs again, with an MLflow server,
while a random process is killed by force after random seconds: a job, Snakemake itself, or the
server. What ended is started again (`mrsr resume`) until the run is complete. Tables, metrics and
weights must be those of the undisturbed run, and the tracking store must have every record once.

Exit code 0: they are. What was killed when depends on the seed and on the machine's speed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from project import ENVIRONMENT, copy_project, edit_experiment, run

EXPERIMENT = "smoke"
TARGET = ["--cores", "2", "all", "--config", f"experiment={EXPERIMENT}"]
# the smoke experiment with trainings of some ten seconds
LONGER = {
    "set": {
        "vit": {
            "segmentation": {"steps": 12, "validate_every": 6, "checkpoint_every": 2},
            "finetuning": {"steps": 120, "validate_every": 40, "checkpoint_every": 5},
        },
        "autoencoder": {"steps": 60, "validate_every": 30, "checkpoint_every": 3},
        "sr": {"steps": 800, "validate_every": 200, "checkpoint_every": 10},
    }
}
TIMES = {"seconds_per_slice"}  # columns of the long table that no two runs share
VICTIMS = ("job", "job", "snakemake", "server")  # a job twice as often


@dataclass
class Soak:
    """What happened: victims in order, and how often the run was started."""

    kills: list[str] = field(default_factory=list)
    starts: int = 0


def environment(folder: Path, port: int | None) -> dict[str, str]:
    """Of the commands: threads pinned, the copy's code, the server where there is one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MRSR_T"))}
    own = {"PYTHONPATH": str(folder / "src"), "MLFLOW_WORKERS": "1"}
    if port:
        own["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    return kept | ENVIRONMENT | own


def start(folder: Path, port: int, log: Path, *command: str) -> subprocess.Popen[bytes]:
    """A command of this environment in a session of its own, its output appended to `log`."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            [shutil.which(command[0], path=ENVIRONMENT["PATH"]) or command[0], *command[1:]],
            cwd=folder,
            env=environment(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def serve(folder: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """An MLflow server on the copy's own database, answering."""
    script = str(folder / "workflow" / "scripts" / "mlflow-server.sh")
    server = start(folder, port, log, script, "127.0.0.1", str(port), "served")
    for _ in range(240):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        if server.poll() is not None:
            break
        time.sleep(0.5)
    raise SystemExit(f"soak: the MLflow server did not start, see {log}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def jobs(folder: Path) -> list[tuple[int, str]]:
    """Trainings and evaluations that run in the folder: process id, module."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (entry / "cwd").readlink() == folder
        except OSError:
            continue
        if here and "-m" in words and words[words.index("-m") + 1].startswith("mrsr."):
            found.append((int(entry.name), words[words.index("-m") + 1]))
    return sorted(found)


def kill_by_force(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGKILL)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """A server and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def disturb(folder: Path, chance: random.Random, wanted: int, log: Path) -> Soak:
    """Run to the end under `wanted` kills. Raises SystemExit if that cannot be."""
    soak, port = Soak(), free_port()
    server = serve(folder, port, log)
    command: tuple[str, ...] = ("snakemake", *TARGET)
    running = start(folder, port, log, *command)
    soak.starts += 1
    try:
        while True:
            pause = chance.uniform(4, 14) if len(soak.kills) < wanted else 3600
            deadline = time.monotonic() + pause
            while running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            if running.poll() is None:
                victim = chance.choice(VICTIMS)
                targets = jobs(folder)
                if victim == "job" and not targets:
                    continue  # nothing runs just now
                if victim == "job":
                    pid, module = chance.choice(targets)
                    kill_by_force(pid)
                    soak.kills.append(f"job {module.removeprefix('mrsr.')}")
                elif victim == "snakemake":
                    kill_by_force(running.pid)
                    running.wait()
                    soak.kills.append("snakemake")
                else:
                    kill_session(server)
                    soak.kills.append("MLflow server")
                    time.sleep(chance.uniform(0, 5))
                    server = serve(folder, port, log)
                print(f"soak: kill {len(soak.kills)}: {soak.kills[-1]}", flush=True)
                continue
            if running.returncode == 0:
                break
            if soak.starts > 4 * wanted + 10:
                raise SystemExit(f"soak: the run does not come to its end, see {log}")
            command = ("mrsr", "resume", "--", *TARGET)
            running = start(folder, port, log, *command)
            soak.starts += 1
        if len(soak.kills) < wanted:
            raise SystemExit(
                f"soak: complete after {len(soak.kills)} of {wanted} kills; make LONGER longer"
            )
        check_tracking(folder, port)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait()
        kill_session(server)
    return soak


def check_tracking(folder: Path, port: int) -> None:
    """After `mrsr sync` the store has each evaluation once, and a second sync brings nothing."""
    uri = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    run(folder, "mrsr", "sync", "--experiment", EXPERIMENT, **uri)
    again = run(folder, "mrsr", "sync", "--experiment", EXPERIMENT, **uri).stdout
    if "0 failed" not in again:
        raise SystemExit(f"soak: records stay behind: {again}")
    count = (
        "import mlflow, sys; from collections import Counter; "
        "runs = mlflow.search_runs(experiment_names=[sys.argv[1]], output_format='list', "
        "filter_string=\"tags.`mrsr.current` = 'true'\"); "
        "print(*sorted(r.data.tags.get('mlflow.runName', r.info.run_id) for r in runs), sep='\\n')"
    )
    names = run(folder, "python", "-c", count, EXPERIMENT, **uri).stdout.split("\n")
    names = [name for name in names if name.strip() and "WARN" not in name]
    metrics = list((folder / "results" / EXPERIMENT / "metrics").rglob("*.json"))
    if len(names) < len(metrics) or len(set(names)) != len(names):
        raise SystemExit(f"soak: {len(metrics)} evaluations, tracked: {names}")


def outcome(folder: Path) -> dict[str, str]:
    """What must be equal: digests of tables (without times), slices, weights and values."""
    results = folder / "results" / EXPERIMENT
    found = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if path.name == "results.csv":
            rows = list(csv.DictReader(path.read_text().splitlines()))
            kept = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
            found[name] = hashlib.sha256(repr(kept).encode()).hexdigest()
        elif path.suffix in {".csv", ".md", ".tex", ".h5", ".pt", ".probe"} or (
            "summary" in path.parts
        ):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def report(soak: Soak, seed: int, seconds: tuple[float, float], same: dict[str, str]) -> str:
    """The summary, as Markdown."""
    count = dict.fromkeys(("job", "snakemake", "MLflow server"), 0)
    for victim in soak.kills:
        count["job" if victim.startswith("job") else victim] += 1
    kinds = {Path(name).suffix.lstrip(".") for name in same}
    victims = ", ".join(f"{number} of {victim}" for victim, number in count.items())
    return "\n".join(
        [
            f"Seed {seed}: {len(soak.kills)} kills by force ({victims}), {soak.starts} starts.",
            f"Undisturbed {seconds[0]:.0f} s, disturbed {seconds[1]:.0f} s.",
            f"{len(same)} files of results/{EXPERIMENT} compared ({', '.join(sorted(kinds))}): "
            "equal bytes, times in results.csv aside.",
            "Order: " + ", ".join(soak.kills) + ".",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, help="Markdown summary")
    parser.add_argument("--folder", type=Path, help="work here and keep it")
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp(prefix="mrsr-soak-"))
    folder = copy_project(root.resolve() / "project")
    log = root.resolve() / "soak.log"
    edit_experiment(folder, EXPERIMENT, LONGER)
    run(folder, "git", "commit", "--quiet", "--all", "--message", "longer trainings")

    began = time.monotonic()
    run(folder, "snakemake", *TARGET)
    undisturbed = time.monotonic() - began
    expected = outcome(folder)
    print(f"soak: undisturbed in {undisturbed:.0f} s, {len(expected)} files", flush=True)
    for name in ("results", "logs", ".snakemake", "mlflow.db", "mlartifacts"):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    run(folder, "git", "checkout", "--", ".")

    began = time.monotonic()
    soak = disturb(folder, random.Random(given.seed), given.kills, log)
    disturbed = time.monotonic() - began
    found = outcome(folder)
    different = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    if different:
        print(f"soak: these differ from the undisturbed run: {', '.join(different)}; {log}")
        sys.exit(1)
    text = report(soak, given.seed, (undisturbed, disturbed), found)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    if not given.folder:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
