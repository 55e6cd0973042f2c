"""Train, validation and test, split by subject and never by slice or visit (section 4.1).

Every kind of split maps a subject's name to one split, so that two splits cannot share one; a
source or a list that says otherwise is refused.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrsr.datasets.volume import VolumeRef
from mrsr.errors import UserError

SPLITS = ("train", "validation", "test")


def assign(refs: list[VolumeRef], split: Any, dataset: str = "") -> dict[str, list[VolumeRef]]:
    """The volumes of each split, in their order; every one of `SPLITS` is there and not empty.

    split: `kind` and its fields: "source" (each `VolumeRef.split`), "subjects" (three lists),
    "hash" (fractions, seed), "counts" (three numbers, seed), "csv" (path; columns subject, split).
    Subjects that lists or counts do not name are left out.

    Raises:
        UserError: a subject in two splits, an empty split, a named subject that is not there.
    """
    kinds = {
        "source": lambda: _of_source(refs),
        "subjects": lambda: _of_lists(
            {name: getattr(split, name) or [] for name in SPLITS}, _names(refs), "split"
        ),
        "hash": lambda: _of_hash(_names(refs), split.fractions, split.seed),
        "counts": lambda: _of_counts(
            _names(refs), {name: getattr(split, name) for name in SPLITS}, split.seed
        ),
        "csv": lambda: _of_lists(_read_csv(Path(split.path)), _names(refs), str(split.path)),
    }
    if split.kind not in kinds:
        raise UserError(f"split kind '{split.kind}' is not one of {', '.join(kinds)}")
    where = kinds[split.kind]()
    chosen = {name: [ref for ref in refs if where.get(ref.subject) == name] for name in SPLITS}
    for name, of_split in chosen.items():
        if not of_split:
            raise UserError(
                f"{dataset or 'dataset'}: the {name} split is empty ({len(_names(refs))} subjects "
                f"in all, split by {split.kind}); name the subjects or change the split"
            )
    return chosen


def first_subjects(
    chosen: dict[str, list[VolumeRef]], most: int | None
) -> dict[str, list[VolumeRef]]:
    """Only the first `most` subjects of each split, by name; all of them for None."""
    if not most:
        return chosen
    few = {name: set(_names(refs)[:most]) for name, refs in chosen.items()}
    return {
        name: [ref for ref in refs if ref.subject in few[name]] for name, refs in chosen.items()
    }


def _names(refs: Iterable[VolumeRef]) -> list[str]:
    return sorted({ref.subject for ref in refs})


def _of_source(refs: list[VolumeRef]) -> dict[str, str]:
    where: dict[str, str] = {}
    for ref in refs:
        if ref.split not in SPLITS:
            raise UserError(
                f"{ref.path.name}: the source gives it the split '{ref.split}'; choose another "
                "kind of split, such as hash"
            )
        if where.setdefault(ref.subject, ref.split) != ref.split:
            raise UserError(
                f"subject {ref.subject} is in two splits, {where[ref.subject]} and {ref.split} "
                f"(at {ref.path.name}); put all scans of a subject into one"
            )
    return where


def _of_lists(lists: dict[str, list[str]], names: list[str], origin: str) -> dict[str, str]:
    where: dict[str, str] = {}
    for split, subjects in lists.items():
        for subject in map(str, subjects):
            if where.setdefault(subject, split) != split:
                raise UserError(
                    f"{origin}: subject {subject} is in two splits, {where[subject]} and {split}; "
                    "keep it in one"
                )
    missing = sorted(set(where) - set(names))
    if missing:
        raise UserError(
            f"{origin} names {len(missing)} subjects that are not in the data: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; correct the list"
        )
    return where


def _read_csv(path: Path) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {name: [] for name in SPLITS}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"subject", "split"} <= set(rows.fieldnames or ()):
                raise UserError(f"{path} needs a first line with the columns subject,split")
            for row in rows:
                subject, split = (row["subject"] or "").strip(), (row["split"] or "").strip()
                if not subject or split not in lists:
                    raise UserError(
                        f"{path} line {rows.line_num}: subject '{subject}' has split '{split}'; "
                        f"use one of {', '.join(SPLITS)}"
                    )
                lists[split].append(subject)
    except OSError as error:
        raise UserError(f"cannot read the split {path}: {error.strerror}; check the path") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV file in UTF-8; save it as one") from None
    return lists


def _draw(subject: str, seed: int) -> float:
    """A number in [0, 1) that a subject keeps when others come or go."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode()).digest()[:6], "big") / 2**48


def _of_hash(names: list[str], fractions: list[float], seed: int) -> dict[str, str]:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"split fractions {list(fractions)} must be three that add up to 1")
    bounds = (fractions[0], fractions[0] + fractions[1])
    return {
        name: SPLITS[sum(_draw(name, seed) >= bound - 1e-12 for bound in bounds)] for name in names
    }


def _of_counts(names: list[str], counts: dict[str, int], seed: int) -> dict[str, str]:
    needed = sum(counts.values())
    if needed > len(names):
        raise UserError(
            f"the split needs {needed} subjects ({counts['train']} train, "
            f"{counts['validation']} validation, {counts['test']} test), the data has "
            f"{len(names)}; lower the counts"
        )
    drawn = iter(sorted(names, key=lambda name: (_draw(name, seed), name)))
    return {next(drawn): split for split in SPLITS for _ in range(counts[split])}
