"""What the frozen networks have learned, on held-out subjects: one table for an experiment.

By hand, with any of the sources:

    mrsr frozen results/demo/checkpoints/vit/organ \\
        results/demo/metrics/phantom_t1/x2/autoencoder.probe --out results/demo/tables

The segmentation's Dice and the pre-text's scores are those of the test subjects at the step of the
best checkpoint, from the training's own log; what an auto-encoder can do is measured by
`probe_autoencoder.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import write_text

# what to show of each network, with words for people
SHOWN = {
    "dice": "mean tissue Dice",
    "balanced_accuracy": "organ balanced accuracy",
    "histogram_balanced_accuracy": "the same by an intensity histogram alone",
    "squared_error": "squared error of masked pixels",
    "accuracy": "accuracy of the pre-text",
    "psnr": "reconstruction of HR, PSNR (dB)",
    "psnr_bicubic": "bicubic from the same LR, PSNR (dB)",
    "psnr_without_texture": "reconstruction without z_tex, PSNR (dB)",
    "structure_nearer": "swapped: structure code nearer its donor",
    "texture_nearer": "swapped: texture code nearer its donor",
}


def frozen_table(sources: Iterable[Path], out: Path) -> list[dict[str, Any]]:
    """Write frozen.csv and frozen.md: network, measure, value, on how many slices or at what step.

    Args:
        sources: folders of ViT trainings (their log.jsonl), and JSON files of probes.
        out: folder of the tables.

    Raises:
        UserError: a source is neither.
    """
    rows: list[dict[str, Any]] = []
    for source in sources:
        network, values = _probed(source) if source.is_file() else _logged(source)
        rows += [
            {"network": network, "measure": words, "value": round(values[key], 4)}
            for key, words in SHOWN.items()
            if isinstance(values.get(key), (int, float))
        ]
    table = io.StringIO()
    writer = csv.DictWriter(table, ["network", "measure", "value"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    lines = ["| network | on test subjects | value |", "| --- | --- | ---: |"]
    lines += [f"| {row['network']} | {row['measure']} | {row['value']:g} |" for row in rows]
    write_text(out / "frozen.csv", table.getvalue())
    write_text(out / "frozen.md", "\n".join(lines) + "\n")
    return rows


def _logged(folder: Path) -> tuple[str, dict[str, Any]]:
    """The test metrics of a ViT training at the step of its best checkpoint."""
    from mrsr.log import read_log

    lines = read_log(folder / "log.jsonl")
    best = next((line["best_step"] for line in lines if line.get("event") == "end"), None)
    for line in lines:
        if line.get("split") == "test" and line["step"] == best:
            return f"ViT, {folder.name}", line["metrics"]
    raise UserError(f"{folder}/log.jsonl has no test metrics of its best step; train again")


def _probed(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return f"auto-encoder, {values['dataset']} {values['scale']}x", values
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is no result of probe_autoencoder; measure it again") from None
