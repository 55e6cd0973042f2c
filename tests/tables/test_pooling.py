"""Records of folds and seeds together, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mrsr.metrics.record import BOOTSTRAP, TOO_SMALL
from mrsr.tables.pooling import pooled


def record(dataset: str, psnr: dict[str, float], method: str = "srresnet") -> dict[str, Any]:
    """As evaluate writes it, of subjects with these PSNRs and ten slices each."""
    each = {subject: {"psnr": value, "ssim": 0.9, "nmse": 0.01} for subject, value in psnr.items()}
    mean = sum(psnr.values()) / len(psnr)
    return {
        "experiment": "study", "dataset": dataset, "scale": 2, "method": method,
        "per_subject": each, "subjects": list(psnr), "n_subjects": len(psnr),
        "n_slices": 10 * len(psnr), "interval": TOO_SMALL, "seconds_per_slice": 0.1,
        "bootstrap": {"samples": 500, "seed": 0},
        "psnr": {"mean": mean, "low": None, "high": None},
        "ssim": {"mean": 0.9, "low": None, "high": None},
        "nmse": {"mean": 0.01, "low": None, "high": None},
    }  # fmt: skip


def test_seeds_are_averaged_within_a_subject_and_folds_joined() -> None:
    found = pooled([
        record("t1_fold1_seed0", {"a": 30.0}), record("t1_fold1_seed1", {"a": 32.0}),
        record("t1_fold2_seed0", {"b": 40.0}), record("t1_fold2_seed1", {"b": 44.0}),
    ])  # fmt: skip
    assert len(found) == 1
    (whole,) = found
    assert whole["dataset"] == "t1" and whole["subjects"] == ["a", "b"]
    assert whole["per_subject"]["a"]["psnr"] == 31.0 and whole["per_subject"]["b"]["psnr"] == 42.0
    assert whole["psnr"] == {"mean": 36.5, "low": None, "high": None}
    assert (whole["n_subjects"], whole["n_slices"]) == (2, 20)
    assert (whole["folds"], whole["seeds"], whole["interval"]) == (2, 2, TOO_SMALL)
    assert whole["warnings"] == [] and whole["psnr_by_seed"] == {0: 35.0, 1: 38.0}


def test_six_people_give_an_interval_around_their_mean() -> None:
    values = [30.0, 31.0, 32.0, 33.0, 34.0, 35.0]
    (whole,) = pooled(record(f"t1_fold{n}", {f"s{n}": v}) for n, v in enumerate(values, 1))
    assert whole["psnr"]["mean"] == pytest.approx(32.5) and whole["interval"] == BOOTSTRAP
    # the bootstrap of six values of deviation 1.71: 1.96 * 1.71 / sqrt(6) is 1.37
    assert whole["psnr"]["low"] == pytest.approx(31.13, abs=0.3)
    assert whole["psnr"]["high"] == pytest.approx(33.87, abs=0.3)


def test_further_metrics_are_pooled_too() -> None:
    records = []
    for fold, value in enumerate((0.5, 0.7), 1):
        one = record(f"t1_fold{fold}", {f"s{fold}": 30.0})
        one["per_subject"][f"s{fold}"]["haarpsi"] = value
        records.append(one | {"more": ["haarpsi"]})
    (whole,) = pooled(records)
    assert whole["haarpsi"] == {"mean": pytest.approx(0.6), "low": None, "high": None}


def test_a_repeat_that_is_missing_is_told() -> None:
    (whole,) = pooled([record("t1_fold1", {"a": 30.0})], {"t1": 3})
    assert whole["warnings"] == ["2 of 3 repeats are not measured"]


def test_records_without_repeats_and_other_methods_stay_apart() -> None:
    given = [
        record("t1", {"a": 30.0}), record("t2_seed0", {"a": 31.0}),
        record("t2_seed0", {"a": 33.0}, "srcnn"), record("t2_seed1", {"a": 32.0}),
    ]  # fmt: skip
    found = pooled(given)
    assert found[0] == given[0]
    assert [(r["dataset"], r["method"], r["psnr"]["mean"]) for r in found[1:]] == [
        ("t2", "srresnet", 31.5), ("t2", "srcnn", 33.0),
    ]  # fmt: skip
