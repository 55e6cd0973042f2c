"""Compare the pretext tasks of section 3.2 over seeds: which is more stable?

    mrsr pretext-table results/pretexts_?/checkpoints/vit/* --out results/pretexts

One experiment trains each task once; `pretexts_0`, `_1` and `_2` differ only in their seed. All
numbers come from validation curves. The losses are of different kinds, so between tasks compare
only the deviation over seeds divided by the mean, and how often a curve rises from one validation
to the next. The seed also decides the validation images (version, mask or views), so the deviation
includes that choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pandas

from mrsr.console import account
from mrsr.errors import UserError
from mrsr.files import read_log, write_text
from mrsr.params.schema import Pretext
from mrsr.tables.formats import pipes, to_csv

PRETEXTS = get_args(Pretext)  # without torch
# of the last validation, if the task has it
SCORES = ("balanced_accuracy", "histogram_balanced_accuracy", "accuracy")
COLUMNS = ("pretext", "seed", "steps", "first", "final", "lowest", "lowest_step", "rises", *SCORES)
# may differ between trainings that are compared; the encoder's file has the experiment's name
DIFFERENT = (
    *("experiment", "method", "pretext", "seed", "start_sha256"),
    *("tracking", "log_every", "checkpoint_every", "place", "device", "threads"),
)


def pretext_table(folders: Iterable[Path], out: Path) -> str:
    """Write pretexts.csv, a line per training, and pretexts.md, a line per task; return the latter.

    Args:
        folders: of ViT trainings, or their log.jsonl; those of the segmentation are skipped.

    Raises:
        UserError: no training of a pretext task, one that has not ended, the same task and seed
            twice, or trainings whose other settings differ.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    common: tuple[dict[str, Any], Path] | None = None
    left_out: list[tuple[str, str]] = []
    for folder in folders:
        log = folder / "log.jsonl" if folder.is_dir() else folder
        lines = read_log(log)
        start = next((line for line in lines if line.get("event") == "start"), {})
        settings = start.get("settings") or {}
        if settings.get("phase") == "segmentation":
            left_out.append((str(folder), "a segmentation, no pretext task"))
            continue
        row = _curve(log, lines, settings)
        shared = {key: value for key, value in settings.items() if key not in DIFFERENT}
        common = common or (shared, log)
        for key in sorted(shared.keys() | common[0].keys()):
            if shared.get(key) != common[0].get(key):
                raise UserError(
                    f"{log} and {common[1]} differ in {key}; compare trainings that differ only in"
                    " the pretext task and its seed"
                )
        if (row["pretext"], row["seed"]) in rows:
            raise UserError(
                f"{log}: pretext task {row['pretext']} with seed {row['seed']} is given twice;"
                " train it with another vit.finetuning.seed"
            )
        rows[row["pretext"], row["seed"]] = row
    if not rows:
        raise UserError("no training of a pretext task is given; give .../checkpoints/vit/organ")
    account("pretext tasks", "trainings", len(rows), left_out)
    ordered = [rows[key] for key in sorted(rows, key=lambda key: (PRETEXTS.index(key[0]), key[1]))]
    frame = pandas.DataFrame(ordered, columns=COLUMNS)
    write_text(out / "pretexts.csv", to_csv(frame))
    markdown = _markdown(frame)
    write_text(out / "pretexts.md", markdown)
    return markdown


def _curve(log: Path, lines: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Summary of the validation curve of a pretext task, by `COLUMNS`."""
    if settings.get("pretext") not in PRETEXTS or not isinstance(settings.get("seed"), int):
        raise UserError(f"{log} is no log of a pretext task; give .../vit/organ/log.jsonl")
    if not any(line.get("event") == "end" for line in lines):
        raise UserError(f"{log}: the training has not ended; run it to its last step")
    curve = {
        line["step"]: line["metrics"]
        for line in lines
        if line.get("split") == "validation" and line["metrics"].get("total") is not None
    }
    if not curve:
        raise UserError(f"{log} has no validation loss; train again")
    losses = pandas.Series({step: metrics["total"] for step, metrics in curve.items()})
    last = curve[losses.index[-1]]
    return {
        **{name: settings[name] for name in ("pretext", "seed", "steps")},
        **{"first": losses.iloc[0], "final": losses.iloc[-1]},
        **{"lowest": losses.min(), "lowest_step": losses.idxmin()},
        "rises": (losses.diff().iloc[1:] > 0).mean(),
        **{name: last.get(name) for name in SCORES},
    }


def _markdown(frame: pandas.DataFrame) -> str:
    """One line per pretext task; '-' if one seed gives no deviation, or one validation no rise."""

    def text(value: float, form: str) -> str:
        return "-" if pandas.isna(value) else format(value, form)

    lines = []
    for pretext, own in frame.groupby("pretext", sort=False):
        final = own["final"]
        part = final.std() / final.mean() if final.mean() else float("nan")
        scores = [
            f"{name} " + ", ".join(f"{value:.3f}" for value in own[name])
            for name in SCORES
            if own[name].notna().all()
        ]
        lines.append(
            {
                "pretext task": pretext,
                "seeds": ", ".join(map(str, own["seed"])),
                "final validation loss of each": ", ".join(f"{value:.4g}" for value in final),
                "mean": f"{final.mean():.4g}",
                "deviation": text(final.std(), ".2g"),
                "deviation / mean": text(part, ".1%"),
                "rises": text(own["rises"].mean(), ".0%"),
                "final score of each": "; ".join(scores) or "-",
            }
        )
    return (
        f"{pipes(pandas.DataFrame(lines), 'lrlrrrrl')}\n"
        f"Validation after {frame['steps'].iloc[0]} steps. Losses are of different kinds: between"
        " tasks compare only deviation / mean (sample deviation over seeds) and rises (the share"
        " of validations whose loss is above the one before).\n"
    )
