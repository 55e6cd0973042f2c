"""After `dvc pull` or `dvc checkout`: make Snakemake accept the files that are there.

A fresh checkout's file times are arbitrary and Snakemake has no record of how the files were made,
so it would train everything again, or, worse, take them for files of today's settings. `adopt`
checks that the files are those that DVC recorded, and by what they say of themselves that they were
made with the settings in force. `snakemake --touch --forceall` then sets their times and writes
Snakemake's record of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mrsr.errors import UserError
from mrsr.ops import provenance, tracked
from mrsr.params import loading
from mrsr.params.experiment import Resolved


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        # the tools of this environment, whether it is activated or not
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment
    )


def adopt(experiment: str | None = None) -> str:
    """Check DVC's record and the files themselves, then touch the experiment's outputs in order.

    Returns:
        The experiment's name.

    Raises:
        UserError: the experiment is not tracked, the files differ from DVC's record, or they were
            made with other settings.
    """
    resolved = loading.load("params.yaml", experiment)
    tracked.check_tracked(resolved)
    _check_record(experiment or resolved.name)
    provenance.check_files(resolved)
    _check_tables(resolved)
    name = resolved.name
    where = f"experiment={experiment or name}"
    # raw scans are shared: touched again, they would be newer than another experiment's slices
    raw = [f"data/raw/{source}/manifest.csv" for source in resolved.sources]
    raw = [path for path in raw if not provenance.is_recorded(Path(path))]
    steps = [
        # the tracking store belongs to this clone and is not recorded
        [f"results/{name}/tracking.ready"],
        *([[*raw, "--touch", "--forceall"]] if raw else []),
        # everything after the raw scans
        ["all", "--touch", "--forcerun", "slice_dataset"],
    ]
    for arguments in steps:
        done = _run(["snakemake", "--cores", "1", *arguments, "--config", where])
        if done.returncode != 0:
            raise UserError(
                f"`snakemake {' '.join(arguments)}` failed: {done.stderr.strip()[-400:]}"
            )
    return name


def _check_record(experiment: str) -> None:
    """Check with `dvc status` that every output is as recorded.

    Changed settings are not looked at here, but in the files (`provenance.py`): DVC cannot tell a
    setting of this experiment from one of another. Of raw scans nothing else can tell.
    """
    stages = [*tracked.raw_stages_of(experiment), *tracked.stages_of(experiment)]
    status = _run(["dvc", "status", "--json", *stages])
    if status.returncode != 0:
        raise UserError(f"dvc status failed: {status.stderr.strip() or status.stdout.strip()}")
    for stage, entries in json.loads(status.stdout or "{}").items():
        for what in entries:
            if isinstance(what, dict) and what.get("changed outs"):
                raise UserError(
                    f"the files differ from DVC's record: {stage} {json.dumps(what)}; "
                    "run `dvc pull` (or `dvc repro`) first"
                )
            own = what.get("changed deps", {}) if isinstance(what, dict) else {}
            settings = own.get("params.yaml")
            if stage.startswith("raw-") and settings:
                raise UserError(
                    f"data/raw/{stage[4:]} was made with other settings than params.yaml has: "
                    f"{json.dumps(settings)}; take the change back, or run `dvc repro`"
                )


def _check_tables(resolved: Resolved) -> None:
    """Check that the tables are those of the metrics files and of the settings in force."""
    from mrsr.tables import tables

    folder = Path("results") / resolved.name
    metrics = sorted((folder / "metrics").rglob("*.json"))
    with tempfile.TemporaryDirectory() as temporary:
        made = tables.write_tables(metrics, resolved.tables(), Path(temporary))
        for file in made:
            there = folder / "tables" / file.name
            if not there.exists() or there.read_bytes() != file.read_bytes():
                raise UserError(
                    f"{there} is not what the metrics files and the settings in force give; "
                    "take the change of the settings back, or run `dvc repro`"
                )
