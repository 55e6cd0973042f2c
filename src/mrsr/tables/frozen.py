"""What the frozen networks of an experiment have learned, on test subjects, in one table.

    mrsr frozen results/demo/checkpoints/vit/organ \\
        results/demo/metrics/phantom_t1/x2/autoencoder.probe --out results/demo/tables

The segmentation's Dice and the pretext task's scores are those of the test subjects at the step of
the best checkpoint, from the training's log; `probe_autoencoder.py` measures an auto-encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas

from mrsr.errors import UserError
from mrsr.files import read_log, write_text
from mrsr.tables.formats import pipes, to_csv

# metric -> how the table names it
SHOWN = {
    "dice": "mean tissue Dice",
    "balanced_accuracy": "organ balanced accuracy",
    "histogram_balanced_accuracy": "the same by an intensity histogram alone",
    "squared_error": "squared error of masked pixels",
    "accuracy": "accuracy of the pretext task",
    "psnr": "reconstruction of HR, PSNR (dB)",
    "psnr_bicubic": "bicubic from the same LR, PSNR (dB)",
    "psnr_without_texture": "reconstruction without z_tex, PSNR (dB)",
    "structure_nearer": "swapped: structure code nearer its donor",
    "texture_nearer": "swapped: texture code nearer its donor",
}


def frozen_table(sources: Iterable[Path], out: Path) -> list[dict[str, Any]]:
    """Write frozen.csv and frozen.md: network, measure, value.

    Args:
        sources: folders of ViT trainings (their log.jsonl), and JSON files of probes.
        out: folder of the tables.

    Raises:
        UserError: a source is neither.
    """
    rows = [
        {"network": network, "measure": name, "value": round(values[key], 4)}
        for network, values in map(_read, sources)
        for key, name in SHOWN.items()
        if isinstance(values.get(key), (int, float))
    ]
    frame = pandas.DataFrame(rows, columns=["network", "measure", "value"], dtype=object)
    write_text(out / "frozen.csv", to_csv(frame))
    frame["value"] = frame["value"].map("{:g}".format)
    frame = frame.rename(columns={"measure": "on test subjects"})
    write_text(out / "frozen.md", pipes(frame, "llr"))
    return rows


def _read(source: Path) -> tuple[str, dict[str, Any]]:
    """A network's name, and its metrics on test subjects."""
    if source.is_file():
        try:
            values = json.loads(source.read_text(encoding="utf-8"))
            return f"auto-encoder, {values['dataset']} {values['scale']}x", values
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{source} is not a probe's result; measure it again") from None
    lines = read_log(source / "log.jsonl")
    best = next((line["best_step"] for line in lines if line.get("event") == "end"), None)
    for line in lines:
        if line.get("split") == "test" and line["step"] == best:
            return f"ViT, {source.name}", line["metrics"]
    raise UserError(f"{source}/log.jsonl has no test metrics of its best step; train again")
