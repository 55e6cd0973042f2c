"""Where an experiment's wall time went, stage by stage: `python bench/account.py [demo]`.

Run it in the folder of a finished run. Snakemake's benchmark files say how long each job took, and
each training's log.jsonl when its session started, logged and ended. From those:

- inside steps: images of a logged stretch over its images a second, without validations;
- start-up: the job's time before the log's first line (imports, reading slices, building networks);
- session: between the log's first and last line, without the steps: validation, saving, tracking's
  nudges;
- end: after the log's last line, until the job is over: writing best.pt, sending the log to MLflow,
  and leaving. Snakemake gives best.pt its time when the job is over.

An evaluation's forward passes come from its JSON. Jobs without a benchmark file are not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from mrsr.files import read_log

COLUMNS = ("jobs", "wall", "processor", "start-up", "steps", "session", "end", "other")


def account(name: str, root: Path = Path()) -> dict[str, dict[str, float]]:
    """Seconds by stage: training of each kind, and evaluation."""
    stages: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(COLUMNS, 0.0))
    folder = root / "logs" / name / "benchmarks"
    for file in sorted(folder.rglob("*.tsv")):
        with open(file, encoding="utf-8") as opened:
            row = next(csv.DictReader(opened, delimiter="\t"))
        job = file.relative_to(folder).with_suffix("")
        wall, processor = float(row["s"]), float(row["cpu_time"])
        parts = (
            _evaluation(root / "results" / name / job.with_suffix(".json"), wall)
            if job.parts[0] == "metrics"
            else _training(root / "results" / name / "checkpoints" / job / "log.jsonl", wall)
        )
        stage = stages[_stage(job)]
        for key, value in {"jobs": 1, "wall": wall, "processor": processor, **parts}.items():
            stage[key] += value
    return dict(stages)


def _stage(job: Path) -> str:
    if job.parts[0] == "metrics":
        return "evaluation"
    if job.parts[0] == "vit":
        return f"vit {job.name}"
    return "auto-encoder" if job.name == "autoencoder" else "super-resolution"


def _training(log: Path, wall: float) -> dict[str, float]:
    if not log.exists():
        return {"other": wall}
    lines = read_log(log)
    start = next(line for line in lines if line.get("event") == "start")
    inside = lines[-1]["time"] - start["time"]
    batch, steps, last = start["settings"].get("batch", 0), 0.0, 0
    for line in lines:
        speed = line.get("metrics", {}).get("images_per_second")
        if speed and line["split"] == "train":
            steps += batch * (line["step"] - last) / speed
            last = line["step"]
    written = log.with_name("best.pt").stat().st_mtime if log.with_name("best.pt").exists() else 0
    end = max(0.0, written - lines[-1]["time"])
    rest = wall - inside - end
    return {"start-up": rest, "steps": steps, "session": inside - steps, "end": end}


def _evaluation(record: Path, wall: float) -> dict[str, float]:
    if not record.exists():
        return {"other": wall}
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    forward = found["seconds_per_slice"] * found["n_slices"]
    return {"steps": forward, "other": wall - forward}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", nargs="?", default="demo")
    stages = account(parser.parse_args().experiment)
    if not stages:
        raise SystemExit("no benchmark files in logs/; run the experiment first")
    total = {key: sum(stage[key] for stage in stages.values()) for key in COLUMNS}
    print(f"| stage (s) | {' | '.join(COLUMNS)} |")
    print("|---|" + "---|" * len(COLUMNS))
    for name, stage in {**stages, "all": total}.items():
        print(f"| {name} | " + " | ".join(f"{stage[key]:.0f}" for key in COLUMNS) + " |")
    for key in ("start-up", "steps", "session", "end", "other"):
        print(f"{key}: {100 * total[key] / total['wall']:.0f} % of the jobs' wall time")


if __name__ == "__main__":
    main()
