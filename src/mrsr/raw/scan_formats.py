"""Which files are scans, by name, and their content, unpacked: .nii, .nii.gz, .nii.bz2, .mgh, .mgz.

nibabel opens many more formats. Each of them is either in `SUFFIXES`, and read by `nifti.py`, or in
`REFUSED` by its name: nothing is half understood.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import zlib
from pathlib import Path
from typing import Any

from isal import igzip, isal_zlib

from mrsr.errors import UserError

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".nii.bz2", ".mgz", ".mgh")
READ = "give .nii, .nii.gz, .nii.bz2, .mgh or .mgz"
_PACKED = {".gz": "gzip", ".mgz": "gzip", ".bz2": "bzip2"}
_MAGIC = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "Zstandard": b"\x28\xb5\x2f\xfd",
    "zip": b"PK\x03\x04",
}
_PACKINGS = (".gz", ".bz2", ".zst", ".xz", ".z", ".zip")
REFUSED = {
    ".hdr": "half of an Analyze or NIfTI pair",
    ".img": "half of an Analyze or NIfTI pair",
    ".mat": "a MATLAB file",
    ".mnc": "MINC",
    ".par": "Philips PAR/REC",
    ".rec": "Philips PAR/REC",
    ".brik": "AFNI",
    ".head": "AFNI",
    ".gii": "a GIFTI surface",
    ".tck": "streamlines",
    ".trk": "streamlines",
    ".dcm": "DICOM",
    ".ima": "DICOM",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".nii": "NIfTI in a packing other than .gz and .bz2",
}


def is_nifti(path: str | Path) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case: what mrsr writes."""
    return Path(path).name.lower().endswith(NIFTI)


def is_scan(path: str | Path) -> bool:
    """Whether the name ends as a scan's that mrsr reads, in any case."""
    return Path(path).name.lower().endswith(SUFFIXES)


def stem(path: str | Path) -> str:
    """The file's name without the suffixes of a scan."""
    name = Path(path).name
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def format_of(path: str | Path) -> str:
    """The format in `REFUSED` that the file's name tells; empty for other names."""
    name = Path(path).name.lower()
    if is_scan(name):
        return ""
    parts = [f".{part}" for part in name.split(".")[1:]]
    while parts and parts[-1] in _PACKINGS:
        parts.pop()
    return REFUSED.get(parts[-1], "") if parts else ""


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False if nothing is there.

    Raises:
        UserError: nobody can tell: its folder is closed to the user, its name too long.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check its name and permissions"
        ) from None


def content(path: Path) -> bytes:
    """The file's bytes, unpacked. A packed file is read to its end, where its checksum is.

    Raises:
        UserError: a folder, no such file, empty, truncated, or of a format that mrsr does not read.
    """
    if is_folder(path):
        raise UserError(
            f"{path} is a folder; give one scan's file (convert a DICOM series with dcm2niix first)"
        )
    if not path.is_file():
        raise UserError(f"no file {path}; check the path")
    if found := format_of(path):
        raise UserError(f"{path.name} is {found}, which mrsr does not read; {_how(found)}")
    packing = _PACKED.get(path.suffix.lower(), "")
    try:
        with open(path, "rb") as file:
            start = file.read(132)
        if not start:
            raise UserError(f"{path.name} has no content (0 bytes); copy or download it again")
        _check_start(path, start, packing)
        if not packing:
            return path.read_bytes()
        if packing == "gzip":
            damage: tuple[Any, ...] = (OSError, EOFError, isal_zlib.error)  # its stub has an object
            with contextlib.suppress(*damage), igzip.open(path) as unpacked:  # half of the time
                return unpacked.read()
        # a damaged file: Python's own errors say what it is
        with gzip.open(path) if packing == "gzip" else bz2.open(path) as unpacked:
            return unpacked.read()
    except MemoryError:
        raise UserError(f"{path.name} does not fit into memory") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise truncated(path) from None
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise truncated(path) from None
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from None


def truncated(path: Path) -> UserError:
    """The error for a file that ends early or fails its checksum."""
    return UserError(f"{path.name} is truncated or corrupt; copy or download it again")


def not_a_scan(path: Path) -> UserError:
    """The error for a file with a scan's name and another content."""
    return UserError(f"{path.name} is not a NIfTI file that can be read; {READ}")


def _check_start(path: Path, start: bytes, wanted: str) -> None:
    """Check that the first bytes are packed as the name says."""
    if start[128:132] == b"DICM":
        raise UserError(f"{path.name} is DICOM, which mrsr does not read; {_how('DICOM')}")
    found = next((name for name, magic in _MAGIC.items() if start.startswith(magic)), "")
    if found and found != wanted:
        raise UserError(f"{path.name} is packed with {found}, which its name does not say; unpack "
                        "or rename it")  # fmt: skip
    if wanted and not found:
        raise not_a_scan(path)


def _how(found: str) -> str:
    if found in ("DICOM", "Philips PAR/REC"):
        return "convert it to .nii.gz with dcm2niix"
    if found.startswith("NIfTI"):
        return "unpack it to .nii"
    if found == "a MATLAB file":
        return "write the image as NIfTI (niftiwrite)"
    if found in ("a GIFTI surface", "streamlines"):
        return f"it has no voxels; {READ}"
    return "convert it to .nii.gz, for instance with nibabel.load and nibabel.save"
