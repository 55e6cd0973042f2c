"""The pre-texts of section 3.2 side by side, over seeds: which one is the more stable?

One experiment trains each pre-text once; `pretexts_0`, `_1` and `_2` differ in its seed alone. With
the folders of their trainings:

    mrsr pretext-table results/pretexts_?/checkpoints/vit/* --out results/pretexts

writes pretexts.csv, a line per training, and pretexts.md, a line per pre-text. Everything is of the
validation curves. The losses are of different kinds, so between pre-texts compare only what has no
unit: the deviation over seeds as a part of the mean, and how often a curve rises from one
validation to the next. The seed also draws what validation shows (which version, which mask, which
views), so the deviation holds that draw too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.log import read_log
from mrsr.sections import Pretext

PRETEXTS = get_args(Pretext)  # without torch
# of the last validation, where the pre-text has it
SCORES = ("balanced_accuracy", "histogram_balanced_accuracy", "accuracy")
COLUMNS = ("pretext", "seed", "steps", "first", "final", "lowest", "lowest_step", "rises", *SCORES)
# what may differ between trainings that are compared; the encoder's file names its experiment
DIFFERENT = (
    *("experiment", "method", "pretext", "seed", "start_sha256"),
    *("tracking", "log_every", "checkpoint_every", "place", "device", "threads"),
)


def pretext_table(folders: Iterable[Path], out: Path) -> str:
    """Write pretexts.csv and pretexts.md into `out`; return the Markdown.

    Args:
        folders: of ViT trainings, or their log.jsonl; those of the segmentation are passed over.

    Raises:
        UserError: no training of a pre-text, one that has not ended, the same pre-text and seed
            twice, or trainings whose other settings differ.
    """
    rows: list[dict[str, Any]] = []
    common: tuple[dict[str, Any], Path] | None = None
    for folder in folders:
        log = folder / "log.jsonl" if folder.is_dir() else folder
        found = _training(log)
        if found is None:
            continue
        settings, row = found
        shared = {key: value for key, value in settings.items() if key not in DIFFERENT}
        common = common or (shared, log)
        for key in sorted(shared.keys() | common[0].keys()):
            if shared.get(key) != common[0].get(key):
                raise UserError(
                    f"{log} and {common[1]} differ in {key}; compare trainings that differ in the"
                    " pre-text and its seed alone"
                )
        if any((row["pretext"], row["seed"]) == (r["pretext"], r["seed"]) for r in rows):
            raise UserError(
                f"{log}: pre-text {row['pretext']} with seed {row['seed']} is given twice;"
                " train it with another vit.finetuning.seed"
            )
        rows.append(row)
    if not rows:
        raise UserError("no training of a pre-text is given; give .../checkpoints/vit/organ")
    rows.sort(key=lambda row: (PRETEXTS.index(row["pretext"]), row["seed"]))

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "pretexts.csv", text.getvalue())
    markdown = _markdown(rows)
    write_text(out / "pretexts.md", markdown)
    return markdown


def _training(log: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Settings of a pre-text's training and what its validation curve says; None: another phase."""
    lines = read_log(log)
    start = next((line for line in lines if line.get("event") == "start"), {})
    settings = start.get("settings") or {}
    if settings.get("phase") == "segmentation":
        return None
    if settings.get("pretext") not in PRETEXTS or not isinstance(settings.get("seed"), int):
        raise UserError(f"{log} is no log of a pre-text's training; give .../vit/organ/log.jsonl")
    if not any(line.get("event") == "end" for line in lines):
        raise UserError(f"{log}: the training has not ended; run it to its last step")
    curve = [
        (line["step"], line["metrics"])
        for line in lines
        if line.get("split") == "validation" and line["metrics"].get("total") is not None
    ]
    if not curve:
        raise UserError(f"{log} has no validation loss; train again")
    losses = [metrics["total"] for _, metrics in curve]
    lowest = min(losses)
    rises = [after > before for before, after in pairwise(losses)]
    row = {
        "pretext": settings["pretext"],
        "seed": settings["seed"],
        "steps": settings["steps"],
        "first": losses[0],
        "final": losses[-1],
        "lowest": lowest,
        "lowest_step": curve[losses.index(lowest)][0],
        "rises": mean(rises) if rises else None,
        **{name: curve[-1][1].get(name) for name in SCORES},
    }
    return settings, row


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| pre-text | seeds | final validation loss of each | mean | deviation | deviation / mean |"
        " rises | final score of each |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for pretext in PRETEXTS:
        mine = [row for row in rows if row["pretext"] == pretext]
        if not mine:
            continue
        final = [row["final"] for row in mine]
        middle, spread = mean(final), stdev(final) if len(final) > 1 else None
        part = "-" if spread is None or middle == 0 else f"{spread / middle:.1%}"
        rises = [row["rises"] for row in mine if row["rises"] is not None]
        scores = [
            f"{name} " + ", ".join(f"{row[name]:.3f}" for row in mine)
            for name in SCORES
            if all(isinstance(row[name], (int, float)) for row in mine)
        ]
        cells = (
            pretext,
            ", ".join(str(row["seed"]) for row in mine),
            ", ".join(f"{value:.4g}" for value in final),
            f"{middle:.4g}",
            "-" if spread is None else f"{spread:.2g}",
            part,
            f"{mean(rises):.0%}" if rises else "-",
            "; ".join(scores) or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    steps = rows[0]["steps"]
    lines += [
        "",
        f"Validation after {steps} steps. Losses are of different kinds: between pre-texts compare"
        " only deviation / mean (sample deviation over seeds) and rises (the share of validations"
        " whose loss is above the one before).",
    ]
    return "\n".join(lines) + "\n"
