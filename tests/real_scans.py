"""Real files of every kind that `mrsr enhance` takes, from packages that tests install anyway."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import pydicom.data

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
DICOM = Path(pydicom.data.__file__).parent / "test_files" / "dicomdirtests"
ONE_SERIES = DICOM / "98892001" / "CT5N"  # CT, five slices
TWO_SERIES = DICOM / "98892001"  # a scout besides
BROKEN_SERIES = DICOM / "77654033" / "CT2"  # four of some hundred slices


def copied(source: Path, folder: Path) -> Path:
    """A file or a folder of them, in `folder`."""
    target = folder / source.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return target
