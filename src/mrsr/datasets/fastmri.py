"""fastmri: single-coil knees, proton density with and without fat suppression (section 4.1).

Data: Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI",
arXiv:1811.08839; access by application at fastmri.med.nyu.edu. Either `source` is a folder of HDF5
files, with or without `singlecoil_train/` and `singlecoil_val/`, or the environment variables
FASTMRI_KNEE_TRAIN_URL and FASTMRI_KNEE_VAL_URL hold the signed links of the two tar.xz archives.
Those links are secrets: they never appear in a setting, message, log or file.

Contrasts: PD (CORPD_FBK) and PDFS (CORPDFS_FBK), one pair per person and knee. `pairs` is a CSV
with two columns of file stems in either order, or a folder of such lists. An optional third column
gives the split: train, validation or test (numbers, as in public lists, are ignored). Without a
list, pairs are made from files with the same `patient_id` in one folder, preferring equal numbers
of slices, up to `pairs_train` from singlecoil_train and `pairs_test` from singlecoil_val. Unless
the list says otherwise, singlecoil_val is the test set; in a flat folder it is the first
`pairs_test` pairs by hash. Pairs that share a person are one subject. `validation` pairs are taken
from train by the hash of the subject.

The chosen pairs are written to `pairs.csv` in the folder (pd, pdfs, subject, split, pair).

By hand: `python -m mrsr.datasets.fastmri data/raw/fastmri [FOLDER [PAIRS.csv]]`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mrsr import download
from mrsr.datasets.fastmri_file import read_fastmri_file
from mrsr.datasets.fastmri_pairs import choose, hdf5_files
from mrsr.datasets.volume import Volume, VolumeRef
from mrsr.errors import UserError
from mrsr.files import write_json, write_text

SETTINGS = {
    "source": "",  # a folder of .h5 files; empty: signed links from the environment
    "pairs": "",  # a CSV of stems, or a folder of CSVs; empty: derived from patient_id
    "pairs_train": 227,  # section 4: at most this many pairs for training and validation
    "pairs_test": 24,  # and for testing
    "validation": 10,  # of the training pairs; public lists have 45
    "seed": 0,  # of the hash that orders the pairs
}
ARCHIVES = {  # folder -> (environment variable, archive)
    "singlecoil_train": ("FASTMRI_KNEE_TRAIN_URL", "knee_singlecoil_train.tar.xz"),
    "singlecoil_val": ("FASTMRI_KNEE_VAL_URL", "knee_singlecoil_val.tar.xz"),
}
_COLUMNS = ["pd", "pdfs", "subject", "split", "pair"]


def prepare(folder: Path, settings: Any) -> None:
    """Fetch and unpack, or copy the files of the chosen pairs, then write pairs.csv.

    Raises:
        UserError: no source, a link that cannot be fetched, a damaged or unsafe archive, or no
        pairs.
    """
    folder = Path(folder)
    if settings.source:
        origin = _source_folder(settings.source)
        chosen = choose(hdf5_files(origin), settings)
        for pair in chosen:
            for scan in (pair.pd, pair.pdfs):
                inside = scan.path.relative_to(origin)
                download.fetch(scan.path, folder / inside, label=f"fastmri {scan.path.name}")
    else:
        origin = folder
        for name, (variable, archive) in ARCHIVES.items():
            _unpacked(folder, name, variable, archive)
        chosen = choose(hdf5_files(folder), settings)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for pair in chosen:
        paths = [scan.path.relative_to(origin).as_posix() for scan in (pair.pd, pair.pdfs)]
        writer.writerow([*paths, pair.subject, pair.split, pair.key])
    write_text(folder / "pairs.csv", table.getvalue())


def list_volumes(folder: Path, settings: Any, contrast: str) -> list[VolumeRef]:
    """The files of one contrast ("PD" or "PDFS") of the chosen pairs, sorted by path.

    Raises:
        UserError: no such contrast, or a file is missing.
    """
    del settings  # `prepare` has applied them
    column = {"PD": "pd", "PDFS": "pdfs"}.get(contrast)
    if column is None:
        raise UserError(f"fastmri has no contrast '{contrast}'; it has PD and PDFS")
    table = Path(folder) / "pairs.csv"
    hint = "make it with `snakemake --cores 1 data/raw/fastmri/manifest.csv`"
    if not table.is_file():
        raise UserError(f"no {table}; {hint}")
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    volumes = []
    for row in sorted(rows, key=lambda row: row[column]):
        path = Path(folder) / row[column]
        if not path.is_file():
            raise UserError(f"no file {path}, which pairs.csv lists; {hint}")
        volumes.append(
            VolumeRef(
                path=path,
                subject=row["subject"],
                contrast=contrast,
                organ="knee",
                visit=path.stem,
                split=row["split"],
                pair=row["pair"],
            )
        )
    return volumes


def read_volume(ref: VolumeRef) -> Volume:
    """One file as complex64 images with the header's matrix size, (slices, 320, 320)."""
    volume = read_fastmri_file(
        ref.path, subject=ref.subject, contrast=ref.contrast, organ=ref.organ
    )
    return replace(volume, visit=ref.visit)


def _source_folder(source: str) -> Path:
    if download.local_path(source) is None:  # never print it: it may be a signed link
        variables = " and ".join(variable for variable, _ in ARCHIVES.values())
        raise UserError(
            "data.sources.fastmri.source is a web address; set it to a folder, and put signed "
            f"links only into the environment variables {variables}"
        )
    folder = download.local_path(source)
    if folder is None or not folder.is_dir():
        raise UserError(f"data.sources.fastmri.source: no folder {folder}")
    return folder


def _unpacked(folder: Path, name: str, variable: str, archive: str) -> None:
    """Ensure that `folder` has singlecoil_train or singlecoil_val; fetch if needed."""
    target, marker = folder / name, folder / f"{name}.json"
    try:
        files = sum(1 for _ in target.iterdir())
        if json.loads(marker.read_text(encoding="utf-8"))["files"] == files:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    link = os.environ.get(variable, "")
    if not link:
        raise UserError(
            f"fastmri: no {name} yet; set data.sources.fastmri.source to a folder of the files, "
            f"or put the signed link of {archive} into {variable}"
        )
    packed = download.fetch(link, folder / archive, label=archive)
    download.remove_folder(target)  # left by a run that ended before it wrote its marker
    unpacked = download.safe_extract(
        packed, target, only=lambda member: member.endswith(".h5"), flat=True
    )
    if not unpacked:
        download.remove_folder(target)
        raise UserError(f"{archive} contains no .h5 files; check the link in {variable}")
    write_json(marker, {"archive": archive, "files": len(unpacked)})
    packed.unlink()


def main(arguments: list[str]) -> None:
    if not 1 <= len(arguments) <= 3:
        raise UserError("usage: python -m mrsr.datasets.fastmri FOLDER [SOURCE [PAIRS.csv]]")
    source, pairs = [*arguments[1:], "", ""][:2]
    prepare(Path(arguments[0]), SimpleNamespace(**SETTINGS | {"source": source, "pairs": pairs}))


if __name__ == "__main__":
    from mrsr.errors import guarded

    guarded(main)(sys.argv[1:])
