"""All figures of an experiment, from its metrics, example images and logs.

By hand: `mrsr figures --experiment demo`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrsr.figures import (
    differences,
    distribution,
    example_file,
    images,
    losses,
    results,
    spectra,
    style,
    tradeoff,
)
from mrsr.params.figures import LOSSES, ablations, compared, kind, main_method, of_column
from mrsr.params.jobs import Column, Figures


def draw_all(settings: Figures, folder: Path, out: Path) -> list[Path]:
    """Draw every figure of the settings as PDF and PNG; equal results give equal files.

    Args:
        settings: of an experiment. folder: its results, with metrics/, checkpoints/ and
            figures/examples/. out: the folder for the figures.

    Raises:
        UserError: a file of the results is missing or damaged.
    """
    import matplotlib

    written = []
    with matplotlib.rc_context(style.SETTINGS):
        for name, drawn in _figures(settings, folder):
            style.save(drawn, out, name)
            written += [out / f"{name}.{suffix}" for suffix in style.FORMATS]
    return written


def _figures(settings: Figures, folder: Path) -> Iterator[tuple[str, Any]]:
    """The figures, one at a time, in the order of the settings."""
    records = results.records_of(settings, folder)
    for column in settings.columns:
        example = example_file.read(results.example_path(folder, column))
        for name in of_column(settings.figures, column):
            yield name, _of_column(kind(name), settings, column, example, records, folder)
    if settings.losses:
        yield LOSSES, losses.draw(results.logs(settings, folder))


def _of_column(
    what: str,
    settings: Figures,
    column: Column,
    example: example_file.Loaded,
    records: results.Records,
    folder: Path,
) -> Any:
    kinds = {method.key: str(method.kind) for method in settings.methods}
    if what == "comparison":
        return images.draw(example, compared(column.methods, kinds))
    if what == "ablation":
        return images.draw(example, ablations(column.methods, kinds))
    if what == "spectra":
        return spectra.draw(example, column.methods)
    if what == "slices":
        values = results.psnr_of_column(folder, column)
        main = example.labels[main_method(column.methods)]
        return distribution.draw({example.labels[key]: each for key, each in values.items()}, main)
    of_column = results.records_of_column(records, column)
    if what == "differences":
        return differences.draw(of_column)
    return tradeoff.draw(of_column, "parameters" if what == "parameters" else "seconds_per_slice")
