"""Whether two methods differ: paired differences over test subjects, intervals and tests.

The unit is the subject, because slices and visits of one person are not independent. Each
comparison pairs the means of the same subjects, of the same dataset and scale.

- The interval is the 95 % percentile bootstrap of the mean difference, over subjects.
- The test is Wilcoxon's signed-rank test, two-sided, exact where there are no ties. Its p values
  are corrected by Holm's method within a family: all methods against one reference, on one dataset
  at one scale, by one metric.
- Under six subjects there is neither: five pairs cannot give p < 0.05. With six the smallest p is
  0.031, so that after Holm's correction only a family of one can be below 0.05; the interval says
  more there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from mrsr.errors import UserError
from mrsr.metrics.intervals import FEW, TOO_SMALL
from mrsr.tables.formats import METRICS
from mrsr.tables.pooling import pooled
from mrsr.tables.records import read_record

COLUMNS = [
    *("dataset", "scale", "metric", "method", "reference", "n", "difference", "low", "high"),
    *("better_in", "p", "p_holm", "note"),
]
SAMPLES = 10_000


def paired(differences: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean, 95 % bootstrap interval and Wilcoxon's p of paired differences, one per subject.

    Returns:
        n, difference, low, high, p and note; low, high and p are None if n < 6.
    """
    values = np.asarray(differences, dtype=np.float64)
    found: dict[str, Any] = {"n": len(values), "difference": float(values.mean())}
    if len(values) < FEW:
        return found | {"low": None, "high": None, "p": None, "note": TOO_SMALL}
    from scipy import stats  # seconds of imports: only where something is compared

    if np.ptp(values) == 0:  # no spread: each draw has the same mean
        low = high = found["difference"]
    else:
        interval = stats.bootstrap(
            (values,), np.mean, n_resamples=SAMPLES, method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = float(interval.low), float(interval.high)
    p = 1.0 if not values.any() else float(stats.wilcoxon(values).pvalue)
    return found | {"low": low, "high": high, "p": p, "note": ""}


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's corrected p values of one family; None stays None and does not count."""
    given = [p for p in p_values if p is not None]
    if not given:
        return [None] * len(p_values)
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(given, method="holm")[1])
    return [None if p is None else float(next(corrected)) for p in p_values]


def subjects(record: Mapping[str, Any], metric: str) -> dict[str, float]:
    """A metrics record's value of each test subject."""
    return {name: float(values[metric]) for name, values in record["per_subject"].items()}


def against(
    records: Iterable[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each record minus each reference, by metric; a reference is not compared with itself.

    records and references: metrics records of one dataset at one scale.

    Raises:
        UserError: they were measured on different subjects.
    """
    records, lines = list(records), []
    for reference in references:
        others = [r for r in records if _name(r) != _name(reference)]
        for metric, (best, _) in METRICS.items():
            base, family = subjects(reference, metric), []
            for record in others:
                own = subjects(record, metric)
                if set(own) != set(base):
                    only = ", ".join(sorted(set(own) ^ set(base))[:3])
                    raise UserError(
                        f"{_name(record)} and {_name(reference)} have different test subjects "
                        f"({only}); evaluate both on the same slices"
                    )
                each = [own[subject] - base[subject] for subject in sorted(own)]
                better = sum(value > 0 if best == "max" else value < 0 for value in each)
                family.append(
                    {"dataset": record["dataset"], "scale": record["scale"], "metric": metric}
                    | {"method": _name(record), "reference": _name(reference)}
                    | paired(each)
                    | {"better_in": f"{better} of {len(each)}"}
                )
            for line, p in zip(family, holm([line["p"] for line in family]), strict=True):
                lines.append(line | {"p_holm": p})
    return lines


def differences(records: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Every method against `proposed` and against the best of its column, by PSNR.

    records: of one experiment. Columns `COLUMNS`; `proposed` may be absent, and may be the best.
    """
    columns: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        columns.setdefault((record["dataset"], record["scale"]), []).append(record)
    lines: list[dict[str, Any]] = []
    for column in columns.values():
        best = max(column, key=lambda record: record["psnr"]["mean"])
        proposed = [record for record in column if record["method"] == "proposed"]
        lines += against(column, [*proposed, *([] if best in proposed else [best])])
    return pandas.DataFrame(lines, columns=COLUMNS, dtype=object)


def compare(first: str, second: str, uri: str | None = None) -> pandas.DataFrame:
    """`mrsr compare A B`: A minus B, for all that both have in common.

    A and B are metrics files, experiments (names below results/, or folders), or MLflow runs
    (`runs:/<id>`). Of two experiments each dataset, scale and method is compared with itself.

    Raises:
        UserError: one of them cannot be read, or they have nothing in common.
    """
    ones, others = _records(first, uri), _records(second, uri)
    lines: list[dict[str, Any]] = []
    if len(ones) == len(others) == 1:
        pairs = [(ones[0], others[0])]
        if (ones[0]["dataset"], ones[0]["scale"]) != (others[0]["dataset"], others[0]["scale"]):
            raise UserError(
                f"{first} and {second} are of different datasets or scales; compare two methods "
                "on the same test slices"
            )
    else:
        named = {(r["dataset"], r["scale"], r["method"]): r for r in others}
        found = [(r, named.get((r["dataset"], r["scale"], r["method"]))) for r in ones]
        pairs = [(one, other) for one, other in found if other is not None]
        if not pairs:
            raise UserError(f"{first} and {second} have no dataset, scale and method in common")
    for one, other in pairs:
        names = _name(one), _name(other)
        if names[0] == names[1]:
            names = f"{names[0]} ({one['experiment']})", f"{names[1]} ({other['experiment']})"
            if names[0] == names[1]:
                names = f"{names[0]} (first)", f"{names[1]} (second)"
        lines += against([{**one, "label": names[0]}], [{**other, "label": names[1]}])
    return pandas.DataFrame(lines, columns=COLUMNS, dtype=object)


def _name(record: Mapping[str, Any]) -> str:
    return str(record.get("label") or record["method"])


def _records(given: str, uri: str | None) -> list[dict[str, Any]]:
    """The metrics records that a word of the command line means."""
    if given.startswith("runs:/"):
        from mrsr.tracking import reading

        return [reading.record_of_run(given.removeprefix("runs:/"), uri)]
    path = Path(given)
    if path.suffix == ".json":
        return [read_record(path)[0]]
    for folder in (path, Path("results") / given):
        files = sorted((folder / "metrics").rglob("*.json"))
        if files:
            return pooled(read_record(file)[0] for file in files)
    raise UserError(
        f"nothing to compare at {given}: expected a metrics file (.json), an experiment with "
        "results, or an MLflow run (runs:/<id>)"
    )


def to_text(frame: pandas.DataFrame) -> str:
    """The comparison as an aligned table for a terminal."""
    shown = frame.copy()
    shown["difference"] = [
        f"{value:+.{METRICS[metric][1]}f}"
        for value, metric in zip(shown["difference"], shown["metric"], strict=True)
    ]
    ends = zip(shown["low"], shown["high"], shown["metric"], strict=True)
    shown["interval"] = [
        "-" if low is None else f"{low:+.{METRICS[m][1]}f} to {high:+.{METRICS[m][1]}f}"
        for low, high, m in ends
    ]
    for column in ("p", "p_holm"):
        shown[column] = ["-" if p is None else f"{p:.3g}" for p in shown[column]]
    order = ["dataset", "scale", "method", "reference", "metric", "n", "difference", "interval"]
    shown = shown[[*order, "better_in", "p", "p_holm", "note"]]
    return str(shown.to_markdown(index=False, disable_numparse=True)) + "\n"
