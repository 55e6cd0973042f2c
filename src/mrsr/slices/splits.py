"""Train, validation and test, split by subject and never by slice or visit (section 4.1).

Every kind of split maps a subject's name to one split, so two splits cannot share a subject. A
source or a list that puts a subject into two splits is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mrsr.console import account, say
from mrsr.errors import UserError
from mrsr.params.schema import SPLITS, Split
from mrsr.raw.lists import by_subject, draw, hashed_split, read_csv
from mrsr.raw.volume import VolumeRef


def assign(refs: list[VolumeRef], split: Split, dataset: str = "") -> dict[str, list[VolumeRef]]:
    """The volumes of each split, in their order; none of `SPLITS` is empty.

    split: `kind` and its fields: "source" (each `VolumeRef.split`), "subjects" (three lists),
    "hash" (fractions, seed), "counts" (three numbers, seed), "csv" (path; columns subject, split).
    Subjects that lists or counts do not name are left out.

    Raises:
        UserError: a subject in two splits, an empty split, or a named subject that does not exist.
    """
    names = _names(refs)
    if split.kind == "source":
        where = _of_source(refs)
    elif split.kind == "subjects":
        where = _of_lists([(s, n) for n in SPLITS for s in getattr(split, n)], names, "split")
    elif split.kind == "hash":
        where = {name: hashed_split(name, split.fractions, split.seed) for name in names}
    elif split.kind == "counts":
        where = _of_counts(names, {name: getattr(split, name) for name in SPLITS}, split.seed)
    else:
        where = _of_lists(_read_csv(Path(split.path)), names, split.path)
    chosen = {name: [ref for ref in refs if where.get(ref.subject) == name] for name in SPLITS}
    for name, of_split in chosen.items():
        if not of_split:
            raise UserError(
                f"{dataset or 'dataset'}: the {name} split is empty ({len(names)} subjects "
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


def tell(
    dataset: str, refs: list[VolumeRef], chosen: dict[str, list[VolumeRef]], why: dict[Path, str]
) -> None:
    """Print how many volumes are used and left out, and the table: split, subject, files.

    why: the reason for those that are in no split of `chosen`.
    """
    used = {ref.path for of_split in chosen.values() for ref in of_split}
    out = [(_shown(ref), why[ref.path]) for ref in refs if ref.path not in used]
    account(f"dataset {dataset}", "volumes", len(refs) - len(out), out)
    for split, of_split in chosen.items():
        say(f"  {split}: {len(_names(of_split))} subjects, {len(of_split)} volumes")
        for subject in _names(of_split):
            files = [_shown(ref) for ref in of_split if ref.subject == subject]
            say(f"    {subject}: {', '.join(files)}")


def _shown(ref: VolumeRef) -> str:
    return "/".join(ref.path.parts[-2:])


def _names(refs: Iterable[VolumeRef]) -> list[str]:
    return sorted({ref.subject for ref in refs})


def _of_source(refs: list[VolumeRef]) -> dict[str, str]:
    for ref in refs:
        if ref.split not in SPLITS:
            raise UserError(
                f"{ref.path.name}: the source gives it the split '{ref.split}'; choose another "
                "kind of split, such as hash"
            )
    return by_subject(refs)


def _of_lists(listed: list[tuple[str, str]], names: list[str], origin: str) -> dict[str, str]:
    """subject -> split from (subject, split) pairs."""
    where: dict[str, str] = {}
    for subject, split in listed:
        if where.setdefault(str(subject), split) != split:
            raise UserError(
                f"{origin}: subject {subject} is in two splits, {where[str(subject)]} and {split}; "
                "keep it in one"
            )
    missing = sorted(set(where) - set(names))
    if missing:
        raise UserError(
            f"{origin} names {len(missing)} subjects that are not in the data: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; correct the list"
        )
    return where


def _read_csv(path: Path) -> list[tuple[str, str]]:
    listed = []
    for where, row in read_csv(path, ("subject", "split")):
        if not row["subject"] or row["split"] not in SPLITS:
            raise UserError(
                f"{where}: subject '{row['subject']}' has split '{row['split']}'; use one of "
                f"{', '.join(SPLITS)}"
            )
        listed.append((row["subject"], row["split"]))
    return listed


def _of_counts(names: list[str], counts: dict[str, int], seed: int) -> dict[str, str]:
    needed = sum(counts.values())
    if needed > len(names):
        raise UserError(
            f"the split needs {needed} subjects ({counts['train']} train, "
            f"{counts['validation']} validation, {counts['test']} test), the data has "
            f"{len(names)}; lower the counts"
        )
    drawn = iter(sorted(names, key=lambda name: (draw(f"{seed}:{name}"), name)))
    return {next(drawn): split for split in SPLITS for _ in range(counts[split])}
