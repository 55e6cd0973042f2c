"""The measured cells as the page's tables: one per dataset and scale, the best marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mrsr.params.jobs import Column, Tables
from mrsr.tables import comparison
from mrsr.tables.formats import METRICS
from mrsr.tables.notes import label, reduced
from mrsr.tables.published import DECIMALS, paper
from mrsr.tables.tables import millions

Records = Mapping[tuple[str, int, str], Mapping[str, Any]]
KINDS = {"ablation": "ablation", "control": "control", "added": "added here"}


def tables(records: Records, settings: Tables, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Title, rows and remarks of each table; `records` by dataset, scale, method."""
    return [_table(records, settings, column) for column in columns]


def _table(records: Records, settings: Tables, column: Column) -> dict[str, Any]:
    names = {method.key: method for method in settings.methods}
    found = {
        key: records[column.name, column.scale, key]
        for key in names
        if (column.name, column.scale, key) in records
    }
    tests = _tests(list(found.values()))
    best = {
        metric: {"max": max, "min": min}[which](
            round(record[metric]["mean"], digits) for record in found.values()
        )
        for metric, (which, digits) in METRICS.items()
    }
    rows: list[dict[str, Any]] = []
    for key, record in found.items():
        published = paper().get((column.name, column.scale, key), {})
        rows.append(
            {
                "method": key,
                "label": label({"key": key, "label": names[key].label,
                                "citation": names[key].citation}),
                "kind": KINDS.get(str(names[key].kind), ""),
                "metrics": {
                    metric: _metric(record[metric], digits, best[metric])
                    for metric, (_, digits) in METRICS.items()
                },
                "test": tests.get(str(record.get("label") or key)),
                "parameters": record.get("parameters") or 0,
                "size": millions(record.get("parameters") or 0),
                "full": millions(record["full_parameters"]) if reduced(record) else "",
                "seconds": record.get("seconds_per_slice"),
                "steps": record.get("steps"),
                "paper": {
                    metric: {"value": published[metric], "text": f"{published[metric]:.{digits}f}"}
                    if published.get(metric) not in (None, "")
                    else None
                    for metric, digits in DECIMALS.items()
                },
                "note": published.get("note") or "",
            }
        )  # fmt: skip
    absent = [
        f"{names[one.method].label or one.method}: {one.reason}"
        for one in settings.absent
        if (one.dataset, one.scale) == (column.name, column.scale) and one.method in names
    ]
    return {
        "title": f"{column.label}, {column.scale}x",
        "id": f"{column.name}_{column.scale}x",
        "rows": rows,
        "absent": absent,
        "published": any(any(row["paper"].values()) for row in rows),
        "reference": _reference(list(found.values())),
        "few": any(record["psnr"].get("low") is None for record in found.values()),
        "subjects": max((record["n_subjects"] for record in found.values()), default=0),
        "slices": max((record["n_slices"] for record in found.values()), default=0),
    }


def _metric(value: Mapping[str, Any], digits: int, best: float) -> dict[str, Any]:
    low, high = value.get("low"), value.get("high")
    return {
        "value": value["mean"],
        "text": f"{value['mean']:.{digits}f}",
        "interval": "" if low is None else f"{low:.{digits}f} to {high:.{digits}f}",
        "best": round(value["mean"], digits) == best,
    }


def _reference(records: Sequence[Mapping[str, Any]]) -> str:
    """What the differences are against: `proposed`, or else the best row."""
    chosen = [record for record in records if record["method"] == "proposed"]
    chosen = chosen or [max(records, key=lambda record: record["psnr"]["mean"])]
    return str(chosen[0].get("label") or chosen[0]["method"])


def _tests(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Label -> PSNR minus that of the reference: difference, interval, corrected p."""
    name = _reference(records)
    found = comparison.differences(records).to_dict("records")
    return {
        str(line["method"]): {
            "value": line["difference"],
            "text": f"{line['difference']:+.2f}",
            "interval": "" if line["low"] is None else f"{line['low']:+.2f} to {line['high']:+.2f}",
            "p": "" if line["p_holm"] is None else f"{line['p_holm']:.3g}",
        }
        for line in found
        if line["metric"] == "psnr" and line["reference"] == name
    }
