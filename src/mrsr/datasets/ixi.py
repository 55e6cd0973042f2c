"""ixi: brain scans of nearly 600 healthy people, PD, T1 and T2 (paper, section 4.1).

Data: the IXI project, Imperial College London, brain-development.org, CC BY-SA 3.0. Three archives
(14 GB) are downloaded from the publisher, with interrupted downloads resumed, verified by MD5 and
unpacked to `IXI-T1/`, `IXI-T2/` and `IXI-PD/`. A marker next to each (`IXI-T1.json`) lists its
files. The archive is then deleted to free space, and a second run downloads nothing. Other files in
these folders are left alone. A folder without a marker that has the scan of every subject of the
list (without a list, of 576 subjects) is used as it is: you unpacked it yourself.

Slices run along the third stored axis: T1 is a sagittal stack (256x256x150), T2 and PD are axial
(256x256x~130) and come from one dual-echo scan, so those two are registered (`pair`).

The split is the same for all contrasts: subjects who have all three, each with at least 96 slices
(IXI014-HH-1236-PD has 29), are ordered by a hash of their name and cut into 500 train, 70 test and
6 validation. The list is workflow/splits/ixi.csv (setting `subjects`), made by

    python -m mrsr.datasets.ixi --split data/raw/ixi workflow/splits/ixi.csv

If that file is missing, the same list is computed from the scans.

`source`: empty for the publisher, or a base URL or folder with the three archives. A folder may
also hold what was in them, in `IXI-T1/` and so on or side by side: it is linked to, not copied.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.raw import download
from mrsr.raw.lists import draw, read_csv
from mrsr.raw.nifti import read_nifti
from mrsr.raw.unpack import fetch_archive
from mrsr.raw.volume import Brought, Volume, VolumeRef, fetched

SETTINGS = {
    "source": "",  # a base URL or folder with the archives or scans; empty: the publisher
    "subjects": "workflow/splits/ixi.csv",
}
# what decides besides; the archives have their MD5
FILES = {"source": [".nii.gz"], "subjects": []}
PUBLISHER = "http://biomedic.doc.ic.ac.uk/brain-development/downloads/IXI"
MD5 = {
    "PD": "88ecd9d1fa33cb4a2278183b42ffd749",
    "T1": "34901a0593b41dd19c1a1f746eac2d58",
    "T2": "e3140d78730ecdd32ba92da48c0a9aaa",
}
SIZES = {"train": 500, "test": 70, "validation": 6}  # in the order in which subjects are assigned
MIN_SLICES = 96
_NAME = re.compile(r"(IXI\d{3}-[A-Za-z]+-\d{4})-(PD|T1|T2)\.nii\.gz")
_MAX_BYTES = 40 * 2**30  # an archive has 3 to 5 GB


def prepare(folder: Path, settings: Any) -> Brought:
    """Fetch, verify and unpack the three archives, skipping those that are complete.

    Raises:
        UserError: a source that cannot be reached, a wrong checksum, an unsafe or damaged archive,
            or a folder of scans that lacks some.
    """
    folder = Path(folder)
    base = settings.source or PUBLISHER
    files: list[Path] = []
    left_out: list[tuple[str, str]] = []
    for contrast, md5 in MD5.items():
        target = folder / f"IXI-{contrast}"
        _link(settings, contrast, target)
        if not target.with_name(f"{target.name}.json").exists() and _whole(target, settings):
            say(f"ixi: {target} has no marker of mrsr and all scans: it is used as it is")
            brought = sorted(_scans(target).values())
        else:
            brought = fetch_archive(
                partial(download.join, base, f"IXI-{contrast}.tar"),
                target,
                f"IXI-{contrast}.tar",
                only=partial(_subject, contrast),
                hint=f"file named like IXI002-Guys-0828-{contrast}.nii.gz; check data.sources.ixi",
                md5=md5,
                max_bytes=_MAX_BYTES,
            )
        files += brought
        left_out += [
            (f"{target.name}/{path.name}", "not of the archive; it is left alone")
            for path in sorted(target.iterdir())
            if path not in brought and not path.name.startswith(".")
        ]
    return Brought(files=files, used=len(files), left_out=left_out)


def list_volumes(folder: Path, settings: Any, contrast: str) -> list[VolumeRef]:
    """The scans of one contrast ("PD", "T1" or "T2") of the subjects in the split, sorted.

    Raises:
        UserError: no such contrast, an invalid list, sizes other than 500/70/6, or a missing file.
    """
    if contrast not in MD5:
        raise UserError(f"ixi has no contrast '{contrast}'; it has {', '.join(MD5)}")
    folder = Path(folder)
    listed = bool(settings.subjects) and Path(settings.subjects).is_file()
    split = read_split(Path(settings.subjects)) if listed else dict(make_split(folder))
    return [
        VolumeRef(
            path=fetched(folder / f"IXI-{contrast}" / f"{subject}-{contrast}.nii.gz", "ixi"),
            subject=subject,
            contrast=contrast,
            organ="brain",
            split=split[subject],
            pair="" if contrast == "T1" else subject,
        )
        for subject in sorted(split)
    ]


def read_volume(ref: VolumeRef) -> Volume:
    """One scan, slices along the third stored axis.

    Raises:
        UserError: fewer than 96 slices (such subjects are not in the split), or unreadable.
    """
    volume = read_nifti(ref.path, slice_axis=2, **ref.names)
    if volume.stored.shape[0] < MIN_SLICES:
        raise UserError(
            f"{ref.path.name} has {volume.stored.shape[0]} slices, {MIN_SLICES} are needed; "
            "remove this subject from the split list"
        )
    return volume


def make_split(folder: Path) -> list[tuple[str, str]]:
    """(subject, split) of all subjects who qualify, sorted by subject.

    The split depends on the names alone: subjects are ordered by the SHA-256 of "ixi:<subject>";
    the first 500 are train, the next 70 test, the last 6 validation.

    Raises:
        UserError: folders are missing, or the number of subjects is not 576.
    """
    names = {contrast: _subjects(Path(folder), contrast) for contrast in MD5}
    everywhere = sorted(set.intersection(*map(set, names.values())))
    failed = {
        subject: f"{subject}-{contrast} {reason}"
        for subject in everywhere
        for contrast in MD5
        if (reason := _unfit(names[contrast][subject]))
    }
    for reason in failed.values():
        print(f"ixi: left out: {reason}", file=sys.stderr)
    fit = [subject for subject in everywhere if subject not in failed]
    for person, count in Counter(subject.partition("-")[0] for subject in fit).items():
        if count > 1:
            raise UserError(f"{folder} has {count} sets of scans of {person}; keep one of them")
    needed = sum(SIZES.values())
    if len(fit) != needed:
        raise UserError(
            f"{folder}: {len(fit)} people have PD, T1 and T2 of {MIN_SLICES} slices, the split "
            f"needs {needed}; fetch the archives again, or use the source 'folder' for other files"
        )
    dealt = sorted(fit, key=lambda subject: draw(f"ixi:{subject}"))
    parts = [part for part, size in SIZES.items() for _ in range(size)]
    return sorted(zip(dealt, parts, strict=True))


def read_split(path: Path) -> dict[str, str]:
    """Read {subject: split} from a list with the columns subject and split.

    Raises:
        UserError: not such a list, a subject twice, or sizes other than 500/70/6.
    """
    split: dict[str, str] = {}
    for where, row in read_csv(path, ("subject", "split")):
        subject, part = row["subject"], row["split"]
        if not _subject("T1", f"{subject}-T1.nii.gz") or part not in SIZES:
            raise UserError(
                f"{where}: expected a subject like IXI002-Guys-0828 and one of {', '.join(SIZES)}"
            )
        if subject in split:
            raise UserError(f"{where}: {subject} is listed twice")
        split[subject] = part
    found = {part: list(split.values()).count(part) for part in SIZES}
    if found != SIZES:
        have, need = ("/".join(map(str, sizes.values())) for sizes in (found, SIZES))
        raise UserError(f"{path} has {have} {'/'.join(SIZES)} subjects; it must have {need}")
    return split


def write_split(folder: Path, path: Path) -> None:
    """Make the list from the files in `folder` and write it."""
    rows = [("subject", "split"), *make_split(folder)]
    write_text(path, "".join(f"{subject},{part}\n" for subject, part in rows))


def _subject(contrast: str, name: str) -> str:
    """The subject of a file of this contrast; empty for any other file."""
    match = _NAME.fullmatch(Path(name).name)
    return match[1] if match and match[2] == contrast else ""


def _subjects(folder: Path, contrast: str) -> dict[str, Path]:
    """subject -> file of one contrast."""
    return _scans(fetched(folder / f"IXI-{contrast}", "ixi"), contrast)


def _scans(inside: Path, contrast: str = "") -> dict[str, Path]:
    """subject -> file of a folder; by default of the contrast that the folder is named after."""
    contrast = contrast or inside.name.removeprefix("IXI-")
    files = sorted(inside.iterdir()) if inside.is_dir() else []
    found = {_subject(contrast, path.name): path for path in files if path.is_file()}
    return {subject: path for subject, path in found.items() if subject}


def _whole(target: Path, settings: Any) -> bool:
    """Whether a folder has the scans of all subjects of the list, or of as many as are needed."""
    found = set(_scans(target))
    if settings.subjects and Path(settings.subjects).is_file():
        return bool(found) and set(read_split(Path(settings.subjects))) <= found
    return len(found) >= sum(SIZES.values())


def _link(settings: Any, contrast: str, target: Path) -> None:
    """Link to the unpacked scans of a source that is a folder, if it has them and no archive.

    Raises:
        UserError: it lacks scans.
    """
    root = download.local_path(settings.source) if settings.source else None
    if root is None or (root / f"IXI-{contrast}.tar").is_file():
        return
    for inside in (root / f"IXI-{contrast}", root):
        scans = _scans(inside, contrast)
        if not scans:
            continue
        target.mkdir(parents=True, exist_ok=True)
        for path in scans.values():
            link = target / path.name
            if link.is_symlink() and not (link.exists() and link.samefile(path)):
                link.unlink()  # of another source, or of one that is gone
            if not link.exists():
                link.symlink_to(path.resolve())
        if not _whole(target, settings):
            raise UserError(
                f"{inside} has {len(scans)} {contrast} scans, not those of all subjects; put the "
                f"others there, or the archive IXI-{contrast}.tar into {root}"
            )
        return


def _unfit(path: Path) -> str:
    """Why a scan cannot be used, judged by its header; empty if it can."""
    import nibabel

    try:
        shape = cast("nibabel.Nifti1Image", nibabel.load(path)).shape
    except Exception as error:  # a broken file may raise anything: skip it and say so
        return f"cannot be read ({type(error).__name__})"
    if len(shape) != 3:
        return f"is not 3D {shape}"
    return f"has {shape[2]} slices" if shape[2] < MIN_SLICES else ""


def main(arguments: list[str]) -> None:
    if len(arguments) != 3 or arguments[0] != "--split":
        raise UserError("usage: python -m mrsr.datasets.ixi --split data/raw/ixi LIST.csv")
    write_split(Path(arguments[1]), Path(arguments[2]))


if __name__ == "__main__":
    from mrsr.errors import guarded

    guarded(main)(sys.argv[1:])
