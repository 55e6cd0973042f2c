"""Metrics files -> the long table and the paper's Tables 1 and 2 (section 4).

Every metrics JSON carries its own labels; no path is parsed. The printed numbers of the paper stand
in `paper.csv` beside this file, with notes on its misprints, and appear under the measured ones.

By hand: python -m mrsr.tables --settings @settings.json --out results/demo/tables METRICS.json ...
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.printed import DECIMALS, paper
from mrsr.settings import plain
from mrsr.table_formats import METRICS, Cell, Row, Table, csv_text, to_csv, to_latex, to_markdown
from mrsr.table_notes import FEW, Key, caption, label, notes, words

COLUMNS = [
    *("dataset", "scale", "method", "label"),
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")),
    *("n", "slices", "interval", "type", "recipe", "steps", "patches"),
    *("parameters", "full_parameters", "reduced", "seconds_per_slice", "preset"),
    *("paper_psnr", "paper_ssim", "paper_nmse", "paper_note"),
]


def write_tables(
    metrics: Iterable[Path | str | dict[str, Any]],
    settings: Any,
    out: Path,
    summary_file: Path | None = None,
) -> list[Path]:
    """Write results.csv and each of `settings.tables` as CSV, LaTeX and Markdown.

    Args:
        metrics: metrics JSON files of `mrsr.evaluate`, or their contents; the order is irrelevant.
        settings: experiment, tables {name: [dataset]}, datasets {name: label}, scales,
            methods [{key, label, citation, kind}] in the order of the rows.
        out: folder of the tables.
        summary_file: where the nested means for `dvc metrics show` go, if they are wanted.

    Returns:
        The paths written. The bytes depend on the arguments alone.

    Raises:
        UserError: a file is no metrics file, two have the same labels, or what stands in one
            column or table cannot be compared (presets or test subjects differ).
    """
    spec = _spec(settings)
    records = _by_labels(metrics, spec)
    rows = results_rows(records, spec)
    check_results(rows)
    out = Path(out)
    files = {out / "results.csv": csv_text(COLUMNS, rows)}
    if summary_file is not None:
        files[Path(summary_file)] = json.dumps(summary(rows), indent=2) + "\n"
    for name in sorted(spec["tables"]):
        table = make_table(name, records, spec)
        files[out / f"{name}.csv"] = to_csv(table)
        files[out / f"{name}.tex"] = to_latex(table)
        files[out / f"{name}.md"] = to_markdown(table)
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def read_record(source: Path | str | dict[str, Any]) -> dict[str, Any]:
    """A metrics record, checked.

    Raises:
        UserError: the file cannot be read or lacks what a metrics file has.
    """
    where = source.get("method", "a record") if isinstance(source, dict) else source
    if not isinstance(source, dict):
        try:
            source = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {where}: {error.strerror}; run the evaluation") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(f"{where} is not JSON; delete it and evaluate again") from None
    wanted = {
        **dict.fromkeys(("experiment", "dataset", "method"), str),
        **dict.fromkeys(("scale", "n_subjects", "n_slices"), int),
        **dict.fromkeys((*METRICS, "preset"), dict),
    }
    for key, kind in wanted.items():
        if not isinstance(source, dict) or not isinstance(source.get(key), kind):
            raise UserError(f"{where} is not a metrics file: no {key}; evaluate again")
    for metric in METRICS:
        values = [source[metric].get(end) for end in ("mean", "low", "high")]
        if not _number(values[0]) or not all(v is None or _number(v) for v in values[1:]):
            raise UserError(f"{where}: {metric} is not finite; evaluate again")
    return source


def read_metrics(files: Iterable[Path | str]) -> list[dict[str, Any]]:
    """Metrics files as records, checked.

    Raises:
        UserError: a file is no metrics file, or two measure the same and are named.
    """
    found: dict[Any, Path | str] = {}
    records = []
    for file in files:
        record = read_record(file)
        key = tuple(record[name] for name in ("experiment", "dataset", "scale", "method"))
        if key in found:
            _refuse_equal(record, str(file), str(found[key]))
        found[key] = file
        records.append(record)
    return records


def results_rows(records: dict[Key, dict[str, Any]], spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The long table: a row per measured (dataset, scale, method), columns `COLUMNS`."""
    labels = {method["key"]: label(method) for method in spec["methods"]}
    rows = []
    for key, record in records.items():
        printed = paper().get(key, {})
        row: dict[str, Any] = dict(zip(("dataset", "scale", "method"), key, strict=True))
        row["label"] = labels[key[2]]
        for metric in METRICS:
            row[metric] = round(record[metric]["mean"], 6)
            for end in ("low", "high"):
                value = record[metric].get(end)
                row[f"{metric}_{end}"] = None if value is None else round(value, 6)
            row[f"paper_{metric}"] = printed.get(metric)
        few = record["n_subjects"] < FEW or row["psnr_low"] is None
        row["interval"] = "n too small" if few else "95 % bootstrap over subjects"
        row |= {"n": record["n_subjects"], "slices": record["n_slices"]}
        row |= {"preset": record["preset"].get("name"), "paper_note": printed.get("note")}
        row |= {"type": record.get("type", "single"), "recipe": record.get("recipe", "common")}
        for name in ("steps", "patches", "parameters", "full_parameters", "seconds_per_slice"):
            row[name] = record.get(name)
        row["reduced"] = "yes" if _reduced(record) else "no"
        rows.append(row)
    return rows


