"""Your own NIfTI files: every .nii and .nii.gz under a folder, in any orientation.

Nothing is copied: `prepare` checks the folder, and the volumes are read in place. There is one
contrast, "any", whatever the files contain. The subject is the file's name without suffix unless a
CSV gives another. (All files of a person must share a subject; otherwise they could end up in
different splits.) The CSV has a column split and one or both of file and subject:

    file,subject,split
    visit1/anna.nii.gz,anna,train
    visit2/anna.nii.gz,anna,train

A row with only a subject applies to files whose name, or folder's name, is the subject or starts
with it and _ or - (sub-01, sub-01_T1w.nii.gz). Without a CSV the split comes from a hash of the
subject's name, so adding a file does not move others. In params.yaml:

    data: {sources: {folder: {path: /scans, split: people.csv, organ: brain}}}

Tissue labels, which the ViT's pre-training needs, use the layout of the Medical Segmentation
Decathlon: `imagesTr/case.nii.gz` goes with `labelsTr/case.nii.gz`, integers on the same grid with 0
as background (likewise imagesTs and labelsTs, if test cases have labels). If there is a label
folder, every image of its image folder must have a label. dataset.json is not read: set vit.classes
to the largest label plus 1. Images with several channels (4D) are refused; save the channel you
want as a separate file.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mrsr.datasets.nifti import is_nifti, read_nifti, stem
from mrsr.datasets.volume import Volume, VolumeRef
from mrsr.errors import UserError

# defaults of data.sources.folder in params.yaml
SETTINGS: dict[str, Any] = {
    "path": "",  # the folder, searched recursively
    "split": "",  # CSV, or empty for the hash
    "organ": "brain",
    "seed": 0,
    "fractions": [0.7, 0.1, 0.2],  # train, validation, test
}
CONTRAST = "any"
SPLITS = ("train", "validation", "test")
LABELS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}  # folders of the Decathlon


class Row(NamedTuple):
    """A row of the CSV, for a file or a subject; empty where it gives nothing."""

    subject: str
    split: str


def prepare(folder: Path, settings: Any) -> None:
    """Check that the user's folder has scans, and write a list of them into `folder`.

    The list (`files.txt`, names relative to the user's folder) changes the stage's output when
    files are added or removed.
    """
    from mrsr.files import write_text

    refs = list_volumes(folder, settings, CONTRAST)
    root = Path(settings.path)
    lines = []
    for ref in refs:
        inside = [path.relative_to(root).as_posix() for path in (ref.path, ref.labels) if path]
        lines.append("\t".join([inside[0], ref.subject, ref.split, *inside[1:]]))
    write_text(Path(folder) / "files.txt", "\n".join(lines) + "\n")


def list_volumes(folder: Path, settings: Any, contrast: str = CONTRAST) -> list[VolumeRef]:
    """All scans below `settings.path`, sorted by path, with split and labels.

    Raises:
        UserError: no such folder, no scans, a CSV that does not match, fractions that do not sum
            to 1, or an image without a label although its folder has labels.
    """
    if contrast != CONTRAST:
        raise UserError(f"source 'folder' has one contrast, '{CONTRAST}'; found '{contrast}'")
    if not settings.path:
        raise UserError("sources.folder.path is empty; set it to the folder with your NIfTI files")
    root = Path(settings.path)
    if not root.is_dir():
        raise UserError(f"sources.folder.path: no folder {root}; check the path")
    found = sorted(
        path
        for path in root.rglob("*")
        if is_nifti(path) and path.is_file() and not path.name.startswith(".")
    )
    labels = _labels(root, found)
    paths = [path for path in found if path in labels]
    if not paths:
        raise UserError(
            f"{root} has no .nii or .nii.gz file{' except labels' if found else ''}; check"
            " sources.folder.path"
        )

    table = _read_table(Path(settings.split)) if settings.split else {}
    assigned = []
    for path in paths:
        inside = path.relative_to(root).as_posix()
        row = _find(table, inside)
        if row is None and table:
            raise UserError(
                f"{settings.split} has no row for {inside}; add its file or its subject, or move"
                " the file out of the folder"
            )
        if row is None:
            name = stem(path)
            row = Row(name, hashed_split(name, settings.fractions, settings.seed))
        assigned.append(row)
    visits = Counter(row.subject for row in assigned)
    refs = [
        VolumeRef(
            path=path,
            subject=row.subject,
            contrast=CONTRAST,
            organ=settings.organ,
            visit=path.relative_to(root).as_posix() if visits[row.subject] > 1 else "",
            split=row.split,
            labels=labels[path],
        )
        for path, row in zip(paths, assigned, strict=True)
    ]
    _check_disjoint(refs)
    return refs


def read_volume(ref: VolumeRef) -> Volume:
    """One scan, sliced in its finest plane."""
    return read_nifti(
        ref.path, subject=ref.subject, contrast=ref.contrast, organ=ref.organ, visit=ref.visit
    )


def hashed_split(subject: str, fractions: Sequence[float], seed: int) -> str:
    """The split of a subject, from its name alone: "train", "validation" or "test".

    fractions: shares of the three, summing to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"fractions {list(fractions)} must be three shares (train, validation, test) that"
            " sum to 1"
        )
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    at = int.from_bytes(digest[:8], "big") / 2**64
    if at < fractions[0]:
        return "train"
    return "validation" if at < fractions[0] + fractions[1] else "test"


