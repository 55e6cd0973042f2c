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

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.raw.lists import SPLITS, by_subject, hashed_split, read_csv
from mrsr.raw.nifti import is_nifti, read_nifti, stem
from mrsr.raw.volume import Volume, VolumeRef

# defaults of data.sources.folder in params.yaml
SETTINGS: dict[str, Any] = {
    "path": "",  # the folder, searched recursively
    "split": "",  # CSV, or empty for the hash
    "organ": "brain",
    "seed": 0,
    "fractions": [0.7, 0.1, 0.2],  # train, validation, test
}
LABELLED = None  # whether there are labels depends on the files
CONTRAST = "any"
LABELS = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}  # the Decathlon's folders


class Row(NamedTuple):
    """A row of the CSV, for a file or a subject; empty where it gives nothing."""

    subject: str
    split: str


def prepare(folder: Path, settings: Any) -> None:
    """Check that the user's folder has scans, and write a list of them into `folder`.

    The list (`files.txt`, names relative to the user's folder) changes the stage's output when
    files are added or removed.
    """
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
        inside, name = path.relative_to(root).as_posix(), stem(path)
        if table:
            row = _find(table, inside)
        else:
            row = Row(name, hashed_split(name, settings.fractions, settings.seed))
        if row is None:
            raise UserError(
                f"{settings.split} has no row for {inside}; add its file or its subject, or move"
                " the file out of the folder"
            )
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
    by_subject(refs)  # refuses a subject in two splits
    return refs


def read_volume(ref: VolumeRef) -> Volume:
    """One scan, sliced in its finest plane."""
    return read_nifti(ref.path, **ref.names)


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
        key, known = file or subject, Row(subject or stem(file), split)
        if table.setdefault(key, known) != known:
            raise UserError(f"{where}: '{key}' has another row that disagrees; leave one")
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
