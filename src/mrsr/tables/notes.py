"""Captions and notes of a table: how the numbers were made, why one is missing or odd."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mrsr.errors import UserError
from mrsr.params.jobs import Preset
from mrsr.params.typed import build
from mrsr.tables.formats import Table
from mrsr.tables.published import paper

Key = tuple[str, int, str]  # dataset, scale, method


def caption(shown: dict[Key, dict[str, Any]], table: Table, datasets: dict[str, str]) -> list[str]:
    """How the numbers of a table were made; refuses numbers that cannot be in one table.

    datasets: key -> label, those of the table.

    Raises:
        UserError: metric presets differ, or the test subjects of one dataset.
    """
    from mrsr.metrics.definitions import describe  # scipy: only where a caption is written

    presets = {json.dumps(r["preset"], sort_keys=True): r["preset"] for r in shown.values()}
    if len(presets) > 1:
        given = ", ".join(sorted({str(p.get("name")) for p in presets.values()}))
        raise UserError(
            f"{table.name} mixes metric presets ({given}); evaluate all methods with one preset"
        )
    lines = [describe(build(Preset, value, strict=False)) for value in presets.values()]
    lines += _effort(shown, dict(zip(table.cells["method"], table.cells["label"], strict=True)))
    for dataset, name in datasets.items():
        found = [record for key, record in shown.items() if key[0] == dataset]
        if len({json.dumps(record.get("subjects")) for record in found}) > 1:
            raise UserError(
                f"{table.name}: test subjects of {dataset} differ between metrics files; "
                "evaluate all methods on the same slices"
            )
        for record in found[:1]:
            few = record["psnr"].get("low") is None
            lines.append(
                f"{name}: n = {record['n_subjects']} test subjects, {record['n_slices']} slices"
                f"{'; n too small for intervals and tests' if few else ''}."
            )
            lines += _repeats(name, record)
    if any(dataset.startswith("phantom") for dataset in datasets):
        lines.append("All subjects of a phantom share one template: they differ less than people.")
    lines.append("Best measured value of each column in bold; intervals are in results.csv.")
    if "paper" in set(table.cells["source"]):
        lines.append(
            "Rows 'paper': as published, on the paper's own split and with metrics that it does "
            "not define."
        )
    return lines


def _repeats(name: str, record: dict[str, Any]) -> list[str]:
    """How often each method was trained, where that is more than once."""
    folds, seeds = record.get("folds", 1), record.get("seeds", 1)
    parts = [f"{folds} folds, each testing subjects that it did not train on"] * (folds > 1)
    parts += [f"{seeds} seeds, averaged within a subject"] * (seeds > 1)
    return [f"{name}: {words(parts)}."] if parts else []


def _effort(shown: dict[Key, dict[str, Any]], labels: dict[str, str]) -> list[str]:
    """How long each group of methods was trained, and whether columns are equal comparisons."""
    groups: dict[str, dict[str, None]] = {}
    columns: dict[tuple[str, int], set[tuple[int, int]]] = {}
    for key, record in shown.items():
        if not record.get("steps"):
            continue
        steps, patches = record["steps"], record.get("patches") or 0
        alone = record.get("type") == "self"
        recipe = " by published recipes" if record.get("recipe") == "published" else ""
        where = " of each test volume alone" if alone else ""
        effort = f"Trained for {steps:,} steps on {patches:,} patches{where}{recipe}"
        groups.setdefault(effort, {})[labels[key[2]]] = None
        if not alone:
            columns.setdefault(key[:2], set()).add((steps, patches))
    lines = [f"{effort}: {words(methods)}." for effort, methods in groups.items()]
    if any(len(efforts) > 1 for efforts in columns.values()):
        lines.append("Steps or patches differ between methods of one column: compare with care.")
    return lines


def notes(
    shown: dict[Key, dict[str, Any]],
    table: Table,
    missing: dict[str, list[str]],
    spec: dict[str, Any],
) -> list[str]:
    """Reasons of dashes, remarks of metrics files, and the paper's misprints."""
    found = [
        f"Not measured in this experiment{f' ({what})' if what else ''}: {words(methods)}."
        for what, methods in missing.items()
    ]
    names = {method["key"]: label(method) for method in spec["methods"]}
    reasons: dict[tuple[str, str], list[str]] = {}
    for cell in spec.get("absent", []):
        if heading := table.headings.get((cell["dataset"], cell["scale"])):
            reasons.setdefault((heading, cell["reason"]), []).append(names[cell["method"]])
    found += [f"{words(who)} on {where}: {why}." for (where, why), who in reasons.items()]
    for key, record in shown.items():
        name = names[key[2]]
        where = f"{name} on {table.headings[key[:2]]}"
        if record.get("left_out"):
            found.append(f"{where}: {record['left_out']}.")
        found += [f"{where}: {remark}." for remark in record.get("warnings", [])]
        if by_seed := record.get("psnr_by_seed"):
            each = ", ".join(f"{psnr:.2f}" for psnr in by_seed.values())
            found.append(f"{where}: {each} dB with seeds {words(map(str, by_seed))}.")
        if reduced(record):
            options = record.get("model", {}).get("options", {})
            own = [f"{k} {v}" for k, v in options.items() if not isinstance(v, dict)]
            found.append(f"{name}: reduced to {', '.join(own)}.")
        if fixed := record.get("frozen_parameters"):
            found.append(f"{name}: {fixed / 1e6:.3g} M frozen weights besides its parameters.")
        if changed := _weights(record):
            found.append(f"{name}: trained with other loss weights than its own: {changed}.")
        if record.get("acceleration", 1) > 1:
            found.append(f"{where}: LR input undersampled {record['acceleration']}x in k-space.")
        if record.get("guide"):
            found.append(f"{where}: {_guide(record['guide'], spec['datasets'])}.")
    labels = dict(zip(table.cells["method"], table.cells["label"], strict=True))
    for (dataset, scale, method), numbers in paper().items():
        heading = table.headings.get((dataset, scale))
        if numbers["note"] and heading and method in labels:
            name = heading.rpartition(" ")[0]  # without the scale
            found.append(f"Paper, {labels[method]}, {name}: {numbers['note']}.")
    return list(dict.fromkeys(found))


