"""Metrics files in, the paper's tables out. Run: pytest tests/tables/test_tables.py"""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mrsr import cli
from mrsr.errors import UserError
from mrsr.params import jobs
from mrsr.params.typed import build
from mrsr.tables.tables import COLUMNS, paper, print_table, write_tables
from project import check_long_table

PRESET = {
    **{"name": "slice", "level": "slice", "data_range": "slice_max", "border": 0},
    **{"window": "gaussian", "window_size": 11, "sigma": 1.5, "k1": 0.01, "k2": 0.03},
    **{"covariance": "population", "clip": False},
}
METHODS = [
    {"key": "bicubic", "label": "Bicubic", "citation": "", "kind": "baseline"},
    {"key": "srcnn", "label": "SRCNN", "citation": "[26]", "kind": "baseline"},
    {"key": "proposed", "label": "Proposed_1 & 100%", "citation": "", "kind": "proposed"},
    {"key": "no_vit", "label": "[9] no ViT", "citation": "", "kind": "ablation"},
]


def settings(**changes) -> jobs.Tables:
    return build(jobs.Tables, table(**changes))


def table(**changes) -> dict[str, object]:
    """The settings as JSON has them."""
    return {
        "experiment": "demo",
        "tables": {"table1": ["phantom_t1", "ixi_pd"], "table2": []},
        "datasets": {"phantom_t1": "Phantom T1", "ixi_pd": "IXI-PD"},
        "scales": [2, 4],
        "methods": METHODS,
        "preset": PRESET,
    } | changes


def record(dataset="phantom_t1", scale=2, method="bicubic", psnr=31.5, n=8, **changes):
    def interval(mean):
        few = n < 6
        return {"mean": mean, "low": None if few else 0.9 * mean, "high": None if few else mean}

    trained = method != "bicubic"
    own = {"psnr": psnr, "ssim": 0.95, "nmse": 0.0042}
    return {
        "per_subject": {f"s{i}": own for i in range(n)},
        **{"format": 1, "experiment": "demo", "dataset": dataset, "scale": scale},
        **{"method": method, "preset": PRESET, "subjects": [f"s{i}" for i in range(n)]},
        **{"n_subjects": n, "n_slices": 32 * n, "psnr": interval(psnr), "ssim": interval(0.95)},
        **{"nmse": interval(0.0042), "seconds_per_slice": 0.01, "parameters": 8129},
        **{"steps": 400 if trained else None, "patches": 6400 if trained else None},
    } | changes


def grid():
    return [
        record(scale=2, method="bicubic", psnr=31.5),
        record(scale=2, method="srcnn", psnr=33.004),
        record(scale=2, method="proposed", psnr=33.001, ssim={"mean": 0.97}),
        record(scale=4, method="bicubic", psnr=27.0),
        record("ixi_pd", 2, "bicubic", psnr=35.0, n=2),
    ]


def table_text(folder: Path) -> str:
    """Table 1 without the spaces that align its columns."""
    return re.sub(" +", " ", (folder / "table1.md").read_text())


def write(folder: Path, records: list[dict]) -> list[Path]:
    files = [folder / f"{i}.json" for i in range(len(records))]
    for file, value in zip(files, records, strict=True):
        file.write_text(json.dumps(value))
    return files


