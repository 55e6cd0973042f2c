"""What the frozen networks have learned, as a table.

Run: pytest tests/tables/test_frozen_table.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mrsr.errors import UserError
from mrsr.tables.frozen import frozen_table


def training(folder: Path, best: int) -> Path:
    folder.mkdir()
    lines = [
        {"event": "start"},
        {"step": 1, "split": "test", "metrics": {"dice": 0.4}},
        {"step": 2, "split": "test", "metrics": {"dice": 0.75, "total": 1.0}},
        {"step": 2, "split": "validation", "metrics": {"dice": 0.9}},
        {"event": "end", "best_step": best},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_test_metrics_of_the_best_step_and_the_probe(tmp_path: Path) -> None:
    probe = tmp_path / "autoencoder.probe"
    probe.write_text(json.dumps({"dataset": "phantom_t1", "scale": 2, "psnr": 35.25, "pairs": 9}))
    rows = frozen_table([training(tmp_path / "segmentation", 2), probe], tmp_path / "tables")
    assert [(row["network"], row["value"]) for row in rows] == [
        ("ViT, segmentation", 0.75),
        ("auto-encoder, phantom_t1 2x", 35.25),
    ]
    text = re.sub(" +", " ", (tmp_path / "tables" / "frozen.md").read_text())
    assert "| mean tissue Dice | 0.75 |" in text
    assert (tmp_path / "tables" / "frozen.csv").read_text().count("\n") == 3


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.probe").write_text("[]")
    with pytest.raises(UserError, match=r"x\.probe is not a probe"):
        frozen_table([tmp_path / "x.probe"], tmp_path)
    with pytest.raises(UserError, match="no test metrics"):
        frozen_table([training(tmp_path / "organ", 3)], tmp_path)