def _weights(record: dict[str, Any]) -> str:
    """The loss weights that acted and differ from the method's own: 'texture 0.8, not 0.9'."""
    acted, own = record.get("losses") or {}, record.get("own_losses") or {}
    if not acted or not own:
        return ""
    return ", ".join(
        f"{name} {acted.get(name, 0):g}, not {own.get(name, 0):g}"
        for name in dict.fromkeys((*own, *acted))
        if acted.get(name, 0) != own.get(name, 0)
    )


def reduced(record: Mapping[str, Any]) -> bool:
    """Whether a network was measured at another width than in params.yaml."""
    full = record.get("full_parameters")
    return full is not None and full != record.get("parameters")


def _guide(guide: dict[str, Any], datasets: dict[str, str]) -> str:
    """Which guide, how it was put onto the grid, its shift, and scans without one."""
    how = "resampled by the scans' positions" if guide["resampled"] else "on the same grid"
    off = guide["residual_mm"]
    text = (
        f"guide {datasets.get(guide['dataset']) or guide['dataset']}, {how}, edges "
        f"{off['median']:.2f} mm off in the plane (median of the test scans; largest "
        f"{off['largest']:.2f} mm)"
    )
    alone = guide.get("without_guide", {}).get("train", [])
    return text + (f"; not trained on {words(alone)}: no guide" if alone else "")


def label(method: dict[str, Any]) -> str:
    """'RDN [192]': the method's name and where the paper cites it."""
    name = method.get("label") or method["key"]
    citation = str(method.get("citation") or "").strip("[]")
    return f"{name} [{citation}]" if citation and f"[{citation}]" not in name else name


def words(items: Iterable[str]) -> str:
    """'a, b and c', each once."""
    *most, last = dict.fromkeys(items) or [""]
    return f"{', '.join(most)} and {last}" if most else last
