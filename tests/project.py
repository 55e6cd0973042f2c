"""A copy of the project to run whole experiments in, and the commands to run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import yaml

from mrsr.ops.plan.jobs import Job

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

ENVIRONMENT = {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}


def copy_project(target: Path) -> Path:
    """The files that a commit of the working tree would hold, as a git repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    run(target, "git", "init", "--quiet", "--initial-branch=main")
    commit(target)
    return target


def commit(folder: Path) -> None:
    """Commit whatever lies there."""
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message", "state")


def run(
    folder: Path, *command: str, check: bool = True, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment, on the code in `folder`; stderr goes into stdout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MRSR_T"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | ENVIRONMENT | {"PYTHONPATH": str(folder / "src")} | extra,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}")
    return done


def snakemake(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run Snakemake on two cores; what it printed."""
    arguments = ("--cores", "2", "--show-failed-logs", *arguments)
    return run(folder, "snakemake", *arguments, check=check).stdout


def bound() -> list[str]:
    """What makes root obey permissions; nothing for others, whom they bind anyway."""
    return ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []


def edit_params(folder: Path, change: dict) -> None:
    """Merge `change` into the copy's params.yaml."""
    _edit(folder / "params.yaml", change)


def edit_experiment(folder: Path, name: str, change: dict) -> None:
    """Merge `change` into an experiment's file in the copy; there is a new one if it had none."""
    _edit(folder / "workflow" / "experiments" / f"{name}.yaml", change)


def _edit(file: Path, change: dict) -> None:
    from mrsr.params import loading, methods

    document = loading.read_yaml(file) if file.exists() else {}
    file.write_text(yaml.safe_dump(methods.merge(document, change), sort_keys=False))


def planned_jobs(text: str) -> dict[str, int]:
    """Job counts of a dry run: rule -> count, without the total."""
    jobs: dict[str, int] = {}
    table = text.split("Job stats:", 1)[1] if "Job stats:" in text else ""
    for line in table.splitlines()[3:]:
        words = line.split()
        if len(words) != 2 or words[0] == "total":
            break
        jobs[words[0]] = int(words[1])
    return jobs


def check_long_table(file: Path) -> None:
    """Assert the rules of results.csv: types, ranges, one line for each dataset, scale, method."""
    table = pandas.read_csv(file)
    labels = table[["dataset", "scale", "method"]]
    assert len(table) and labels.notna().all(axis=None) and not labels.duplicated().any()
    assert table["scale"].isin([2, 3, 4, 8]).all()
    for name in ("n", "slices"):
        assert table[name].dtype == int and (table[name] >= 1).all(), name
    for metric, low, high in (("psnr", -1000, 1000), ("ssim", -1, 1), ("nmse", 0, float("inf"))):
        assert table[metric].notna().all(), metric
        for name in (metric, f"{metric}_low", f"{metric}_high"):
            assert table[name].dropna().between(low, high).all(), name
    for name in ("steps", "patches", "parameters", "full_parameters", "seconds_per_slice"):
        assert (table[name].dropna() >= 0).all(), name


_HEAD = re.compile(r"\s*(?:local)?(?:rule|checkpoint) (\w+):")
_FIELD = re.compile(r"\s+(input|output|wildcards|threads|priority): (.*)")


def parse_jobs(text: str) -> list[Job]:
    """The jobs that a dry run of Snakemake lists, without rules that only collect files."""
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            found.append({"rule": head[1]})
        elif found and (pair := _FIELD.fullmatch(line)):
            found[-1].setdefault(pair[1], pair[2])
    return [_job(fields) for fields in found if fields.get("output")]


def _job(fields: dict[str, str]) -> Job:
    pairs, inputs, outputs = (
        [part for part in fields.get(name, "").split(", ") if part]
        for name in ("wildcards", "input", "output")
    )
    wildcards = dict(pair.split("=", 1) for pair in pairs)
    numbers = (int(fields.get("threads", 1)), int(fields.get("priority", 0)))
    return Job(fields["rule"], wildcards, tuple(inputs), tuple(outputs), *numbers)
