"""Curves and comparisons are drawn, and drawn alike. Run: pytest tests/tables/test_figures.py"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrsr.drawing import comparison, curves
from mrsr.errors import UserError


def write_log(path: Path, last: str = "") -> Path:
    lines = [{"event": "start", "time": 0, "settings": {}, "digest": "x"}]
    for step in (1, 2, 3):
        metrics = {"l1": 0.1 / step, "total": 0.2 / step, "lr": None}
        lines.append({"time": step, "step": step, "split": "train", "metrics": metrics})
        for split in ("validation", "test"):
            metrics = {"l1": 0.1, "total": 0.15, "psnr": 30.0 + step}
            lines.append({"time": step, "step": step, "split": split, "metrics": metrics})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + last)
    return path


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_equal_logs_give_equal_files(tmp_path, suffix):
    log = write_log(tmp_path / "log.jsonl", '{"half a li')
    for name in ("a", "b"):
        curves({"srcnn 2x": log, "srresnet 2x": log}, tmp_path / f"{name}.{suffix}")
    first = (tmp_path / f"a.{suffix}").read_bytes()
    assert len(first) > 5000 and first == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no metrics yet"),
        ("{}\nnot json\n", "line 2: not a JSON object"),
        (None, "cannot read"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_named(tmp_path, text, message):
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        curves({"a": log}, tmp_path / "out.png")
    assert "log.jsonl" in str(error.value) and not (tmp_path / "out.png").exists()


def test_comparison_needs_one_grid_and_a_known_suffix(tmp_path):
    true = np.linspace(0, 1, 64).reshape(8, 8)
    images = {"bicubic": true + 0.1, "srcnn": true}
    comparison(images, tmp_path / "c.png", true)
    assert (tmp_path / "c.png").stat().st_size > 5000
    with pytest.raises(UserError, match=r"shape \(4, 8\)"):
        comparison({"srcnn": true[:4]}, tmp_path / "d.png", true)
    with pytest.raises(UserError, match="ends in"):
        comparison(images, tmp_path / "d.gif", true)
    assert {file.name for file in tmp_path.iterdir()} == {"c.png"}
