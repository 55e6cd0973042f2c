"""The command line of the trainings: what their options share, and what is around a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from mrsr import compute
from mrsr.errors import guarded
from mrsr.files import alone

Job = TypeVar("Job")
SPLITS = {"train": "learn from", "validation": "choose by", "test": "log a curve of"}


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with the options of every training: --settings and --out."""
    result = argparse.ArgumentParser(
        prog=f"python -m mrsr.training.{program}", description=description
    )
    result.add_argument("--settings", required=True, help="JSON object, or @file")
    result.add_argument("--out", required=True, type=Path, help="checkpoint to write: .../best.pt")
    return result


def add_stores(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add --train, --validation and --test: a slice store each, or `several`."""
    for split, use in SPLITS.items():
        parser.add_argument(
            f"--{split}", type=Path, required=split != "test", nargs="+" if several else None,
            metavar="STORE", help=f"slice store{'s' if several else ''} to {use}",
        )  # fmt: skip


def stores(given: argparse.Namespace) -> dict[str, Path]:
    """The store of each split that was given."""
    return {split: path for split in SPLITS if (path := getattr(given, split))}


@guarded
def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    read: Callable[[str], Job],
    train: Callable[[Job, argparse.Namespace], None],
) -> None:
    """Read the settings, keep other processes out of the folder of --out, and train.

    arguments: None takes the command line's. read: text of --settings -> what `train` is handed.
    """
    given = parser.parse_args(arguments)
    try:
        settings = read(given.settings)
        with alone(given.out.parent):
            train(settings, given)
    finally:
        compute.finish()