def check_results(rows: list[dict[str, Any]]) -> None:
    """Hold the long table against its schema: types, ranges, unique labels.

    Raises:
        UserError: names the first column and value that cannot be.
    """
    import pandas  # half a second, and pandera as much: only here
    import pandera.pandas as pa

    def real(low: float, high: float = math.inf, nullable: bool = True) -> Any:
        return pa.Column(float, pa.Check.in_range(low, high), nullable=nullable, coerce=True)

    words = pa.Column(str, pa.Check.str_length(min_value=1))
    columns: dict[str, Any] = {"dataset": words, "method": words}
    columns |= {"scale": pa.Column(int, pa.Check.isin([2, 3, 4, 8]), coerce=True)}
    columns |= {name: pa.Column(int, pa.Check.ge(1), coerce=True) for name in ("n", "slices")}
    for metric, low, high in (("psnr", -1000, 1000), ("ssim", -1, 1), ("nmse", 0, math.inf)):
        columns[metric] = real(low, high, nullable=False)
        columns |= {f"{metric}_{end}": real(low, high) for end in ("low", "high")}
    names = ("steps", "patches", "parameters", "full_parameters", "seconds_per_slice")
    columns |= {name: real(0) for name in names}
    schema = pa.DataFrameSchema(columns, unique=["dataset", "scale", "method"])
    if not rows:
        return
    try:
        schema.validate(pandas.DataFrame(rows, columns=COLUMNS))
    except pa.errors.SchemaError as error:
        raise UserError(f"results.csv would be wrong: {error}; evaluate again") from None


def make_table(name: str, records: dict[Key, dict[str, Any]], spec: dict[str, Any]) -> Table:
    """Table `name`: methods down, dataset and scale across, the paper's numbers beneath ours."""
    datasets, names = spec["tables"][name], spec["datasets"]
    columns = [(dataset, scale) for dataset in datasets for scale in spec["scales"]]
    shown = {key: record for key, record in records.items() if key[:2] in set(columns)}
    table = Table(
        name,
        f"Super-resolution of {words(names.get(d) or d for d in datasets)}, "
        f"experiment '{spec['experiment']}': PSNR (dB) / SSIM / NMSE.",
        columns,
        [f"{names.get(dataset) or dataset} {scale}x" for dataset, scale in columns],
    )
    if not datasets:
        table.title = f"No dataset of {name} is in experiment '{spec['experiment']}'."
        return table

    best = {}
    for column in columns:
        for metric, (choose, digits) in METRICS.items():
            values = [round(r[metric]["mean"], digits) for k, r in shown.items() if k[:2] == column]
            # as printed: two cells that read the same are both best
            best[column, metric] = choose(values) if values else None
    missing: dict[str, list[str]] = {}
    reasons = {(a["dataset"], a["scale"], a["method"]) for a in spec.get("absent", [])}
    for method in spec["methods"]:
        keys = [(*column, method["key"]) for column in columns]
        ours = [_measured(shown.get(key)) for key in keys]
        theirs = [_printed(paper().get(key)) for key in keys]
        gaps = [
            heading
            for heading, key, cell in zip(table.headings, keys, ours, strict=True)
            if cell is None and key not in reasons
        ]
        if gaps:
            what = ", ".join(gaps) if len(gaps) < len(columns) else ""
            missing.setdefault(what, []).append(label(method))
        labels = (method["key"], label(method), method.get("kind") or "baseline")
        own = [shown[key] for key in keys if key in shown]
        bold = [
            {m for m in METRICS if cell and round(cell[m][0], METRICS[m][1]) == best[column, m]}
            for column, cell in zip(columns, ours, strict=True)
        ]
        if any(ours) or any(theirs):
            size = _sizes(own)
            table.rows.append(Row(*labels, "measured", ours, bold, *size))
        if any(theirs):
            table.rows.append(Row(*labels, "paper", theirs, [set()] * len(columns)))
    table.caption = caption(shown, table, names)
    table.notes = notes(shown, table, missing, spec)
    return table


