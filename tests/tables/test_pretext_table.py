"""Pretext tasks over seeds, from their logs. Run: pytest tests/tables/test_pretext_table.py"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.tables.pretexts import pretext_table


def training(
    folder: Path, pretext: str, seed: int, losses: list[float], ended: bool = True, **change: Any
) -> Path:
    settings = {"phase": "pretext", "pretext": pretext, "seed": seed, "steps": 10 * len(losses)}
    settings |= {"experiment": f"e{seed}", "batch": 4, "start_sha256": str(seed)} | change
    lines: list[dict[str, Any]] = [{"event": "start", "settings": settings}]
    for number, loss in enumerate(losses, 1):
        scores = {"balanced_accuracy": 0.9} if pretext == "organ" else {}
        for split, metrics in (("validation", {"total": loss, **scores}), ("test", {"total": 9})):
            lines.append({"step": 10 * number, "split": split, "metrics": metrics})
    lines += [{"event": "end", "seconds": 1}] if ended else []
    place = folder / f"e{seed}" / pretext
    place.mkdir(parents=True)
    (place / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def test_numbers_by_hand(tmp_path):
    folders = [
        training(tmp_path, "masked", 1, [1.0, 0.5, 0.6, 0.3]),
        training(tmp_path, "masked", 0, [1.0, 0.5, 0.1, 0.1]),
        training(tmp_path, "organ", 0, [0.5, 0.4, 0.2, 0.2]),
        training(tmp_path, "segmentation", 0, [1.0], phase="segmentation"),
    ]
    words = ["pretext-table", *map(str, folders), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    with open(tmp_path / "out" / "pretexts.csv", newline="") as file:
        organ, *masked = csv.DictReader(file)
    assert [row["seed"] for row in masked] == ["0", "1"]
    second = masked[1]
    assert float(second["rises"]) == pytest.approx(1 / 3)
    assert (second["first"], second["final"], second["lowest_step"]) == ("1.0", "0.3", "40")
    assert (organ["balanced_accuracy"], second["balanced_accuracy"]) == ("0.9", "")
    # mean 0.2, deviation 0.1 * sqrt(2)
    text = re.sub(" +", " ", done.output)
    assert "| masked | 0, 1 | 0.1, 0.3 | 0.2 | 0.14 | 70.7% | 17% | - |" in text
    assert "| organ | 0 | 0.2 | 0.2 | - | - | 0% | balanced_accuracy 0.900 |" in text


def test_what_cannot_be_compared(tmp_path):
    good = training(tmp_path / "good", "organ", 0, [1.0, 0.5])
    cases = {
        "differ in batch": training(tmp_path / "a", "organ", 1, [1.0, 0.5], batch=8),
        "differ in steps": training(tmp_path / "b", "organ", 1, [1.0]),
        "seed 0 is given twice": training(tmp_path / "c", "organ", 0, [1.0, 0.6]),
        "has not ended": training(tmp_path / "d", "organ", 2, [1.0, 0.6], ended=False),
        "no log of a pretext task": training(tmp_path / "e", "nosuch", 2, [1.0, 0.6]),
        "cannot read": tmp_path / "nowhere",
    }
    for message, folder in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            pretext_table([good, folder], tmp_path / "out")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no training of a pretext task"):
        pretext_table([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
