"""Records of the repeats of a dataset (`folds`, `seeds`) -> one record, averaged within a subject.

A subject's value is the mean over the trainings that were tested on it; the mean and the interval
are over subjects, as in a record of one training. A record without repeats stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mrsr.params.repeats import origin
from mrsr.tables.formats import METRICS

Key = tuple[str, int, str]  # dataset, scale, method


def pooled(
    records: Iterable[Mapping[str, Any]], expected: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """One record for each dataset, scale and method, in the order of the first of each.

    expected: how many repeats a dataset should have; where some are missing the record says so in
    `warnings`.
    """
    groups: dict[Key, list[Mapping[str, Any]]] = {}
    for record in records:
        key = (origin(record["dataset"]).dataset, record["scale"], record["method"])
        groups.setdefault(key, []).append(record)
    found = []
    for (dataset, *_), group in groups.items():
        if len(group) == 1 and group[0]["dataset"] == dataset:
            found.append(dict(group[0]))
            continue
        whole = _together(group) | {"dataset": dataset}
        missing = (expected or {}).get(dataset, len(group)) - len(group)
        if missing > 0:
            text = f"{missing} of {missing + len(group)} repeats are not measured"
            whole["warnings"] = [text, *whole["warnings"]]
        found.append(whole)
    return found


def _together(group: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of one method over its repeats."""
    from mrsr.metrics.record import BOOTSTRAP, FEW, TOO_SMALL, bootstrap  # torch

    values: dict[str, list[Mapping[str, float]]] = {}
    slices: dict[str, int] = {}
    for record in group:
        for subject, own in record["per_subject"].items():
            values.setdefault(subject, []).append(own)
        # seeds test the same slices, folds test others
        slices[",".join(sorted(record["per_subject"]))] = record["n_slices"]
    names = (*METRICS, *group[0].get("more", ()))
    subjects = {
        subject: {name: float(np.mean([each[name] for each in own])) for name in names}
        for subject, own in sorted(values.items())
    }
    enough = len(subjects) >= FEW
    whole = dict(group[0]) | {
        "subjects": list(subjects),
        "per_subject": subjects,
        "n_subjects": len(subjects),
        "n_slices": sum(slices.values()),
        "interval": BOOTSTRAP if enough else TOO_SMALL,
        "folds": len({origin(record["dataset"]).fold for record in group}),
        "seeds": len({origin(record["dataset"]).seed for record in group}),
        "warnings": list(dict.fromkeys(w for record in group for w in record.get("warnings", []))),
    }
    by_seed: dict[int, list[float]] = {}
    for record in group:
        if (seed := origin(record["dataset"]).seed) is not None:
            by_seed.setdefault(seed, []).append(record["psnr"]["mean"])
    whole["psnr_by_seed"] = {seed: float(np.mean(each)) for seed, each in sorted(by_seed.items())}
    times = [
        seconds for record in group if (seconds := record.get("seconds_per_slice")) is not None
    ]
    if len(times) == len(group):
        whole["seconds_per_slice"] = float(np.mean(times))
    chance = group[0].get("bootstrap") or {"samples": 1000, "seed": 0}
    for name in names:
        each = np.array([subject[name] for subject in subjects.values()])
        low = high = None
        if enough:
            low, high = bootstrap(each, chance["samples"], chance["seed"])
        whole[name] = {"mean": float(each.mean()), "low": low, "high": high}
    return whole
