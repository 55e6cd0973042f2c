"""After `dvc pull` or `dvc checkout`: make Snakemake accept the files that are there.

A fresh checkout's file times are arbitrary, so Snakemake would train everything again. If DVC
reports no difference from the record, `snakemake --touch` corrects the times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mrsr.errors import UserError
from mrsr.params import loading


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        # the tools of this environment, whether it is activated or not
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, env=environment
    )


def adopt(experiment: str | None = None) -> str:
    """Check DVC's record, then touch the experiment's outputs in order.

    Returns:
        The experiment's name.

    Raises:
        UserError: the experiment is not tracked, or the files differ from DVC's record.
    """
    name = loading.load("params.yaml", experiment).name
    tracked = loading.load("params.yaml").params.tracked
    if name not in tracked:
        raise UserError(
            f"experiment '{name}' is not under `tracked:` in params.yaml; "
            f"tracked: {', '.join(tracked)}"
        )
    stages = [f"{stage}@{name}" for stage in ("slices", "checkpoints", "metrics", "tables")]
    # --with-deps: the raw stages too
    status = _run(["dvc", "status", "--json", "--with-deps", *stages])
    if status.returncode != 0:
        raise UserError(f"dvc status failed: {status.stderr.strip() or status.stdout.strip()}")
    changed = json.loads(status.stdout or "{}")
    if changed:
        stage, what = next(iter(changed.items()))
        raise UserError(
            f"the files differ from DVC's record: {stage} {json.dumps(what)}; "
            "run `dvc pull` (or `dvc repro`) first"
        )
    # the tracking store belongs to this clone and is not recorded
    for arguments in ([f"results/{name}/tracking.ready"], ["--touch", "all"]):
        done = _run(["snakemake", "--cores", "1", *arguments, "--config", f"experiment={name}"])
        if done.returncode != 0:
            raise UserError(f"snakemake {arguments[0]} failed: {done.stderr.strip()[-400:]}")
    return name
