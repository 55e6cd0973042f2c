"""What a job does, in the words of the field: 'train SRResNet on phantom_t1 2x'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# rule -> what it does, with the rule's wildcards; a rule that is not here goes by its name
WORDS = {
    "raw_source": "prepare the scans of {source}",
    "slice_dataset": "cut {dataset} into slices",
    "guide_dataset": "cut the guide contrast of {dataset} into slices",
    "tracking_store": "set up tracking",
    "train_vit_segmentation": "pre-train the vision transformer (3D segmentation)",
    "train_vit_pretext": "fine-tune the vision transformer ({pretext} pretext task)",
    "train_autoencoder": "train the auto-encoder on {dataset} {scale}x",
    "train_sr": "train {method} on {dataset} {scale}x",
    "train_self": "train {method} on each test volume of {dataset} {scale}x",
    "evaluate": "evaluate {method} on {dataset} {scale}x",
    "probe_autoencoder": "probe the auto-encoder of {dataset} {scale}x",
    "write_tables": "write the tables",
    "frozen_table": "tabulate what the frozen networks have learned",
    "loss_curves": "draw the loss curves of {training}",
    "example_images": "super-resolve the slices that the figures show ({column})",
    "draw_figures": "draw the figures",
    "write_report": "write the report",
}
# method -> its name in the tables; the Snakefile fills it in
METHODS: dict[str, str] = {}

STEP = re.compile(r"\bstep (\d+)(?:/| of )(\d+)")
OURS = "mrsr: error:"


def job_words(rule: str, wildcards: Mapping[str, str]) -> str:
    """What a job of `rule` does."""
    names = dict(wildcards)
    names["method"] = METHODS.get(names.get("method", ""), names.get("method", ""))
    try:
        return WORDS[rule].format_map(names)
    except KeyError:  # not our rule, or not with these wildcards
        return " ".join([rule.replace("_", " "), *wildcards.values()])


def last_step(log: Path, since: float) -> tuple[int, int] | None:
    """(steps done, of how many) that a training's log says last; None where it says none.

    Args:
        log: the job's log.
        since: when the job began, in seconds since the epoch: an older file is of an earlier run.
    """
    try:
        if log.stat().st_mtime < since - 1:
            return None
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 4096))
            found = STEP.findall(file.read().decode("utf-8", "replace"))
    except OSError:
        return None
    return (int(found[-1][0]), int(found[-1][1])) if found else None


def error_line(log: Path) -> str:
    """The line of a failed job's log that says why: our own error, else the last line."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "the job left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(OURS)]
    return (ours or lines or ["the job's log is empty"])[-1]


def why(words: str, log: Path | None) -> list[str]:
    """What a failed job did, and where its log is; and, last, the line that says why it failed."""
    last = error_line(log) if log else "the rule has no log"
    return [f"failed: {words}, {log or 'no log'}", last]
