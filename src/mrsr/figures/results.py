"""Where an experiment's results are, and those that figures show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrsr import drawing
from mrsr.errors import UserError
from mrsr.figures import choosing
from mrsr.figures.losses import Series
from mrsr.params.jobs import Column, Examples, Figures
from mrsr.tables.pooling import pooled
from mrsr.tables.records import read_record

Records = Mapping[tuple[str, int], Mapping[str, dict[str, Any]]]


def example_path(results: Path, column: Column) -> Path:
    """The example images of a dataset and scale, below an experiment's results."""
    return results / "figures" / "examples" / f"{column.name}_x{column.scale}.npz"


def files_of(settings: Examples, results: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """By method, the CSV of each evaluation, and each checkpoint, of an experiment's results."""
    metrics = results / "metrics" / settings.dataset / f"x{settings.scale}"
    return (
        {one.method: metrics / f"{one.method}.csv" for one in settings.cells},
        {key: results / "checkpoints" / at / "best.pt" for key, at in settings.trainings.items()},
    )


def records_of(
    settings: Figures, results: Path
) -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
    """(dataset, scale) -> method -> metrics record; folds and seeds together."""
    files = sorted((results / "metrics").rglob("*.json"))
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    order = {method.key: number for number, method in enumerate(settings.methods)}
    every = pooled(read_record(file)[0] for file in files)
    for record in sorted(every, key=lambda r: order.get(r["method"], len(order))):
        if record["method"] in order:
            found.setdefault((record["dataset"], record["scale"]), {})[record["method"]] = record
    return found


def records_of_column(records: Records, column: Column) -> list[dict[str, Any]]:
    """The records of a dataset and scale, in the order of its methods.

    Raises:
        UserError: one is missing.
    """
    found = records.get((column.name, column.scale), {})
    if missing := [key for key in column.methods if key not in found]:
        raise UserError(
            f"no metrics of {column.name} at {column.scale}x by {missing[0]}; run the evaluation"
        )
    return [found[key] for key in column.methods]


def psnr_of_column(results: Path, column: Column) -> dict[str, np.ndarray]:
    """By method, PSNR (dB) of every slice with signal."""
    folder = results / "metrics" / column.dataset / f"x{column.scale}"
    return {
        key: np.array([*choosing.psnr_by_slice(folder / f"{key}.csv").values()])
        for key in column.methods
    }


def logs(settings: Figures, results: Path) -> dict[str, Series]:
    """Title -> log of the trainings of Fig. 7."""
    labels = {method.key: method.label or method.key for method in settings.methods}
    labels |= {column.dataset: column.label for column in settings.columns}
    found: dict[str, Series] = {}
    for folder in settings.losses:
        first, *rest = folder.split("/")
        title = f"vision transformer, {rest[0]} task"
        if first != "vit":
            where = f"{labels.get(first, first)} {rest[0].removeprefix('x')}x"
            title = f"{labels.get(rest[1], rest[1])}, {where}"
        found[title] = drawing.series(results / "checkpoints" / folder / "log.jsonl")
    return found
