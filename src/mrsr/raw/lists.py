"""Who is in which split: the splits' names, draws by hash, and lists in CSV files."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from mrsr.errors import UserError
from mrsr.params.schema import SPLITS
from mrsr.raw.volume import VolumeRef


def draw(text: str) -> float:
    """A number in [0, 1) from a text alone (SHA-256): it stays the same when others come or go."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def hashed_split(subject: str, fractions: Sequence[float], seed: int) -> str:
    """The split of a subject from its name alone.

    fractions: shares of train, validation and test, which sum to 1.

    Raises:
        UserError: they do not.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"split fractions {list(fractions)} must be three shares (train, validation, test) "
            "that sum to 1"
        )
    at = draw(f"{seed}:{subject}")
    return SPLITS[sum(at >= bound - 1e-12 for bound in (fractions[0], sum(fractions[:2])))]


def by_subject(refs: Iterable[VolumeRef]) -> dict[str, str]:
    """The split of each subject, as its volumes state it.

    Raises:
        UserError: two volumes of one subject are in different splits.
    """
    first: dict[str, VolumeRef] = {}
    for ref in refs:
        other = first.setdefault(ref.subject, ref)
        if other.split != ref.split:
            raise UserError(
                f"subject {ref.subject} is in two splits, {other.split} ({other.path.name}) and "
                f"{ref.split} ({ref.path.name}); put all scans of a subject into one"
            )
    return {subject: ref.split for subject, ref in first.items()}


def read_csv(path: Path, needs: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file in UTF-8, each with its place for messages ("a.csv line 2").

    needs: columns that must be there. Cells are stripped; missing ones are empty.

    Raises:
        UserError: unreadable, or a column is missing.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            lines = [(f"{path} line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the list {path} ({error}); give a CSV in UTF-8") from None
    missing = [name for name in needs if name not in columns]
    if missing:
        raise UserError(f"{path} has no column {' and '.join(missing)}, only {columns}; add it")
    return [(where, {key: (row[key] or "").strip() for key in columns}) for where, row in lines]
