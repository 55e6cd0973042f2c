"""`mrsr experiments`: what each experiment runs, the data it needs, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrsr.errors import UserError

UNKNOWN = "not measured"


def entries(params: Path, own: Iterable[Path] = ()) -> tuple[list[dict[str, Any]], list[str]]:
    """Each experiment as plain values, and one line for each that does not load.

    Args:
        params: params.yaml; the experiments of workflow/experiments/ beside it are listed.
        own: files of your own, listed after them.
    """
    from mrsr.params import loading

    found: list[dict[str, Any]] = []
    problems: dict[str, None] = {}  # a mistake in params.yaml breaks all of them and is said once
    for name in [*loading.names(params), *map(str, own)]:
        try:
            found.append(_entry(loading.load(params, name)))
        except UserError as error:
            problems[str(error)] = None
    return found, list(problems)


def _entry(resolved: Any) -> dict[str, Any]:
    """One experiment. `runs`: the methods by dataset and scale; `sources`: see `mrsr raw`."""
    runs: dict[str, dict[str, int]] = {}
    for cell in resolved.cells:
        scales = runs.setdefault(cell.dataset, {})
        scales[f"{cell.scale}x"] = scales.get(f"{cell.scale}x", 0) + 1
    return {
        "name": resolved.name,
        "description": resolved.experiment.description,
        "datasets": resolved.measured,
        "scales": resolved.scales,
        "methods": list(resolved.methods),
        "runs": runs,
        "sources": resolved.sources,
        "about": resolved.experiment.about or UNKNOWN,
    }


def show(found: list[dict[str, Any]]) -> None:
    """Print a table, one row for each experiment, as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("experiment", "what it runs", "data", "time", box=box.SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].ratio = 1
    table.columns[3].max_width = 20
    for entry in found:
        scales = ", ".join(f"{scale}x" for scale in entry["scales"])
        cells = f"{', '.join(entry['datasets'])} at {scales}: {len(entry['methods'])} methods"
        table.add_row(
            entry["name"],
            f"{entry['description']}\n{cells}",
            "\n".join(entry["sources"]),
            entry["about"],
            end_section=True,
        )
    Console(highlight=False, markup=False).print(table)
