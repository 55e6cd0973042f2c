"""Pair PD with fat-suppressed PD scans and assign each pair a subject and a split.

Used by `fastmri`, whose docstring has the rules. The paper (section 4.1) has 227 and 24 pairs and
does not say which.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.raw.fastmri_file import describe
from mrsr.raw.lists import SPLITS, draw

FOLDERS = {"singlecoil_train": "train", "singlecoil_val": "test"}  # the publisher's -> our split
CONTRASTS = {"CORPD_FBK": "PD", "CORPDFS_FBK": "PDFS"}
_SPLITS = {name: name for name in ("", *SPLITS)} | {"val": "validation"}  # in a list
_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, order=True)
class Scan:
    """A file of the source, with data from its header."""

    path: Path
    contrast: str
    person: str
    slices: int

    @property
    def folder_split(self) -> str:
        """The split of the publisher's folder; empty in other folders."""
        return FOLDERS.get(self.path.parent.name, "")


@dataclass(frozen=True)
class Pair:
    """PD and fat-suppressed PD of one knee."""

    pd: Scan
    pdfs: Scan
    split: str = ""
    subject: str = ""

    @property
    def key(self) -> str:
        return f"{self.pd.path.stem}_{self.pdfs.path.stem}"


def choose(files: list[Path], settings: Any) -> list[Pair]:
    """The pairs to use, each with its subject and split, sorted."""
    if settings.pairs:
        pairs = _listed(Path(settings.pairs), {path.stem: path for path in files})
    else:
        pairs = _derived(list(map(_scan, files)), settings)
    pairs = _with_test(_with_subjects(pairs), settings)
    return sorted(_with_validation(pairs, settings), key=lambda pair: pair.key)


def _derived(scans: list[Scan], settings: Any) -> list[Pair]:
    """Pairs by patient_id within a folder, equal numbers of slices first."""
    pairs: list[Pair] = []
    used: set[Scan] = set()
    scans = sorted(scans, key=lambda scan: (str(scan.path.parent), scan.person))
    for _, of_person in groupby(scans, key=lambda scan: (scan.path.parent, scan.person)):
        person = list(of_person)
        options = product(*([s for s in person if s.contrast == c] for c in ("PD", "PDFS")))
        for a, b in sorted(options, key=lambda two: (abs(two[0].slices - two[1].slices), *two)):
            if not used & {a, b}:
                used |= {a, b}
                pairs.append(Pair(a, b, a.folder_split))
    if not pairs:
        raise UserError(
            f"fastmri: no two of {len(scans)} files are PD and FS-PD of one patient_id; "
            "list the pairs in a CSV (data.sources.fastmri.pairs)"
        )
    train, test = settings.pairs_train, settings.pairs_test
    kept = []
    for split, limit in {"train": train, "test": test, "": train + test}.items():
        of_split = [pair for pair in pairs if pair.split == split]
        kept += sorted(of_split, key=lambda pair: _draw(pair.key, settings.seed))[:limit]
    return kept


def _listed(path: Path, files: dict[str, Path]) -> list[Pair]:
    """Pairs of a CSV, or of all CSVs in a folder."""
    lists = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    pairs: dict[str, Pair] = {}
    for file in lists:
        try:
            rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
        except (OSError, UnicodeDecodeError, csv.Error):
            raise UserError(f"cannot read the pair list {file}; give a CSV of file stems") from None
        for number, row in enumerate(rows, start=1):
            cells = [cell.strip().removesuffix(".h5") for cell in row]
            if not re.search(r"\d", "".join(cells[:2])):
                continue  # an empty line or the header
            pair = _row(f"{file.name} line {number}", cells, files)
            pairs[pair.key] = pair
    if not pairs:
        raise UserError(f"{path} lists no pairs of existing files; check data.sources.fastmri")
    return list(pairs.values())


