"""All figures of an experiment, from its metrics, example images and logs.

mrsr figures --experiment demo
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrsr import drawing
from mrsr.errors import UserError
from mrsr.figures import (
    choosing,
    differences,
    distribution,
    examples,
    images,
    losses,
    spectra,
    style,
    tradeoff,
)
from mrsr.params.figures import ablations, compared, kind, main_method
from mrsr.params.jobs import Column, Examples, Figures
from mrsr.tables.pooling import pooled
from mrsr.tables.records import read_record


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


def draw_all(settings: Figures, results: Path, out: Path) -> list[Path]:
    """Draw every figure of the settings as PDF and PNG; equal results give equal files.

    Args:
        settings: of an experiment. results: its folder, with metrics/, checkpoints/ and
            figures/examples/. out: the folder for the figures.

    Raises:
        UserError: a file of the results is missing or damaged.
    """
    import matplotlib

    written = []
    with matplotlib.rc_context(style.SETTINGS):
        for name, drawn in _figures(settings, results):
            style.save(drawn, out, name)
            written += [out / f"{name}.{suffix}" for suffix in style.FORMATS]
    return written


def _figures(settings: Figures, results: Path) -> Iterator[tuple[str, Any]]:
    """The figures, one at a time, in the order of the settings."""
    records = records_of(settings, results)
    for column in settings.columns:
        end = f"_{column.name}_{column.scale}x"
        wanted = {name for name in settings.figures if name.endswith(end)}
        example = examples.read(example_path(results, column))
        for name in sorted(wanted):
            yield name, _of_column(kind(name), settings, column, example, records, results)
    if settings.losses:
        yield "fig7_losses", losses.draw(_logs(settings, results))


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


def _of_column(
    what: str,
    settings: Figures,
    column: Column,
    example: examples.Loaded,
    records: Mapping[tuple[str, int], Mapping[str, dict[str, Any]]],
    results: Path,
) -> Any:
    kinds = {method.key: str(method.kind) for method in settings.methods}
    if what == "comparison":
        return images.draw(example, compared(column.methods, kinds))
    if what == "ablation":
        return images.draw(example, ablations(column.methods, kinds))
    if what == "spectra":
        return spectra.draw(example, column.methods)
    if what == "slices":
        folder = results / "metrics" / column.dataset / f"x{column.scale}"
        values = {
            example.labels[key]: np.array([*choosing.psnr_by_slice(folder / f"{key}.csv").values()])
            for key in column.methods
        }
        return distribution.draw(values, example.labels[main_method(column.methods)])
    found = records.get((column.name, column.scale), {})
    if missing := [key for key in column.methods if key not in found]:
        raise UserError(
            f"{results}/metrics has no {column.name} at {column.scale}x by {missing[0]}; "
            "run the evaluation"
        )
    of_column = [found[key] for key in column.methods]
    if what == "differences":
        return differences.draw(of_column)
    return tradeoff.draw(of_column, "parameters" if what == "parameters" else "seconds_per_slice")


def _logs(settings: Figures, results: Path) -> dict[str, losses.Series]:
    """Title -> log of the trainings of Fig. 7."""
    labels = {method.key: method.label or method.key for method in settings.methods}
    labels |= {column.dataset: column.label for column in settings.columns}
    found = {}
    for folder in settings.losses:
        first, *rest = folder.split("/")
        title = f"vision transformer, {rest[0]} task"
        if first != "vit":
            where = f"{labels.get(first, first)} {rest[0].removeprefix('x')}x"
            title = f"{labels.get(rest[1], rest[1])}, {where}"
        found[title] = drawing.series(results / "checkpoints" / folder / "log.jsonl")
    return found
