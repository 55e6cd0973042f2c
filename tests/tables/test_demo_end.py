"""The sentence under the demo's table follows the numbers.

Run: pytest tests/tables/test_demo_end.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mrsr.errors import UserError
from mrsr.tables import demo_end
from mrsr.tables.demo_end import FEATURES, column, ending, meaning

# the demo's table at 2x in docs/results.md
MEASURED = {"bicubic": 33.70, "srcnn": 36.81, "srresnet": 38.06, "proposed": 37.94,
            "proposed_eq9": -1.45, "no_structure": 38.01, "no_texture": 37.96,
            "vit_only": 38.04, "no_vit": 37.93}  # fmt: skip


def test_the_measured_table() -> None:
    assert meaning(MEASURED) == (
        "The pixel loss does the work: alone (SRResNet) it gains 4.36 dB over bicubic; the "
        "feature terms change nothing that one training could show (-0.13 to -0.02 dB, and "
        "trainings differ by up to 0.4 dB); the published objective alone (Eq. 9, no pixel "
        "term) cannot reconstruct: it ends 35.2 dB below bicubic."
    )


def test_a_table_where_everything_is_the_other_way_round() -> None:
    table = {"bicubic": 30.0, "srresnet": 29.0, "proposed": 31.0, "proposed_eq9": 32.5}
    assert meaning(table) == (
        "The pixel loss alone (SRResNet) stays 1.00 dB below bicubic: the training is too short; "
        "the feature terms raise PSNR (+2.00 dB); the published objective alone (Eq. 9, no pixel "
        "term) reconstructs too: it gains 2.50 dB over bicubic."
    )


def test_a_table_without_differences() -> None:
    text = meaning(dict.fromkeys(("bicubic", "srresnet", "proposed", "proposed_eq9"), 30.0))
    assert "does the work" not in text
    assert text.count("does not differ from bicubic (+0.00 dB)") == 2
    assert "change nothing that one training could show (+0.00 dB" in text


@pytest.mark.parametrize(
    ("differences", "told"),
    [
        ([-0.4, 0.4], "change nothing that one training could show"),
        ([-0.5, 0.1], "lower PSNR (-0.50 to +0.10 dB)"),
        ([0.0, 0.5], "raise PSNR (+0.00 to +0.50 dB)"),
        ([-0.5, 0.5], "help or harm, depending on the method (-0.50 to +0.50 dB)"),
    ],
)
def test_feature_terms(differences: list[float], told: str) -> None:
    table = {"bicubic": 0.0, "srresnet": 0.0} | dict(zip(FEATURES, differences, strict=False))
    assert told in meaning(table)


def test_nothing_is_said_that_was_not_measured() -> None:
    assert meaning({"srresnet": 38.0, "proposed": 39.0}) == ""
    assert ";" not in meaning({"bicubic": 30.0, "srresnet": 38.0})


def test_the_column_with_the_most_methods() -> None:
    names = ("dataset", "scale", "method", "psnr")
    rows = [("a", "4", "bicubic", "1"), ("a", "2", "bicubic", "2"), ("a", "2", "srresnet", "3")]
    assert column(dict(zip(names, row, strict=True)) for row in rows) == {
        "bicubic": 2.0, "srresnet": 3.0,
    }  # fmt: skip
    assert column([]) == {}


def test_the_commands_to_try_are_two(tmp_path: Path, monkeypatch, capsys) -> None:
    lines = ["dataset,scale,method,psnr", *(f"p,2,{k},{v}" for k, v in MEASURED.items())]
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("sys.argv", ["demo_end", "--tables", str(tmp_path)])
    demo_end.main()
    text = capsys.readouterr().out
    assert text.startswith(meaning(MEASURED))
    assert re.findall(r"^  (\w+)", text, re.MULTILINE) == ["mrsr", "snakemake"]
    assert "There is no page" in text and str(tmp_path.parent / "report.html") in text
    inside = tmp_path / "demo" / "tables"
    inside.mkdir(parents=True)
    (inside / "results.csv").write_text("\n".join(lines) + "\n")
    (inside.parent / "report.html").write_text("<!DOCTYPE html>")
    assert f"open it in a browser: {inside.parent / 'report.html'}" in ending(inside)
    with pytest.raises(UserError, match="run `make demo`"):
        ending(tmp_path / "none")
