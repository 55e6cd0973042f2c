"""`dvc plots show` and `dvc metrics show`: a bar and a line for each dataset, scale and method."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from mrsr.errors import UserError
from mrsr.tables import bars

TABLE = pandas.DataFrame(
    [
        ("phantom_t1", 2, "bicubic", "Bicubic", 31.25, None, None),
        ("phantom_t1", 2, "proposed", "Proposed", 33.5, 32.5, 34.75),
        ("phantom_t1", 4, "bicubic", "Bicubic", 26.0, None, None),
        ("phantom_t2", 2, "bicubic", "Bicubic", 29.0, None, None),
    ],
    columns=["dataset", "scale", "method", "label", "psnr", "psnr_low", "psnr_high"],
)


def test_a_bar_for_each_row_and_none_is_a_sum() -> None:
    figure = bars.drawn(TABLE)
    shown = {
        axis.get_title(): [
            (label.get_text(), bar.get_x(), bar.get_width())
            for label, bar in zip(axis.get_yticklabels(), axis.patches, strict=True)
        ]
        for axis in figure.axes
        if axis.get_title()
    }
    assert shown == {
        "phantom_t1, 2x": [("Bicubic", 0, 31.25), ("Proposed", 0, 33.5)],
        "phantom_t1, 4x": [("Bicubic", 0, 26.0)],
        "phantom_t2, 2x": [("Bicubic", 0, 29.0)],
    }
    first = figure.axes[0]
    assert [text.get_text() for text in first.texts] == ["31.25", "33.50"]
    (interval,) = first.lines
    assert list(interval.get_xdata()) == [32.5, 34.75]
    assert first.get_ylim()[0] > first.get_ylim()[1]  # the first row is at the top


def test_it_is_a_picture_that_depends_on_the_table_alone(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "results.csv", index=False)
    for name in ("a.png", "b.png"):
        bars.psnr_bars(tmp_path / "results.csv", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"ends in \.png"):
        bars.psnr_bars(tmp_path / "results.csv", tmp_path / "a.txt")
    TABLE[:0].to_csv(tmp_path / "results.csv", index=False)
    bars.psnr_bars(tmp_path / "results.csv", tmp_path / "none.png")  # nothing measured


def test_the_means_of_each_row_are_a_file(tmp_path: Path) -> None:
    from builders import record, two_methods
    from mrsr.tables.tables import write_tables

    settings = two_methods()
    records = [record("bicubic", 2, 31.1), record("srcnn", 2, 33.3), record("srcnn", 4, 27.2)]
    write_tables(records, settings, tmp_path / "tables", tmp_path / "summary")
    found = {
        path.relative_to(tmp_path / "summary").as_posix(): json.loads(path.read_text())["psnr"]
        for path in (tmp_path / "summary").rglob("*.*")
    }
    assert found == {
        "phantom_t1/x2/bicubic.json": 31.1,
        "phantom_t1/x2/srcnn.json": 33.3,
        "phantom_t1/x4/srcnn.json": 27.2,
    }