def _labels(root: Path, found: list[Path]) -> dict[Path, Path | None]:
    """The scans among the files found below `root`, each with its labels or None."""
    by_place = {(path.parent, stem(path)): path for path in found}
    labels: dict[Path, Path | None] = {}
    for path in found:
        kind = path.parent.name if path.parent != root else ""
        if kind in LABELS.values():
            continue
        beside = path.parent.with_name(LABELS[kind]) if kind in LABELS else None
        labels[path] = None
        if beside is not None and beside.is_dir():
            labels[path] = by_place.get((beside, stem(path)))
            if labels[path] is None:
                inside, wanted = (p.relative_to(root) for p in (path, beside / path.name))
                raise UserError(
                    f"{inside.as_posix()} has no label; add {wanted.as_posix()} or move the image"
                    " out of the folder"
                )
    return labels


def _read_table(path: Path) -> dict[str, Row]:
    """Rows of the CSV by file (path in the folder, or name), or by subject if no file is given."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the split CSV {path} ({error}); check the path") from None
    if "split" not in columns or not {"file", "subject"} & set(columns):
        raise UserError(
            f"{path} has columns {columns}; it needs 'split' and one of 'file' and 'subject'"
        )
    table: dict[str, Row] = {}
    for number, line in enumerate(rows, start=2):
        file, subject, split = (
            (line.get(name) or "").strip() for name in ("file", "subject", "split")
        )
        if not (file or subject):
            raise UserError(f"{path} line {number}: neither file nor subject; fill one in")
        if split not in SPLITS:
            raise UserError(f"{path} line {number}: split '{split}' is none of {', '.join(SPLITS)}")
        row = Row(subject or stem(file), split)
        if table.setdefault(file or subject, row) != row:
            raise UserError(
                f"{path} line {number}: '{file or subject}' has another, contradictory row;"
                " keep one"
            )
    if not table:
        raise UserError(f"{path} has no rows; list your files or subjects, or set split to ''")
    return table


def _find(table: dict[str, Row], inside: str) -> Row | None:
    """The row of a file: by path, by name, or else by the longest matching subject."""
    parts = inside.split("/")
    for key in (inside, parts[-1], stem(inside)):
        if key in table:
            return table[key]
    names = [*parts[:-1], stem(inside)]
    fitting = [
        key
        for key in table
        if any(name == key or name.startswith((f"{key}_", f"{key}-")) for name in names)
    ]
    return table[max(fitting, key=len)] if fitting else None


def _check_disjoint(refs: list[VolumeRef]) -> None:
    splits: dict[str, VolumeRef] = {}
    for ref in refs:
        other = splits.setdefault(ref.subject, ref)
        if other.split != ref.split:
            raise UserError(
                f"subject '{ref.subject}' is in {other.split} ({other.path.name}) and in"
                f" {ref.split} ({ref.path.name}); give all files of a person one split"
            )
