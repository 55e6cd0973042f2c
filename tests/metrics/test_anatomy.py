"""Dice of tissues in super-resolved volumes: `pytest tests/metrics/test_anatomy.py`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders import evaluation, read, save, write_store
from mrsr.errors import UserError
from mrsr.metrics import anatomy
from mrsr.metrics.evaluate import evaluate
from mrsr.params.jobs import Evaluation
from mrsr.params.schema import ANATOMY
from mrsr.slices import store

UNETR = {
    "size": [16, 16, 16], "hidden": 12, "mlp": 24, "heads": 3, "feature_size": 4, "classes": 3,
    "dimensions": 3,
}  # fmt: skip


class Thresholds(nn.Module):
    """Labels 1 above 0.3 and 2 above 0.7."""

    def forward(self, x: Tensor) -> Tensor:
        label = (x > 0.3).long() + (x > 0.7).long()
        return nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1).float()


def balls(path: Path, shape: tuple[int, int, int] = (20, 32, 30)) -> tuple[np.ndarray, np.ndarray]:
    """A store with one volume: a ball of 1000 in one of 500, and their labels 2 and 1."""
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    radius = np.sqrt((z - 10.0) ** 2 + (y - 15.0) ** 2 + (x - 14.0) ** 2)
    labels = (radius < 9).astype(np.uint8) + (radius < 5)
    write_store(path, [labels.astype(np.int16) * 500], [labels])
    return labels.astype(np.float32) / 2, labels


def dice(ours: np.ndarray, theirs: np.ndarray) -> float:
    return 2 * np.sum(ours & theirs) / (np.sum(ours) + np.sum(theirs))


def test_dice_by_hand(tmp_path: Path) -> None:
    image, labels = balls(tmp_path / "test.h5")
    segmenter = anatomy.Segmenter(Thresholds(), (16, 16, 16), 3, tmp_path / "test.h5")
    (volume,) = store.read_store(tmp_path / "test.h5")
    moved = np.roll(image, 3, axis=2)
    pair = torch.from_numpy(moved), torch.from_numpy(image)
    found = anatomy.per_slice(segmenter, volume, *pair, ANATOMY)
    shifted = np.roll(labels, 3, axis=2)
    wanted = np.mean([dice(shifted == tissue, labels == tissue) for tissue in (1, 2)])
    assert found["dice"] == pytest.approx(np.full(20, wanted))
    assert found["dice_hr"] == pytest.approx(np.ones(20))
    assert wanted < 0.7  # three voxels of a ball of radius five


def test_an_evaluation_has_both_as_columns(tmp_path: Path) -> None:
    balls(tmp_path / "test.h5", (20, 40, 36))
    saved = save(tmp_path / "vit/best.pt", "unetr", UNETR)
    settings = read(Evaluation, evaluation(more=["dice_hr", "hfen", "dice"]))
    out = tmp_path / "bicubic.json"
    record = evaluate(settings, tmp_path / "test.h5", out, segmentation=saved)
    assert record["more"] == ["dice_hr", "hfen", "dice"]
    assert 0 <= record["dice"]["mean"] <= 1
    assert 0 <= record["dice_hr"]["mean"] <= 1
    with out.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["dice_hr"] for row in rows}) == 1  # of the volume
    assert float(rows[0]["dice"]) == pytest.approx(record["dice"]["mean"])


def test_what_cannot_be_rated_is_said(tmp_path: Path) -> None:
    balls(tmp_path / "test.h5")
    settings = read(Evaluation, evaluation(more=["dice"]))
    out = tmp_path / "bicubic.json"
    with pytest.raises(UserError, match="give its best"):
        evaluate(settings, tmp_path / "test.h5", out)
    flat = save(tmp_path / "flat.pt", "unetr", {**UNETR, "dimensions": 2})
    with pytest.raises(UserError, match="sees slices"):
        evaluate(settings, tmp_path / "test.h5", out, segmentation=flat)
    write_store(tmp_path / "plain.h5", [np.ones((16, 32, 32), np.int16)], split="test")
    saved = save(tmp_path / "vit/best.pt", "unetr", UNETR)
    with pytest.raises(UserError, match="has no labels"):
        evaluate(settings, tmp_path / "plain.h5", out, segmentation=saved)
    assert not out.exists()
