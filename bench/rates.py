"""The speed of trainings, from their logs: `python bench/rates.py [EXPERIMENT]`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def main(experiment: str = "demo") -> None:
    """Print the median images/s of each training of an experiment."""
    folder = Path("results") / experiment / "checkpoints"
    logs = sorted(folder.rglob("log.jsonl"))
    if not logs:
        raise SystemExit(f"no logs under {folder}: run the experiment first")
    for log in logs:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        told = [line["metrics"] for line in lines if "metrics" in line]
        rates = [metrics["images_per_second"] for metrics in told if "images_per_second" in metrics]
        if rates:
            print(f"{statistics.median(rates):10.1f} images/s  {log.parent.relative_to(folder)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
