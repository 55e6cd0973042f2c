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

What was chosen is written to `pairs.csv` in the folder (pd, pdfs, subject, split, pair).
"""

from __future__ import annotations

import csv
import io
import os
from functools import partial
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.raw import download
from mrsr.raw.fastmri_file import read_fastmri_file
from mrsr.raw.fastmri_pairs import choose, hdf5_files
from mrsr.raw.lists import read_csv
from mrsr.raw.unpack import fetch_archive
from mrsr.raw.volume import Brought, Volume, VolumeRef, fetched

SETTINGS = {
    "source": "",  # a folder of .h5 files; empty: signed links from the environment
    "pairs": "",  # a CSV of stems, or a folder of CSVs; empty: derived from patient_id
    "pairs_train": 227,  # section 4: at most this many pairs for training and validation
    "pairs_test": 24,  # and for testing
    "validation": 10,  # of the training pairs; public lists have 45
    "seed": 0,  # of the hash that orders the pairs
}
FILES = {"source": [".h5"], "pairs": [".csv"]}  # what decides besides
ARCHIVES = {  # folder -> (environment variable, archive)
    "singlecoil_train": ("FASTMRI_KNEE_TRAIN_URL", "knee_singlecoil_train.tar.xz"),
    "singlecoil_val": ("FASTMRI_KNEE_VAL_URL", "knee_singlecoil_val.tar.xz"),
}
_COLUMNS = ["pd", "pdfs", "subject", "split", "pair"]


def prepare(folder: Path, settings: Any) -> Brought:
    """Fetch and unpack, or copy the files of the chosen pairs, then write pairs.csv.

    Raises:
        UserError: no source, a link that cannot be fetched, a damaged or unsafe archive, or no
        pairs.
    """
    folder = Path(folder)
    origin = _source_folder(settings.source) if settings.source else folder
    if not settings.source:
        for name, (variable, archive) in ARCHIVES.items():
            fetch_archive(
                partial(_link, variable, archive),
                folder / name,
                archive,
                only=lambda member: member.endswith(".h5"),
                hint=f".h5 files; check which link {variable} holds",
            )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    left, used = hdf5_files(origin), []
    for pair in choose(left, settings):
        paths = [scan.path.relative_to(origin) for scan in (pair.pd, pair.pdfs)]
        left = [path for path in left if path not in (pair.pd.path, pair.pdfs.path)]
        used += [folder / path for path in paths]
        for path in paths:
            if settings.source:
                download.fetch(origin / path, folder / path, label=f"fastmri {path.name}")
        names = [path.as_posix() for path in paths]
        writer.writerow([*names, pair.subject, pair.split, pair.key])
    write_text(folder / "pairs.csv", table.getvalue())
    why = "in no pair that was chosen (data.sources.fastmri: pairs, pairs_train, pairs_test)"
    left_out = [(path.relative_to(origin).as_posix(), why) for path in left]
    return Brought(files=[*used, folder / "pairs.csv"], used=len(used), left_out=left_out)


def list_volumes(folder: Path, settings: Any, contrast: str) -> list[VolumeRef]:
    """The files of one contrast ("PD" or "PDFS") of the chosen pairs, sorted by path.

    Raises:
        UserError: no such contrast, or a file is missing.
    """
    del settings  # `prepare` has applied them
    column = {"PD": "pd", "PDFS": "pdfs"}.get(contrast)
    if column is None:
        raise UserError(f"fastmri has no contrast '{contrast}'; it has PD and PDFS")
    table = fetched(Path(folder) / "pairs.csv", "fastmri")
    return [
        VolumeRef(
            path=fetched(Path(folder) / row[column], "fastmri"),
            subject=row["subject"],
            contrast=contrast,
            organ="knee",
            visit=Path(row[column]).stem,
            split=row["split"],
            pair=row["pair"],
        )
        for _, row in sorted(read_csv(table, _COLUMNS), key=lambda line: line[1][column])
    ]


def read_volume(ref: VolumeRef) -> Volume:
    """One file as complex64 images of the header's matrix, (slices, 320, 320)."""
    return read_fastmri_file(ref.path, **ref.names)


def _source_folder(source: str) -> Path:
    folder = download.local_path(source)
    if folder is None:  # never echoed: it may be a signed link
        variables = " and ".join(variable for variable, _ in ARCHIVES.values())
        raise UserError(
            "data.sources.fastmri.source is a web address; set it to a folder, and put signed "
            f"links only into the environment variables {variables}"
        )
    if not folder.is_dir():
        raise UserError(f"data.sources.fastmri.source: no folder {folder}")
    return folder


def _link(variable: str, archive: str) -> str:
    link = os.environ.get(variable, "")
    if not link:
        raise UserError(
            f"fastmri: no {archive} yet; set data.sources.fastmri.source to a folder of the files, "
            f"or put the signed link of {archive} into {variable}"
        )
    return link