def test_long_table_has_a_row_per_measurement_and_the_papers_numbers(tmp_path):
    write_tables(grid(), settings(), tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [(r["dataset"], r["scale"], r["method"]) for r in rows] == [
        ("phantom_t1", "2", "bicubic"),
        ("phantom_t1", "2", "srcnn"),
        ("phantom_t1", "2", "proposed"),
        ("phantom_t1", "4", "bicubic"),
        ("ixi_pd", "2", "bicubic"),
    ]
    assert rows[0]["psnr"] == "31.5" and rows[0]["psnr_low"] == "28.35"
    assert rows[0]["paper_psnr"] == "" and rows[0]["interval"].startswith("95 %")
    assert rows[1]["steps"] == "400" and rows[0]["steps"] == ""
    last = rows[-1]
    assert (last["paper_psnr"], last["paper_ssim"], last["paper_nmse"]) == (
        "30.4",
        "0.9531",
        "0.042",
    )
    assert "recalled" in last["paper_note"]
    assert last["interval"] == "n too small" and last["psnr_low"] == "" and last["n"] == "2"


def test_further_metrics_are_columns_and_empty_where_not_measured(tmp_path):
    measured = record() | {"more": ["gmsd"], "gmsd": {"mean": 0.05, "low": None, "high": None}}
    write_tables([measured, record(method="srcnn")], settings(), tmp_path)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert (rows["bicubic"]["gmsd"], rows["srcnn"]["gmsd"]) == ("0.05", "")


def test_long_table_has_known_types_ranges_and_unique_labels(tmp_path):
    write_tables(grid(), settings(), tmp_path)
    check_long_table(tmp_path / "results.csv")
    text = (tmp_path / "results.csv").read_text()
    for right, wrong in (("0.95,", "1.5,"), (",8,256,", ",8.5,256,"), ("t1,4,", "t1,2,")):
        (tmp_path / "bad.csv").write_text(text.replace(right, wrong))
        with pytest.raises(AssertionError):
            check_long_table(tmp_path / "bad.csv")


def test_tables_bold_dash_caption_and_the_papers_row(tmp_path):
    write_tables(grid(), settings(), tmp_path)
    text = table_text(tmp_path)
    lines = text.splitlines()
    heading = "| Phantom T1 2x | Phantom T1 4x | IXI-PD 2x | IXI-PD 4x |"
    assert f"| Method | Parameters | Reduced {heading}" in lines
    # equal as shown (33.00), so both are best
    assert "| SRCNN [26] | 0.00813 M | no | **33.00**/0.9500/**0.0042** | - | - | - |" in lines
    assert any("**33.00**/**0.9700**/**0.0042**" in line for line in lines)
    assert "| *paper* | | | - | - | *30.40/0.9531/0.042* | *29.13/0.8799/0.048* |" in lines
    order = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert order[1:] == [
        *("Bicubic", "*paper*", "SRCNN [26]", "*paper*"),
        *("Proposed\\_1 & 100%", "*paper*", "*Ablation studies*", "[9] no ViT", "*paper*"),
    ]
    for part in (
        "Metrics 'slice'",
        "400 steps on 6,400 patches: SRCNN [26] and Proposed\\_1 & 100%.",
        "Phantom T1: n = 8 test subjects, 256 slices.",
        "IXI-PD: n = 2 test subjects, 64 slices; n too small for intervals and tests.",
        "share one template",
        "Not measured in this experiment: [9] no ViT.",
        "Not measured in this experiment (IXI-PD 4x): Bicubic.",
        "Paper, Bicubic, IXI-PD: 2x PSNR printed 30.4",
    ):
        assert part in text, part
    cells = list(csv.DictReader((tmp_path / "table1.csv").read_text().splitlines()))
    assert cells[0]["phantom_t1_x2_psnr"] == "31.50" and cells[1]["ixi_pd_x4_nmse"] == "0.048"
    assert cells[1]["source"] == "paper"


def test_signs_in_a_dataset_s_label_are_text_in_the_heading(tmp_path):
    write_tables(grid(), settings(datasets={"phantom_t1": "<b>*T1*", "ixi_pd": "PD"}), tmp_path)
    title = table_text(tmp_path).splitlines()[0]
    assert title.startswith("**Super-resolution of \\<b>\\*T1\\*") and title.endswith("**")


def test_only_the_tables_of_the_settings_are_written_and_an_empty_one_says_so(tmp_path):
    write_tables(grid(), settings(), tmp_path)
    assert "No dataset of table2 is in experiment 'demo'" in (tmp_path / "table2.md").read_text()
    write_tables(grid(), settings(tables={"table1": ["phantom_t1"]}), tmp_path / "one")
    assert {f.name for f in (tmp_path / "one").iterdir()} == {
        *("results.csv", "differences.csv", "table1.csv", "table1.md", "table1.tex")
    }
    # ixi_pd is in no table here, and still in the long one
    assert "ixi_pd" in (tmp_path / "one" / "results.csv").read_text()


def test_bytes_depend_on_the_records_alone(tmp_path):
    first = write_tables(write(tmp_path, grid()), settings(), tmp_path / "a")
    second = write_tables(reversed(grid()), settings(), tmp_path / "b")
    for left, right in zip(first, second, strict=True):
        assert left.read_bytes() == right.read_bytes()


@pytest.mark.parametrize("name", ["table1", "table2"])
@pytest.mark.parametrize("alone", [True, False])
def test_latex_is_complete_and_compiles(tmp_path, name, alone):
    write_tables(grid(), settings(), tmp_path)
    text = (tmp_path / f"{name}.tex").read_text()
    for begin in ("table", "tabular"):
        assert text.count(rf"\begin{{{begin}}}") == text.count(rf"\end{{{begin}}}") == 1
    assert text.isascii() and all(rule in text for rule in (r"\toprule", r"\bottomrule"))
    assert "Proposed_1" not in text and "& 100%" not in text.replace(r"\%", "")
    width = 6 if name == "table1" else 0
    for line in text.splitlines():
        if line.endswith(r" \\") and "multicolumn" not in line:
            assert line.replace(r"\&", "").count("&") == width
    tex = shutil.which("pdflatex") or shutil.which("tectonic")
    if tex is None:
        return  # the structure above is what can be checked without TeX
    if not alone:
        document = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        (tmp_path / "whole.tex").write_text(document + rf"\input{{{name}}}\end{{document}}")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if tex.endswith("pdflatex") else []
    file = f"{name}.tex" if alone else "whole.tex"
    done = subprocess.run([tex, *options, file], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / file).with_suffix(".pdf").stat().st_size > 1000


def test_equal_labels_are_refused_by_name(tmp_path):
    files = write(tmp_path, [record(), record()])
    with pytest.raises(UserError, match=r"1\.json and .*0\.json both measure bicubic"):
        write_tables(files, settings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": PRESET | {"border": 4}}, "mixes metric presets"),
        ({"subjects": ["other"]}, "test subjects of phantom_t1 differ"),
        ({"experiment": "paper"}, "is of experiment 'paper'"),
        ({"psnr": {"mean": float("nan")}}, "psnr is not finite"),
        ({"n_slices": None}, "no n_slices"),
        ({"ssim": 0.9}, "no ssim"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        write_tables([record(), record(method="srcnn") | change], settings(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["not json", "[]", '{"format": 1}'])
def test_a_file_that_is_no_metrics_file_is_one_line_and_exit_2(tmp_path, capsys, monkeypatch, text):
    (tmp_path / "bad.json").write_text(text)
    command = ["--settings", json.dumps(table()), "--out", str(tmp_path / "t")]
    monkeypatch.setattr("sys.argv", ["mrsr", "tables", *command, str(tmp_path / "bad.json")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "bad.json" in capsys.readouterr().err and not (tmp_path / "t").exists()


def test_reduced_widths_recipes_guides_and_reasons_are_said(tmp_path):
    guide = {
        **{"dataset": "ixi_pd", "resampled": True, "residual_mm": {"median": 0.4, "largest": 1.06}},
        "without_guide": {"train": ["a.nii.gz"], "validation": []},
    }
    records = [
        record(method="srcnn", parameters=660_000, full_parameters=40_700_000),
        record(method="proposed", recipe="published", guide=guide, full_parameters=8129),
        record(method="no_vit", type="self", steps=30, patches=240, acceleration=4),
    ]
    inside = {"networks": "trained", "vit": {"hidden": 4}}
    records[0] |= {"model": {"options": inside}, "frozen_parameters": 85_344_800}
    reason = "it needs a registered second contrast, which the dataset does not have"
    absent = [
        {"dataset": d, "scale": 2, "method": "bicubic", "reason": reason}
        for d in ("phantom_t1", "elsewhere")
    ]
    write_tables(records, settings(absent=absent), tmp_path)
    text = table_text(tmp_path)
    for part in (
        "| SRCNN [26] | 0.66 M | of 40.7 M |",
        "| Proposed\\_1 & 100% | 0.00813 M | no |",
        "Trained for 400 steps on 6,400 patches by published recipes: Proposed",
        "Trained for 30 steps on 240 patches of each test volume alone: [9] no ViT.",
        "guide IXI-PD, resampled by the scans' positions, edges 0.40 mm off in the plane",
        "not trained on a.nii.gz: no guide.",
        "SRCNN [26]: reduced to networks trained.",
        "SRCNN [26]: 85.3 M frozen weights besides its parameters.",
        "[9] no ViT on Phantom T1 2x: LR input undersampled 4x in k-space.",
        f"Bicubic on Phantom T1 2x: {reason}.",
    ):
        assert part in text, part
    assert "compare with care" not in text and "elsewhere" not in text
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["reduced"] for row in rows] == ["yes", "no", "no"]
    assert [row["recipe"] for row in rows] == ["common", "published", "common"]


@pytest.mark.parametrize(
    ("acted", "own", "told"),
    [
        ({"l1": 1.0, "vit": 1.0}, {"l1": 1.0, "vit": 1.0}, ""),
        ({"l1": 1.0, "vit": 0.5}, {"l1": 1.0, "vit": 1.0}, "vit 0.5, not 1"),
        ({"l1": 1.0}, {"l1": 1.0, "texture": 0.9}, "texture 0, not 0.9"),
        ({"l1": 1.0, "l2": 2.0}, {"l1": 10000.0}, "l1 1, not 10000, l2 2, not 0"),
        ({}, {"l1": 1.0}, ""),  # nothing was trained
        ({"l1": 1.0}, {}, ""),  # a record of an earlier version
    ],
)
def test_line_18_weights_that_acted_and_are_not_the_methods_own_are_said(
    tmp_path, acted, own, told
):
    records = [record(), record(method="proposed", losses=acted, own_losses=own)]
    write_tables(records, settings(), tmp_path)
    note = "Proposed\\_1 & 100%: trained with other loss weights than its own: "
    text = table_text(tmp_path)
    assert (f"{note}{told}." in text) if told else ("other loss weights" not in text)


def test_unequal_effort_and_foreign_measurements_are_said(tmp_path, capsys):
    records = [record(method="srcnn"), record(method="no_vit", steps=10), record(method="other")]
    write_tables(records, settings(), tmp_path)
    assert "Steps or patches differ" in (tmp_path / "table1.md").read_text()
    assert "left out 1 measurements not in the settings" in capsys.readouterr().err


def test_the_published_numbers_are_complete():
    assert len(paper()) == 90 and paper()["ixi_t1", 2, "srcnn"]["nmse"] == 0.26
    before = copy.deepcopy(paper())
    assert {scale for _, scale, _ in before} == {2, 4}


def test_print_table(tmp_path, capsys):
    write_tables(grid(), settings(), tmp_path)
    print_table(tmp_path)
    assert "SRCNN [26] | 0.00813 M | no | **33.00**/0.9500" in re.sub(
        " +", " ", capsys.readouterr().out
    )
    with pytest.raises(UserError, match="no tables in"):
        print_table(tmp_path / "none")