def _row(where: str, cells: list[str], files: dict[str, Path]) -> Pair:
    if len(cells) < 2 or not all(_STEM.fullmatch(cell) for cell in cells[:2]):
        raise UserError(f"{where}: expected two file stems such as file1000685, file1000568")
    missing = [cell for cell in cells[:2] if cell not in files]
    if missing:
        raise UserError(f"{where}: no file {missing[0]}.h5 in the source; correct the list")
    scans = {scan.contrast: scan for scan in (_scan(files[cell]) for cell in cells[:2])}
    if set(scans) != {"PD", "PDFS"}:
        raise UserError(
            f"{where}: one file must be CORPD_FBK and the other CORPDFS_FBK; correct the list"
        )
    split = cells[2].lower() if len(cells) > 2 else ""
    if split not in _SPLITS:
        try:
            float(split)  # public lists carry a measure of likeness in the third column
        except ValueError:
            raise UserError(
                f"{where}: '{split}' is none of train, validation, test; correct the list"
            ) from None
    return Pair(scans["PD"], scans["PDFS"], _SPLITS.get(split) or scans["PDFS"].folder_split)


def _with_subjects(pairs: list[Pair]) -> list[Pair]:
    """Give pairs that share a person, even indirectly, one subject, so they stay in one split."""
    leader: dict[str, str] = {}

    def lead(person: str) -> str:
        while leader.setdefault(person, person) != person:
            person = leader[person]
        return person

    for pair in pairs:
        leader[lead(pair.pd.person)] = lead(pair.pdfs.person)
    names: dict[str, str] = {}
    for pair in sorted(pairs, key=lambda pair: pair.key):
        names.setdefault(lead(pair.pd.person), pair.pd.path.stem)
    pairs = [replace(pair, subject=names[lead(pair.pd.person)]) for pair in pairs]
    splits: dict[str, str] = {}
    for pair in pairs:
        if splits.setdefault(pair.subject, pair.split) != pair.split:
            raise UserError(
                f"fastmri: pair {pair.key} shares a person with a pair of another split; "
                "put both into one split, or leave one out"
            )
    return pairs


def _with_test(pairs: list[Pair], settings: Any) -> list[Pair]:
    """Unless list or folder gives splits, take the first pairs by hash as test set."""
    if any(pair.split for pair in pairs):
        unknown = [pair.key for pair in pairs if not pair.split]
        if unknown:
            raise UserError(f"fastmri: pair {unknown[0]} has no split although others have; add it")
        return pairs
    test = _first(pairs, settings.pairs_test, settings.seed)
    return [replace(pair, split="test" if pair.subject in test else "train") for pair in pairs]


def _with_validation(pairs: list[Pair], settings: Any) -> list[Pair]:
    """Unless a list gives validation subjects, take them from train by hash."""
    if any(pair.split == "validation" for pair in pairs):
        return pairs
    train = [pair for pair in pairs if pair.split == "train"]
    chosen = _first(train, settings.validation, settings.seed + 1)
    if not train or len(chosen) == len({pair.subject for pair in train}):
        raise UserError(
            f"fastmri: {len(train)} training pairs are too few to set {settings.validation} aside "
            "for validation; lower data.sources.fastmri.validation or pairs_test, or add files"
        )
    return [replace(p, split="validation") if p.subject in chosen else p for p in pairs]


def _first(pairs: list[Pair], number: int, seed: int) -> set[str]:
    """Subjects in order of their hash, until they have `number` pairs."""
    chosen: set[str] = set()
    for subject in sorted({pair.subject for pair in pairs}, key=lambda name: _draw(name, seed)):
        if sum(pair.subject in chosen for pair in pairs) >= number:
            break
        chosen.add(subject)
    return chosen


def _draw(name: str, seed: int) -> float:
    return draw(f"fastmri:{seed}:{name}")


def hdf5_files(folder: Path) -> list[Path]:
    """The HDF5 files of a folder and of the publisher's folders in it, sorted."""
    files = sorted(
        path
        for inside in (".", *FOLDERS)
        for path in (folder / inside).glob("*.h5")
        if not path.name.startswith(".")
    )
    if not files:
        raise UserError(f"no .h5 files in {folder}, nor in {' or '.join(FOLDERS)} below it")
    twice = [stem for stem, times in Counter(path.stem for path in files).items() if times > 1]
    if twice:
        raise UserError(f"{min(twice)}.h5 is in two folders below {folder}; keep one of them")
    return files


def _scan(path: Path) -> Scan:
    acquisition, person, slices = describe(path)
    return Scan(path, CONTRASTS.get(acquisition, ""), person, slices)
