"""What the page's tables say, and what it says is missing. Run: pytest tests/report/test_rows.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrsr.errors import UserError
from mrsr.figures import draw
from mrsr.params import jobs, schema
from mrsr.params.typed import plain
from mrsr.report import facts, page, rows

PRESET = jobs.preset("slice")
SUBJECTS = [f"s{number}" for number in range(8)]


def record(method: str, psnr: float, n: int = 8, **changes: Any) -> dict[str, Any]:
    ends = {"low": psnr - 0.5, "high": psnr + 0.5} if n >= 6 else {"low": None, "high": None}
    return {
        "experiment": "x", "dataset": "ixi_t1", "scale": 2, "method": method, "label": method,
        "preset": plain(PRESET), "n_subjects": n, "n_slices": 10 * n, "subjects": SUBJECTS[:n],
        "psnr": {"mean": psnr, **ends},
        "ssim": {"mean": 0.95, "low": None, "high": None},
        "nmse": {"mean": 0.01 if method == "srcnn" else 0.02, "low": None, "high": None},
        "per_subject": {
            # subjects differ, and methods differ by subject
            name: {"psnr": psnr + 0.1 * i, "ssim": 0.95, "nmse": 0.01}
            for i, name in enumerate(SUBJECTS[:n])
        },
        "parameters": 1_380_000, "seconds_per_slice": 0.5,
    } | changes  # fmt: skip


def given(*methods: str, **changes: Any) -> jobs.Report:
    names = tuple(
        jobs.MethodName(key=key, label=key, kind="proposed" if key == "proposed" else "baseline")
        for key in methods
    )
    tables = jobs.Tables(
        experiment="x", tables={"table1": ("ixi_t1",)}, datasets={"ixi_t1": "IXI T1"}, scales=(2,),
        methods=names, preset=PRESET, **changes,
    )  # fmt: skip
    column = jobs.Column(
        dataset="ixi_t1", name="ixi_t1", label="IXI T1", scale=2, methods=tuple(methods)
    )
    figures = jobs.Figures(
        experiment="x", figures=("fig2_comparison_ixi_t1_2x",), columns=(column,), methods=names
    )
    return jobs.Report(experiment="x", description="a test", figures=figures, tables=tables)


def table(settings: jobs.Report, *records: dict[str, Any]) -> dict[str, Any]:
    keyed = {("ixi_t1", 2, one["method"]): one for one in records}
    (only,) = rows.tables(keyed, settings.tables, settings.figures.columns)
    return only


def test_a_table_marks_the_best_and_has_intervals_tests_and_the_papers_numbers() -> None:
    settings = given("bicubic", "srcnn", "proposed")
    found = table(
        settings, record("bicubic", 30.0), record("srcnn", 33.004), record("proposed", 33.001)
    )
    by_method = {row["method"]: row for row in found["rows"]}
    # equal as shown: equally good
    best = [key for key, row in by_method.items() if row["metrics"]["psnr"]["best"]]
    assert best == ["srcnn", "proposed"]
    assert [k for k, r in by_method.items() if r["metrics"]["nmse"]["best"]] == ["srcnn"]
    assert by_method["bicubic"]["metrics"]["psnr"]["interval"] == "29.50 to 30.50"
    assert found["reference"] == "proposed" and by_method["proposed"]["test"] is None
    test = by_method["bicubic"]["test"]
    assert test["text"] == "-3.00" and test["p"] == "0.0156" and test["interval"]
    assert found["published"] and by_method["proposed"]["paper"]["psnr"]["value"] > 30
    assert not found["few"] and by_method["srcnn"]["size"] == "1.38 M"


def test_few_subjects_have_no_interval_and_it_is_said() -> None:
    settings = given("bicubic", "srcnn")
    found = table(settings, record("bicubic", 30.0, 2), record("srcnn", 33.0, 2))
    assert found["few"] and found["reference"] == "srcnn"
    assert all(row["metrics"]["psnr"]["interval"] == "" for row in found["rows"])
    said = " ".join(page._missing(settings, [found], []))
    for words in ("No row 'Proposed'", "no intervals and tests, 2 test subjects",
                  "No trainings", "No ablation", "Energy was not measured"):  # fmt: skip
        assert words in said


def test_a_cell_that_cannot_be_measured_has_its_reason() -> None:
    absent = (jobs.Absent(dataset="ixi_t1", scale=2, method="lyu", reason="it needs a guide"),)
    settings = given("bicubic", "lyu", absent=absent)
    assert table(settings, record("bicubic", 30.0))["absent"] == ["lyu: it needs a guide"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "not known"), (41.2, "41 s"), (720, "12 min"), (7500, "2 h 5 min")],
)
def test_durations_are_told_in_words(seconds: float | None, text: str) -> None:
    assert facts.duration(seconds) == text


def test_hardware_is_what_trainings_recorded() -> None:
    one = {"device": "cpu", "threads": 1, "processes": 1}
    two = {"device": "NVIDIA H100", "threads": 4, "processes": 2}
    assert facts.hardware([one, two, one]) == "cpu (1 thread), NVIDIA H100 (2 processes)"
    assert facts.hardware([{"device": None}]) == "not recorded"


def test_a_citation_is_read_or_told(tmp_path: Path) -> None:
    file = tmp_path / "CITATION.cff"
    assert facts.citation(file) is None
    file.write_text("title: T\nauthors: [{name: A}, {given-names: B, family-names: C}]\n")
    found = facts.citation(file)
    assert found and found["authors"] == "A, B C"
    file.write_text("authors: 3")
    with pytest.raises(UserError, match="mend it"):
        facts.citation(file)


def test_without_results_both_commands_say_what_to_run(tmp_path: Path) -> None:
    settings = given("bicubic", "srcnn")
    with pytest.raises(UserError, match="run the experiment first"):
        page.write(settings, tmp_path, tmp_path / "report.html")
    with pytest.raises(UserError, match="make it again"):
        draw.draw_all(settings.figures, tmp_path, tmp_path / "figures")
    assert list(tmp_path.iterdir()) == []


def test_slices_that_are_gone_are_told(tmp_path: Path) -> None:
    settings = jobs.Report(**{**vars(given("bicubic")), "sources": {"ixi_t1": "ixi"}})
    (row,) = facts.data(settings, tmp_path)
    assert row["splits"] == dict.fromkeys(schema.SPLITS)