def _reduced(record: dict[str, Any]) -> bool:
    """Whether a network was measured at another width than its entry in params.yaml has."""
    full = record.get("full_parameters")
    return full is not None and full != record.get("parameters")


def _sizes(records: list[dict[str, Any]]) -> tuple[str, str]:
    """A row's parameters, and of how many where its network is a reduced one; over all scales."""
    counts = dict.fromkeys(record.get("parameters") for record in records)
    full = dict.fromkeys(r.get("full_parameters") for r in records if _reduced(r))
    return (
        "/".join(millions(count) for count in counts if count is not None),
        f"of {'/'.join(millions(count) for count in full)}" if full else "no" if counts else "",
    )


def millions(count: int) -> str:
    """'1.38 M', with three digits that matter: '0.0081 M', '22.1 M'."""
    return f"{float(f'{count / 1e6:.3g}'):.10g} M"


def _by_labels(
    metrics: Iterable[Path | str | dict[str, Any]], spec: dict[str, Any]
) -> dict[Key, dict[str, Any]]:
    """Records by their labels, in the order of the long table: dataset, scale, method."""
    methods = [method["key"] for method in spec["methods"]]
    datasets = list(dict.fromkeys([*(d for t in spec["tables"].values() for d in t)]))
    datasets += [name for name in spec["datasets"] if name not in datasets]
    found: dict[Key, tuple[dict[str, Any], str]] = {}
    ignored = 0
    for source in metrics:
        record = read_record(source)
        where = "a tracked run" if isinstance(source, dict) else str(source)
        key = (record["dataset"], record["scale"], record["method"])
        if record["experiment"] != spec["experiment"]:
            raise UserError(
                f"{where} is of experiment '{record['experiment']}', not '{spec['experiment']}'; "
                "give one experiment's metrics files"
            )
        if key[0] not in datasets or key[1] not in spec["scales"] or key[2] not in methods:
            ignored += 1
            continue
        if key in found:
            _refuse_equal(record, where, found[key][1])
        found[key] = (record, where)
    if ignored:
        print(
            f"mrsr: note: {ignored} measurements are not of the settings; left out", file=sys.stderr
        )
    order = sorted(found, key=lambda k: (datasets.index(k[0]), k[1], methods.index(k[2])))
    return {key: found[key][0] for key in order}


def _refuse_equal(record: dict[str, Any], one: str, other: str) -> NoReturn:
    raise UserError(
        f"{one} and {other} both measure {record['method']} on {record['dataset']} at "
        f"{record['scale']}x; give one of them"
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """dataset -> scale -> method -> metrics, for `dvc metrics show`."""
    tree: dict[str, Any] = {}
    for row in rows:
        column = tree.setdefault(row["dataset"], {}).setdefault(f"x{row['scale']}", {})
        column[row["method"]] = {metric: row[metric] for metric in METRICS}
    return tree


def _measured(record: dict[str, Any] | None) -> Cell | None:
    return record and {m: (record[m]["mean"], digits) for m, (_, digits) in METRICS.items()}


def _printed(numbers: dict[str, Any] | None) -> Cell | None:
    return numbers and {metric: (numbers[metric], DECIMALS[metric]) for metric in METRICS}


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _spec(settings: Any) -> dict[str, Any]:
    """The settings as a plain dictionary, from a namespace, a dictionary or a model."""
    spec = settings.model_dump() if hasattr(settings, "model_dump") else plain(settings)
    names = spec.get("datasets") or {}
    return {**spec, "datasets": names if isinstance(names, dict) else {n: n for n in names}}


def print_table(out: Path) -> None:
    """Print the Markdown tables of folder `out`: drawn on a terminal, as they are elsewhere.

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
            console.print(Markdown(text))
            console.print()
        else:
            print(text)
