"""Metrics files -> the long table and the paper's Tables 1 and 2 (section 4).

Every metrics JSON carries its own labels; no path is parsed. The values that the paper published
are in `paper.csv` next to this file, with notes on misprints, and appear below the measured ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pandas

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.params.jobs import Tables
from mrsr.params.repeats import origin
from mrsr.params.typed import plain
from mrsr.tables.comparison import differences
from mrsr.tables.formats import METRICS, Table, to_csv, to_latex, to_markdown
from mrsr.tables.notes import Key, caption, label, notes, reduced, words
from mrsr.tables.pooling import pooled
from mrsr.tables.published import DECIMALS, paper
from mrsr.tables.records import read_record

ENDS = ("", "_low", "_high")
COLUMNS = [
    *("dataset", "scale", "method", "label"),
    *(f"{metric}{end}" for metric in METRICS for end in ENDS),
    *("n", "slices", "interval", "type", "recipe", "steps", "patches"),
    *("parameters", "full_parameters", "reduced", "seconds_per_slice", "preset"),
    *("paper_psnr", "paper_ssim", "paper_nmse", "paper_note"),
]


def write_tables(
    metrics: Iterable[Path | str | dict[str, Any]],
    settings: Tables,
    out: Path,
    summary: Path | None = None,
) -> list[Path]:
    """Write results.csv, differences.csv and each of `settings.tables` as CSV, LaTeX, Markdown.

    Args:
        metrics: metrics JSON files of `mrsr.metrics.evaluate`, or their contents, in any order.
        settings: of the experiment; its methods stand in the order of the tables.
        out: folder of the tables.
        summary: folder for the means of each row as a JSON of its own, if wanted:
            `dvc metrics show` prints a line for each file.

    Returns:
        The paths written. The bytes depend on the arguments alone.

    Raises:
        UserError: a file is no metrics file, two have the same labels, or the numbers of one
            column or table do not compare (presets or test subjects differ).
    """
    spec, out = plain(settings), Path(out)
    records = by_labels(metrics, spec)
    files = {
        out / "results.csv": to_csv(long_table(records, spec)),
        out / "differences.csv": to_csv(differences(records.values())),
    }
    for (dataset, scale, method), record in records.items():
        if summary is None:
            break
        place = Path(summary) / dataset / f"x{scale}" / f"{method}.json"
        means = {metric: round(record[metric]["mean"], 6) for metric in METRICS}
        files[place] = json.dumps(means, indent=2) + "\n"
    for name in sorted(spec["tables"]):
        table = make_table(name, records, spec)
        files[out / f"{name}.csv"] = to_csv(table.cells)
        files[out / f"{name}.tex"] = to_latex(table)
        files[out / f"{name}.md"] = to_markdown(table)
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def by_labels(
    metrics: Iterable[Path | str | dict[str, Any]], spec: dict[str, Any]
) -> dict[Key, dict[str, Any]]:
    """Records by their labels, in the order of the long table: dataset, scale, method.

    Raises:
        UserError: as `write_tables`.
    """
    methods = [method["key"] for method in spec["methods"]]
    datasets = list(dict.fromkeys([*chain(*spec["tables"].values()), *spec["datasets"]]))
    found: dict[Key, tuple[dict[str, Any], str]] = {}
    ignored = 0
    for source in metrics:
        record, where = read_record(source)
        key = (record["dataset"], record["scale"], record["method"])
        if record["experiment"] != spec["experiment"]:
            raise UserError(
                f"{where} is of experiment '{record['experiment']}', not '{spec['experiment']}'; "
                "give one experiment's metrics files"
            )
        if (
            origin(key[0]).dataset not in datasets
            or key[1] not in spec["scales"]
            or key[2] not in methods
        ):
            ignored += 1
            continue
        if key in found:
            raise UserError(
                f"{where} and {found[key][1]} both measure {key[2]} on {key[0]} at {key[1]}x; "
                "give one of them"
            )
        found[key] = (record, where)
    if ignored:
        print(f"mrsr: note: left out {ignored} measurements not in the settings", file=sys.stderr)
    together = pooled((record for record, _ in found.values()), spec["repeats"])
    records = {
        (record["dataset"], record["scale"], record["method"]): record for record in together
    }
    order = sorted(records, key=lambda k: (datasets.index(k[0]), k[1], methods.index(k[2])))
    return {key: records[key] for key in order}


def long_table(records: dict[Key, dict[str, Any]], spec: dict[str, Any]) -> pandas.DataFrame:
    """A line for each measured (dataset, scale, method), columns `COLUMNS`, `metrics.more`."""
    labels = {method["key"]: label(method) for method in spec["methods"]}
    more = list(dict.fromkeys(chain(*(record.get("more", ()) for record in records.values()))))
    rows = []
    for key, record in records.items():
        published = paper().get(key, {})
        row = {**record, "dataset": key[0], "scale": key[1], "method": key[2]}
        for metric in (*METRICS, *record.get("more", ())):
            for end, column in (("mean", ""), ("low", "_low"), ("high", "_high")):
                value = record[metric].get(end)
                row[f"{metric}{column}"] = None if value is None else round(value, 6)
        few = row["psnr_low"] is None
        rows.append(
            row
            | {"label": labels[key[2]], "n": record["n_subjects"], "slices": record["n_slices"]}
            | {"interval": "n too small" if few else "95 % bootstrap over subjects"}
            | {"type": record.get("type", "single"), "recipe": record.get("recipe", "common")}
            | {
                "reduced": "yes" if reduced(record) else "no",
                "preset": record["preset"].get("name"),
            }
            | {f"paper_{name}": published.get(name) for name in (*METRICS, "note")}
        )
    columns = COLUMNS + [f"{metric}{end}" for metric in more for end in ENDS]
    return pandas.DataFrame(rows, columns=columns, dtype=object)  # whole numbers stay whole


def make_table(name: str, records: dict[Key, dict[str, Any]], spec: dict[str, Any]) -> Table:
    """Table `name`: methods down, dataset and scale across, published values below ours."""
    datasets = {key: spec["datasets"].get(key) or key for key in spec["tables"][name]}
    headings = {(key, s): f"{text} {s}x" for key, text in datasets.items() for s in spec["scales"]}
    shown = {key: record for key, record in records.items() if key[:2] in headings}
    means = {key: {m: record[m]["mean"] for m in METRICS} for key, record in shown.items()}
    explained = {(a["dataset"], a["scale"], a["method"]) for a in spec.get("absent", [])}
    digits = {metric: decimals for metric, (_, decimals) in METRICS.items()}
    lines: list[dict[str, str]] = []
    missing: dict[str, list[str]] = {}
    for method in spec["methods"] if datasets else ():
        keys = [(*column, method["key"]) for column in headings]
        gaps = [headings[k[:2]] for k in keys if k not in shown and k not in explained]
        if gaps:
            what = ", ".join(gaps) if len(gaps) < len(keys) else ""
            missing.setdefault(what, []).append(label(method))
        labels = {"method": method["key"], "label": label(method)}
        labels["kind"] = method.get("kind") or "baseline"
        ours, theirs = _cells(keys, means, digits), _cells(keys, paper(), DECIMALS)
        if ours or theirs:
            size = _size([shown[key] for key in keys if key in shown])
            lines.append({**labels, "source": "measured", **size, **ours})
        if theirs:
            lines.append({**labels, "source": "paper", "parameters": "", "reduced": "", **theirs})
    columns = ["method", "label", "kind", "source", "parameters", "reduced"]
    columns += [f"{dataset}_x{scale}_{metric}" for dataset, scale in headings for metric in METRICS]
    title = (
        f"Super-resolution of {words(datasets.values())}, experiment '{spec['experiment']}': "
        "PSNR (dB) / SSIM / NMSE."
    )
    if not datasets:
        title = f"No dataset of {name} is in experiment '{spec['experiment']}'."
    table = Table(name, title, headings, pandas.DataFrame(lines, columns=columns, dtype="str"))
    if datasets:
        table.caption = caption(shown, table, datasets)
        table.notes = notes(shown, table, missing, spec)
    return table


def _cells(
    keys: list[Key], numbers: dict[Key, dict[str, Any]], digits: dict[str, int]
) -> dict[str, str]:
    """A method's numbers as text, by the column of `Table.cells`."""
    return {
        f"{key[0]}_x{key[1]}_{metric}": f"{numbers[key][metric]:.{decimals}f}"
        for key in keys
        if key in numbers
        for metric, decimals in digits.items()
    }


def _size(records: list[dict[str, Any]]) -> dict[str, str]:
    """A method's parameters, and the full number if its network is reduced; over all scales."""
    counts = dict.fromkeys(record.get("parameters") for record in records)
    full = dict.fromkeys(r["full_parameters"] for r in records if reduced(r))
    return {
        "parameters": "/".join(millions(count) for count in counts if count is not None),
        "reduced": f"of {'/'.join(map(millions, full))}" if full else "no" if counts else "",
    }


def millions(count: int) -> str:
    """'1.38 M', with three significant digits: '0.0081 M', '22.1 M'."""
    return f"{float(f'{count / 1e6:.3g}'):.10g} M"


def print_table(out: Path) -> None:
    """Print the Markdown tables of folder `out`, rendered if the output is a terminal.

    Raises:
        UserError: there are no tables in `out`.
    """
    from rich.console import Console
    from rich.markdown import Markdown

    files = sorted(Path(out).glob("table*.md"))
    if not files:
        raise UserError(f"no tables in {out}; run the pipeline first")
    console = Console()
    for file in files:
        text = file.read_text(encoding="utf-8")
        if console.is_terminal:
            console.print(Markdown(text), end="\n\n")
        else:
            print(text)
