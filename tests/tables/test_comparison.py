"""Paired comparisons against values computed by hand: `pytest tests/tables/test_comparison.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrsr import cli
from mrsr.errors import UserError
from mrsr.tables import comparison


def record(method: str, psnr: list[float], **more: Any) -> dict[str, Any]:
    """A metrics record with subjects s0, s1, ...; SSIM and NMSE follow the PSNR."""
    people = {
        f"s{i}": {"psnr": value, "ssim": value / 100, "nmse": 1 / value}
        for i, value in enumerate(psnr)
    }
    means = {
        name: {"mean": float(np.mean([p[name] for p in people.values()])), "low": None}
        for name in ("psnr", "ssim", "nmse")
    }
    base = {"experiment": "toy", "dataset": "own", "scale": 2, "method": method, "label": method}
    counts = {"n_subjects": len(psnr), "n_slices": 10, "preset": {"name": "slice"}}
    return base | counts | {"per_subject": people} | means | more


SIX = [30.0, 31.0, 32.0, 33.0, 34.0, 35.0]
GAINS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_six_gains_of_one_sign_have_the_smallest_p_that_six_can_have() -> None:
    found = comparison.paired(GAINS)
    assert found["n"] == 6 and found["difference"] == pytest.approx(0.35)
    assert found["p"] == pytest.approx(2 / 2**6)  # one of 64 sign patterns, on each side
    # the mean of six draws: bounded by the extremes, around 0.35 +- 2 * 0.171 / sqrt(6)
    assert 0.1 < found["low"] < 0.25 < 0.45 < found["high"] < 0.6


def test_a_signed_rank_by_hand() -> None:
    """Ranks 1 to 6; the negative ones are 1 and 2: W = 3, and 5 of 64 patterns have W <= 3."""
    found = comparison.paired([-0.1, -0.2, 0.3, 0.4, 0.5, 0.6])
    assert found["p"] == pytest.approx(2 * 5 / 64)


def test_holm_by_hand() -> None:
    """0.01 * 3, then 0.02 * 2 = 0.04, then 0.03 * 1, which may not be below the one before."""
    assert comparison.holm([0.03, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04])
    assert comparison.holm([]) == [] and comparison.holm([None]) == [None]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5))
def test_fewer_than_six_subjects_have_no_interval_and_no_p(values: list[float]) -> None:
    found = comparison.paired(values)
    assert found["low"] is found["high"] is found["p"] is None
    assert found["note"] == "n too small"
    assert found["difference"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.25, 2 / 64)])
def test_equal_differences_have_an_interval_of_one_point(value: float, p: float) -> None:
    found = comparison.paired([value] * 6)
    assert found["low"] == found["high"] == found["difference"] == value
    assert found["p"] == pytest.approx(p)


def test_every_method_is_compared_with_proposed_and_with_the_best() -> None:
    better = [value + gain for value, gain in zip(SIX, GAINS, strict=True)]
    worse = [value - 1 for value in SIX]
    frame = comparison.differences(
        [record("bicubic", worse), record("proposed", SIX), record("best", better)]
    )
    psnr = frame[frame["metric"] == "psnr"]
    lines = {(line.method, line.reference): line for line in psnr.itertuples()}
    assert set(lines) == {
        ("bicubic", "proposed"), ("best", "proposed"), ("bicubic", "best"), ("proposed", "best"),
    }  # fmt: skip
    assert lines["bicubic", "proposed"].difference == pytest.approx(-1)
    assert lines["bicubic", "proposed"].better_in == "0 of 6"
    assert lines["best", "proposed"].better_in == "6 of 6"
    assert lines["best", "proposed"].p_holm == pytest.approx(2 * 2 / 64)  # a family of two
    nmse = frame[(frame["metric"] == "nmse") & (frame["reference"] == "proposed")]
    assert set(nmse["better_in"]) == {"0 of 6", "6 of 6"}  # less is better


def test_subjects_are_paired_by_name_and_must_be_the_same() -> None:
    one, other = record("a", SIX), record("b", SIX)
    one["per_subject"] = dict(reversed(one["per_subject"].items()))
    assert comparison.against([one], [other])[0]["difference"] == 0
    with pytest.raises(UserError, match=r"a and b have different test subjects \(s5\)"):
        comparison.against([record("a", SIX[:5])], [other])


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for experiment, gain in (("one", 0.0), ("two", 0.5)):
        folder = tmp_path / "results" / experiment / "metrics"
        folder.mkdir(parents=True)
        for method in ("bicubic", "proposed"):
            made = record(method, [v + gain for v in SIX], experiment=experiment)
            (folder / f"{method}.json").write_text(json.dumps(made))
    return tmp_path / "results"


def run(*arguments: str) -> None:
    cli.app(["compare", *arguments], standalone_mode=False)


def test_two_experiments_are_compared_method_by_method(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("two", "one", "--out", "compared.csv")
    text = capsys.readouterr().out
    assert "bicubic (two)" in text and "proposed (one)" in text and "+0.50 to +0.50" in text
    assert len(Path("compared.csv").read_text().splitlines()) == 1 + 2 * 3


def test_two_files_are_compared(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(results / name / "metrics" / "bicubic.json") for name in ("one", "two")]
    run(*files)
    assert "-0.50" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [("three", "nothing to compare at three"), ("no.json", "cannot read no.json")],
)
def test_what_cannot_be_compared_is_one_line(results: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        comparison.compare(given, "one")


def test_other_slices_are_no_comparison(results: Path) -> None:
    other = results / "other.json"
    other.write_text(json.dumps(record("bicubic", SIX, scale=4)))
    with pytest.raises(UserError, match="different datasets or scales"):
        comparison.compare(str(other), str(results / "one" / "metrics" / "bicubic.json"))
