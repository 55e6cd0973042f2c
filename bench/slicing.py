"""Slicing: from raw scans to the three stores, beside what Python's gzip needs for the same bytes.

The scans are those of open_ms_data in the folder that MRSR_MIRROR names, else noisy volumes that
are made here. Ours reads, checks, crops, packs and writes; gzip reads.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from side_by_side import Row, compare

from mrsr.datasets import folder as folder_source
from mrsr.params.jobs import Slicing
from mrsr.params.typed import build
from mrsr.raw.nifti import read_nifti, write_nifti
from mrsr.slices.slicing import slice_dataset

SCANS = "open_ms_data/longitudinal/raw"
PATIENTS = ("patient01", "patient03", "patient04", "patient12", "patient19", "patient20")


def rows(small: bool) -> list[Row]:
    """One worker and two, and reading alone."""
    with tempfile.TemporaryDirectory() as folder:
        files, origin = _scans(Path(folder) / "raw", 3 if small else len(PATIENTS))
        patients = sorted({file.parent.name for file in files})
        given = {
            "dataset": "bench",
            "source": "folder",
            "contrast": "any",
            "organ": "brain",
            "slice_axis": 2,
            "split": {
                "kind": "subjects",
                "train": patients[2:],
                "validation": patients[1:2],
                "test": patients[:1],
            },
        }
        settings = build(Slicing, given)
        about = {**folder_source.SETTINGS, "path": str(Path(folder) / "raw"), "subject": "folder"}
        source = SimpleNamespace(**about)

        def packed() -> None:
            for file in files:
                with gzip.open(file) as opened:
                    opened.read()

        def sliced(workers: int) -> None:
            raw = Path(folder) / "raw"
            slice_dataset(raw, settings, Path(folder) / "out", source, workers)

        def read() -> None:
            for file in files:
                read_nifti(file, slice_axis=2)

        rounds = 3 if small else 7
        what = f"{len(files)} {origin} scans"
        other = ("Python's gzip, reading", packed)
        found = []
        for n in (1, 2):
            ours = (f"{n} worker{'s' if n > 1 else ''}", lambda n=n: sliced(n))
            found.append(compare(f"Slicing, {what}", ours, other, target=1.0, rounds=rounds))
        ours = ("isal", read)
        return [*found, compare(f"Reading and checking, {what}", ours, other, rounds=rounds)]


def _scans(folder: Path, count: int) -> tuple[list[Path], str]:
    """T1W scans of `count` patients below `folder`, and where they are from."""
    mirror = Path(os.environ.get("MRSR_MIRROR", "")) / SCANS
    real = bool(os.environ.get("MRSR_MIRROR")) and mirror.is_dir()
    files = []
    for number, patient in enumerate(PATIENTS[:count]):
        (folder / patient).mkdir(parents=True)
        known = sorted((mirror / patient).glob("*_T1W.nii.gz")) if real else [Path("T1W.nii.gz")]
        for found in known:
            file = folder / patient / found.name
            if real:
                shutil.copyfile(found, file)
            else:
                random = np.random.default_rng(number)
                signal = np.linspace(0, 900, 160)[:, None, None]
                noisy = (signal + random.normal(0, 20, (160, 160, 64))).clip(0)
                write_nifti(file, noisy.astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0]))
            files.append(file)
    return files, "real" if real else "made-up"
