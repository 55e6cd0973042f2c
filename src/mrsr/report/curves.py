"""The logs of all trainings as curves that one can hover."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrsr import drawing

MOST = 1000  # points of a curve


def curves(trainings: Sequence[str], results: Path) -> list[dict[str, Any]]:
    """Of each training: name, and metric -> split -> steps and values; at most MOST points."""
    found = []
    for name in trainings:
        metrics: dict[str, dict[str, Any]] = {}
        series = drawing.series(results / "checkpoints" / name / "log.jsonl")
        for (split, key), points in series.items():
            every = -(-len(points) // MOST)
            steps, values = zip(*points[::every], strict=True)
            short = [float(f"{value:.5g}") for value in values]
            metrics.setdefault(key, {})[split] = {"steps": steps, "values": short}
        first = "total" if "total" in metrics else next(iter(metrics))
        order = dict.fromkeys([first, *(["psnr"] if "psnr" in metrics else []), *metrics])
        found.append({"name": name, "metrics": {key: metrics[key] for key in order}})
    return found
