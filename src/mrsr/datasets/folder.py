"""Your own NIfTI files below a folder: BIDS, a folder for each person, or files side by side.

Nothing is copied: `prepare` checks the folder, and the volumes are read in place. Links are
followed, linked folders too. Hidden files and folders and `derivatives`, `sourcedata` and `code`
are skipped at every level. Two files with the same bytes are refused, and so is a scan that is
there packed and unpacked. Every command prints how many files it found, used and left out, and why.

The contrast of a dataset is "any" (all but masks and, in BIDS, all but anatomical scans) or a word
of the files' names: T1w takes sub-01_T1w.nii.gz, FLAIR takes anna/flair.nii.gz. In BIDS it is the
suffix. So several datasets can share a folder.

The subject of a file comes from the first of these that says it:

1. the CSV's column subject (below);
2. the setting `subject`: "file" or "folder" if each file, or each folder directly below the
   root, is another person's; or a regular expression whose first group is the subject:
   "(pat[0-9]+)";
3. BIDS: sub-01, whatever the session. Files without sub- in their path are then left out;
4. the folders' and the file's name, without words such as T1, visit2 or 2024-01-05
   (`mrsr.raw.subjects`). Names that may still be one person's (anna_1, anna_2, ben_1) are refused.

The CSV (`split`) has a column split and one or both of file and subject:

    file,subject,split
    visit1/anna.nii.gz,anna,train
    visit2/anna.nii.gz,anna,train

A row with only a subject applies to files whose name, or folder's name, is the subject or starts
with it and _ or - (sub-01, sub-01_T1w.nii.gz). Without a CSV the split comes from a hash of the
subject's name, so adding a file does not move others. In params.yaml:

    data: {sources: {folder: {path: /scans, split: people.csv, organ: brain}}}

Another folder is a source with a name of its own: `sources: {clinic: {like: folder, path: ...}}`.

Tissue labels, which the ViT's pre-training needs, use the layout of the Medical Segmentation
Decathlon: `imagesTr/case.nii.gz` goes with `labelsTr/case.nii.gz`, integers on the same grid with 0
as background (likewise imagesTs and labelsTs, if test cases have labels). If there is a label
folder, every image of its image folder must have a label. dataset.json is not read: set vit.classes
to the largest label plus 1. Images with several channels (4D) are refused; save the channel you
want as a separate file.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mrsr import listing
from mrsr.console import account, say
from mrsr.errors import UserError
from mrsr.files import atomic, sha256, write_text
from mrsr.raw.lists import SPLITS, by_subject, hashed_split, read_csv
from mrsr.raw.nifti import read_nifti, stem
from mrsr.raw.scan_formats import SUFFIXES
from mrsr.raw.subjects import bids, refuse_unclear, subjects, why_not
from mrsr.raw.volume import Brought, Volume, VolumeRef

# defaults of data.sources.folder in params.yaml
SETTINGS: dict[str, Any] = {
    "path": "",  # the folder, searched recursively
    "split": "",  # CSV, or empty for the hash
    "subject": "",  # where the subject's name is: see above
    "organ": "brain",
    "seed": 0,
    "fractions": [0.7, 0.1, 0.2],  # train, validation, test
}
LABELLED = None  # whether there are labels depends on the files
# what decides besides: what these settings name, and which files count below a folder
FILES = {"path": [".nii.gz", ".nii", ".nii.bz2", ".mgz", ".mgh"], "split": []}
CONTRAST = "any"
LABELS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}  # the Decathlon's folders


class Row(NamedTuple):
    """A row of the CSV; `subject` is empty where it gives none, `file` where it is a subject's."""

    subject: str
    split: str
    file: str = ""


def prepare(folder: Path, settings: Any) -> Brought:
    """Check the user's folder, and write into `folder` what decides about its scans.

    `files.txt` has a line for each scan: its name in the user's folder, SHA-256 and labels, between
    tabs. `split.csv` is a copy of the list. Both change the stage's output when a file is added,
    removed or replaced, or the list is edited.

    Raises:
        UserError: as `list_volumes`, but for contrasts and subjects.
    """
    root, labels, left_out = _scans(settings)
    _refuse_copies(root, [path for path in labels if not why_not(_inside(root, path), CONTRAST)])
    lines = []
    for path, label in labels.items():
        line = [_inside(root, path), sha256(path)]
        line += [_inside(root, label), sha256(label)] if label else []
        lines.append(os.fsencode("\t".join(line)).decode("utf-8", "backslashreplace"))
    write_text(Path(folder) / "files.txt", "\n".join(lines) + "\n")
    written = [Path(folder) / "files.txt"]
    if settings.split:
        _read_table(Path(settings.split))
        written.append(Path(folder) / "split.csv")
        with atomic(written[1]) as temporary:
            shutil.copyfile(settings.split, temporary)
    return Brought(files=written, used=len(labels), left_out=left_out)


