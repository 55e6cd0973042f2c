"""The page of an experiment: everything in one HTML file.

    mrsr report --experiment demo

The scripts that it holds come from installed packages, as they are: DataTables as itables ships it
(sortable tables) and plotly.js (curves). The same results give the same bytes.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.params.figures import caption_text
from mrsr.params.jobs import Report
from mrsr.params.typed import plain
from mrsr.report import curves, facts, pictures, rows
from mrsr.tables.tables import by_labels, make_table


def write(settings: Report, results: Path, out: Path) -> int:
    """Write the page; returns its size in bytes.

    Args:
        settings: of an experiment. results: its folder. out: the .html.

    Raises:
        UserError: a result is missing or damaged.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrsr.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(**_content(settings, results))
    write_text(out, text)
    return len(text.encode("utf-8"))


def _content(settings: Report, results: Path) -> dict[str, Any]:
    spec = plain(settings.tables)
    files = sorted((results / "metrics").rglob("*.json"))
    if not files:
        raise UserError(f"{results}/metrics has no metrics files; run the experiment first")
    records = by_labels(files, spec)
    columns = settings.figures.columns
    tables = rows.tables(records, settings.tables, columns)
    shown, left_out = pictures.slices(columns, results)
    trained = facts.trainings(settings, results)
    known = [row["seconds"] for row in trained if row["seconds"] is not None]
    figures, lost = _figures(settings, results)
    made = [make_table(name, records, spec) for name in sorted(settings.tables.tables)]
    remarks = dict.fromkeys(line for table in made for line in [*table.caption, *table.notes])
    return {
        "settings": settings,
        "tables": tables,
        "remarks": list(remarks),
        "frozen": _frozen(results / "tables" / "frozen.csv"),
        "figures": figures,
        "data": facts.data(settings, results),
        "trainings": trained,
        "evaluations": list(records.values()),
        "hardware": facts.hardware(trained),
        "time": facts.duration(sum(known)) if known else "",
        "duration": facts.duration,
        "commits": sorted({row["commit"] for row in trained if row["commit"]}),
        "citation": facts.citation(Path("CITATION.cff")),
        "missing": [*_missing(settings, tables, trained), *lost]
        + [f"Left out of the viewer to keep this page small: {name}." for name in left_out],
        "slices": _json(shown),
        "curves": _json(curves.curves(settings.trainings, results)) if trained else "",
        "style": _own("page.css"),
        "script": _own("page.js"),
        "plotly": _plotly() if trained else "",
        **_datatables(),
    }


def _missing(
    settings: Report, tables: Sequence[dict[str, Any]], trained: Sequence[dict[str, Any]]
) -> list[str]:
    """What a reader may look for and will not find, and why."""
    found = []
    keys = {method for column in settings.figures.columns for method in column.methods}
    if "proposed" not in keys:
        found.append(
            "No row 'Proposed': differences are against the best row of each table, and the "
            "figures' slice is chosen by its last row."
        )
    for table in tables:
        if table["few"]:
            found.append(
                f"{table['title']}: no intervals and tests, {table['subjects']} test "
                f"subject{'s' if table['subjects'] != 1 else ''} (six are needed)."
            )
        if not table["published"]:
            found.append(f"{table['title']}: the paper has no numbers for this dataset and scale.")
    if not trained:
        found.append("No trainings, and so no loss curves: every row is interpolation.")
    elif any(row["seconds"] is None for row in trained):
        found.append("Some trainings did not record their end: their time is not known.")
    if not any("ablation" in name for name in settings.figures.figures):
        found.append("No ablation in this experiment, so no counterpart of Fig. 3 to 5.")
    return [*found, "Energy was not measured."]


def _figures(settings: Report, results: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Name, image and caption of each figure, and a remark for each that is not there."""
    found, lost = [], []
    for name in settings.figures.figures:
        file = results / "figures" / f"{name}.png"
        if not file.is_file():
            lost.append(f"Figure {name} was not drawn; `mrsr figures` draws it.")
            continue
        found.append({"name": name, "image": pictures.file(file), "caption": caption_text(name)})
    return found, lost


def _frozen(file: Path) -> list[dict[str, Any]]:
    import csv

    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def _json(value: Any) -> Any:
    """JSON for a script element: no `<` that could end it."""
    import markupsafe

    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return markupsafe.Markup(text.replace("<", "\\u003c"))


def _own(name: str) -> Any:
    return _raw(importlib.resources.files("mrsr.report").joinpath(name).read_text("utf-8"))


def _raw(text: str) -> Any:
    """Text that goes into the page as it is: our own, and the packages' scripts."""
    import markupsafe

    return markupsafe.Markup(text)


def _plotly() -> Any:
    from plotly.offline import get_plotlyjs

    return _raw(get_plotlyjs())


def _datatables() -> dict[str, Any]:
    """DataTables' style, and its module in base64, which the page imports from memory."""
    folder = importlib.resources.files("itables") / "html"
    module = (folder / "dt_bundle.js").read_bytes()
    return {
        "tables_style": _raw((folder / "dt_bundle.css").read_text("utf-8")),
        "tables_script": base64.b64encode(module).decode(),
    }
