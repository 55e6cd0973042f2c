"""What stands around a table: how the numbers were made, and why a number is missing or odd."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mrsr.errors import UserError
from mrsr.printed import paper
from mrsr.table_formats import Table

FEW = 6  # under this many subjects there is no interval
Key = tuple[str, int, str]  # dataset, scale, method


def caption(shown: dict[Key, dict[str, Any]], table: Table, names: dict[str, str]) -> list[str]:
    """How the numbers of a table were made; refuses what cannot stand in one table."""
    from mrsr.metrics import describe, preset  # scipy: only where a caption is written

    presets = {json.dumps(r["preset"], sort_keys=True): r["preset"] for r in shown.values()}
    if len(presets) > 1:
        found = ", ".join(sorted({str(p.get("name")) for p in presets.values()}))
        raise UserError(
            f"{table.name} mixes metric presets ({found}); evaluate all its cells with one preset"
        )
    lines = [describe(preset(value)) for value in presets.values()]
    lines += _effort(shown, {row.key: row.label for row in table.rows})
    for dataset in dict.fromkeys(dataset for dataset, _ in table.columns):
        found = [record for key, record in shown.items() if key[0] == dataset]
        if len({json.dumps(record.get("subjects")) for record in found}) > 1:
            raise UserError(
                f"{table.name}: test subjects of {dataset} differ between metrics files; "
                "evaluate all methods on the same slices"
            )
        for record in found[:1]:
            n, label = record["n_subjects"], names.get(dataset) or dataset
            few = "; n too small for intervals and tests" if n < FEW else ""
            lines.append(f"{label}: n = {n} test subjects, {record['n_slices']} slices{few}.")
    if any(dataset.startswith("phantom") for dataset, _ in table.columns):
        lines.append("All subjects of a phantom share one template: they differ less than people.")
    lines.append("Best measured value of each column in bold; intervals stand in results.csv.")
    if any(row.source == "paper" for row in table.rows):
        lines.append(
            "Rows 'paper': as printed there, on its own split and with metrics it does not define."
        )
    return lines


def _effort(shown: dict[Key, dict[str, Any]], labels: dict[str, str]) -> list[str]:
    """How long each group of methods was trained, and whether a column is an equal comparison."""
    groups: dict[tuple[str, str, int, int], list[str]] = {}
    columns: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for key, record in shown.items():
        if record.get("steps"):
            steps, patches = record["steps"], record.get("patches") or 0
            own = " of each test volume alone" if record.get("type") == "self" else ""
            recipe = " by published recipes" if record.get("recipe") == "published" else ""
            groups.setdefault((own, recipe, steps, patches), []).append(labels[key[2]])
            if not own:
                columns.setdefault(key[:2], set()).add((steps, patches))
    lines = [
        f"Trained for {steps:,} steps on {patches:,} patches{own}{recipe}: "
        f"{words(dict.fromkeys(methods))}."
        for (own, recipe, steps, patches), methods in groups.items()
    ]
    if any(len(efforts) > 1 for efforts in columns.values()):
        lines.append("Steps or patches differ between methods of one column: compare with care.")
    return lines


def notes(
    shown: dict[Key, dict[str, Any]],
    table: Table,
    missing: dict[str, list[str]],
    spec: dict[str, Any],
) -> list[str]:
    """Dashes with their reason, what a metrics file itself remarks, the paper's misprints."""
    found = [
        f"Not measured in this experiment{f' ({what})' if what else ''}: {words(methods)}."
        for what, methods in missing.items()
    ]
    found += _absent(table, spec)
    by_key = {method["key"]: label(method) for method in spec["methods"]}
    for key, record in shown.items():
        where = (
            f"{by_key.get(key[2], key[2])} on {spec['datasets'].get(key[0]) or key[0]} {key[1]}x"
        )
        if record.get("left_out"):
            found.append(f"{where}: {record['left_out']}.")
        full = record.get("full_parameters")
        if full is not None and full != record.get("parameters"):
            options = record.get("model", {}).get("options", {})
            found.append(
                f"{by_key.get(key[2], key[2])}: reduced to "
                f"{', '.join(f'{name} {value}' for name, value in options.items())}."
            )
        if record.get("acceleration", 1) > 1:
            found.append(f"{where}: LR input undersampled {record['acceleration']}x in k-space.")
        if record.get("guide"):
            found.append(f"{where}: {_guide(record['guide'], spec)}.")
    labels = {row.key: row.label for row in table.rows if row.source == "paper"}
    columns = zip(table.columns, table.headings, strict=True)
    datasets = {dataset: h.rpartition(" ")[0] for (dataset, _), h in columns}
    for (dataset, _, method), numbers in paper().items():
        if numbers["note"] and method in labels and dataset in datasets:
            found.append(f"Paper, {labels[method]}, {datasets[dataset]}: {numbers['note']}.")
    return list(dict.fromkeys(found))


def _absent(table: Table, spec: dict[str, Any]) -> list[str]:
    """Cells that cannot be: which methods, where, and why."""
    names = {method["key"]: label(method) for method in spec["methods"]}
    headings = dict(zip(table.columns, table.headings, strict=True))
    by_reason: dict[tuple[str, str], list[str]] = {}
    for cell in spec.get("absent", []):
        heading = headings.get((cell["dataset"], cell["scale"]))
        if heading:
            by_reason.setdefault((heading, cell["reason"]), []).append(names[cell["method"]])
    return [f"{words(who)} on {where}: {why}." for (where, why), who in by_reason.items()]


def _guide(guide: dict[str, Any], spec: dict[str, Any]) -> str:
    """Which guide, how it came onto the grid, how far off it lies, which scans have none."""
    how = "resampled by the scans' positions" if guide["resampled"] else "on the same grid"
    off = guide["residual_mm"]
    text = (
        f"guide {spec['datasets'].get(guide['dataset']) or guide['dataset']}, {how}, edges "
        f"{off['median']:.2f} mm off in the plane (median of the test scans; largest "
        f"{off['largest']:.2f} mm)"
    )
    alone = guide.get("without_guide", {}).get("train", [])
    return text + (f"; {words(alone)} has no guide and is not learned from" if alone else "")


def label(method: dict[str, Any]) -> str:
    """'RDN [192]': the row's name and where the paper cites it."""
    name = method.get("label") or method["key"]
    citation = str(method.get("citation") or "").strip("[]")
    return f"{name} [{citation}]" if citation and f"[{citation}]" not in name else name


def words(items: Iterable[str]) -> str:
    """'a, b and c', each once."""
    *most, last = dict.fromkeys(items) or [""]
    return f"{', '.join(most)} and {last}" if most else last