def list_volumes(folder: Path, settings: Any, contrast: str = CONTRAST) -> list[VolumeRef]:
    """All scans of a contrast below `settings.path`, sorted by path, with split and labels.

    Prints what was found, used and left out.

    Raises:
        UserError: no such folder, no scans, none of the contrast, the same content twice, subjects
            that cannot be told apart, a CSV that does not match, fractions that do not sum to 1, or
            an image without a label although its folder has labels.
    """
    del folder  # scans are read in place
    key = getattr(settings, "key", "folder")
    root, labels, left_out = _scans(settings)
    inside = {path: _inside(root, path) for path in labels}
    named = [path for path in labels if bids(inside[path])]
    for path in labels:
        if named and not bids(inside[path]):
            left_out.append((inside[path], "no sub- in its path, as BIDS has it"))
        elif reason := why_not(inside[path], contrast):
            left_out.append((inside[path], reason))
    out = {name for name, _ in left_out}
    paths = [path for path in labels if inside[path] not in out]
    account(f"{key}, contrast {contrast}", "scans", len(paths), left_out)
    if not paths:
        raise UserError(
            f"{root} has no scan of the contrast '{contrast}', but {min(inside.values())} and "
            f"{len(labels) - 1} more; name a word of the files' names (in BIDS the suffix), or any"
        )
    _refuse_copies(root, paths)

    assigned = _assigned(settings, key, [inside[path] for path in paths], contrast)
    visits = Counter(row.subject for row in assigned)
    refs = [
        VolumeRef(
            path=path,
            subject=row.subject,
            contrast=contrast,
            organ=settings.organ,
            visit=inside[path] if visits[row.subject] > 1 else "",
            split=row.split,
            labels=labels[path],
        )
        for path, row in zip(paths, assigned, strict=True)
    ]
    by_subject(refs)  # refuses a subject in two splits
    return refs


def read_volume(ref: VolumeRef) -> Volume:
    """One scan, sliced in its finest plane."""
    return read_nifti(ref.path, **ref.names)


def _inside(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _scans(settings: Any) -> tuple[Path, dict[Path, Path | None], list[tuple[str, str]]]:
    """The root, its scans with their labels or None, and what was left out, with reasons."""
    key = getattr(settings, "key", "folder")
    if not settings.path:
        raise UserError(f"sources.{key}.path is empty; set it to the folder with your NIfTI files")
    root = Path(settings.path)
    if not root.is_dir():
        raise UserError(f"sources.{key}.path: no folder {root}; check the path")
    found = listing.below(root, SUFFIXES)
    left_out = [(_inside(root, path), reason) for path, reason in found.left_out]
    labels = _labels(root, found.files)
    if not labels:
        why = " except labels" if found.files else ""
        why += "".join(f"; {name}: {reason}" for name, reason in left_out[:3])
        raise UserError(f"{root} has no .nii or .nii.gz file{why}; check sources.{key}.path")
    first: dict[tuple[Path, str], Path] = {}
    for path in labels:
        other = first.setdefault((path.parent, stem(path)), path)
        if other != path:
            raise UserError(
                f"{_inside(root, other)} and {_inside(root, path)} seem to be one scan, packed and "
                "unpacked; keep one of them"
            )
    return root, labels, left_out


def _refuse_copies(root: Path, paths: list[Path]) -> None:
    for one, two in listing.copies(paths):
        raise UserError(
            f"{_inside(root, one)} and {_inside(root, two)} have the same content; keep one of them"
        )


def _assigned(settings: Any, key: str, insides: list[str], contrast: str) -> list[Row]:
    """Subject and split of each file, by the CSV or by rules and hash."""
    table = _read_table(Path(settings.split)) if settings.split else {}
    setting = getattr(settings, "subject", "")
    rows: dict[str, Row] = {}
    taken: dict[str, str] = {}
    for inside in insides if table else []:
        row = _find(table, inside)
        if row is None:
            raise UserError(
                f"{settings.split} has no row for {inside}; add its file or its subject, or move"
                " the file out of the folder"
            )
        if row.file and row.file in taken:
            raise UserError(
                f"{settings.split}: the file {row.file} fits {taken[row.file]} and {inside}; give "
                "their paths in the folder"
            )
        taken[row.file] = inside
        rows[inside] = row
    idle = sorted(key for key, row in table.items() if row not in rows.values())
    if idle:
        say(f"{settings.split}: {len(idle)} rows fit no scan of {contrast}: {', '.join(idle[:20])}")
    open_ones = [inside for inside in insides if not (inside in rows and rows[inside].subject)]
    named = subjects(open_ones, setting, contrast) if open_ones else {}
    if not setting:
        guessed = {inside: name for inside, name in named.items() if not bids(inside)}
        refuse_unclear(guessed, {name: row.split for name, row in rows.items()}, key)
    for inside, name in named.items():
        split = rows[inside].split if table else ""
        rows[inside] = Row(name, split or hashed_split(name, settings.fractions, settings.seed))
    return [rows[inside] for inside in insides]


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
    """Rows of the CSV by file (path in the folder, or name), or by subject where no file stands."""
    table: dict[str, Row] = {}
    for where, row in read_csv(path, ("split",)):
        file, subject, split = (row.get(name, "") for name in ("file", "subject", "split"))
        if not (file or subject):
            raise UserError(f"{where}: neither file nor subject; name one in a column of that name")
        if split not in SPLITS:
            raise UserError(f"{where}: split '{split}' is none of {', '.join(SPLITS)}")
        key, known = file or subject, Row(subject, split, file)
        if table.setdefault(key, known) != known:
            raise UserError(f"{where}: '{key}' has another row that disagrees; leave one")
    if not table:
        raise UserError(f"{path} has no rows; list your files or subjects, or set split to ''")
    return table


def _find(table: dict[str, Row], inside: str) -> Row | None:
    """The row of a file: by path, by name, or else by the longest matching subject."""
    parts = inside.split("/")
    told = bids(inside)
    own = (told.subject, told.subject.removeprefix("sub-")) if told else ()
    for key in (inside, parts[-1], stem(inside), *own):
        if key in table:
            return table[key]
    names = [*parts[:-1], stem(inside)]
    fitting = [
        key
        for key in table
        if any(name == key or name.startswith((f"{key}_", f"{key}-")) for name in names)
    ]
    return table[max(fitting, key=len)] if fitting else None
