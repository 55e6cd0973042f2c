"""A folder of DICOM files as one scan, converted by dcm2niix as everybody does.

`dcm2niix` makes a NIfTI file with a JSON of each series (of some, several: echoes, phases, or a
resampled one with even slices); one of them is the scan. What it warns of is passed on.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from mrsr.console import say
from mrsr.errors import UserError, one_line
from mrsr.raw.nifti import Opened, opened, stem
from mrsr.scan.tags import tags_beside

LISTED = 30  # series in a message


def convert(folder: Path, series: str = "") -> tuple[Opened, dict[str, Any]]:
    """The scan of a DICOM folder, in memory, and its tags.

    series: which one, if there are several: its number, or its name in full.

    Raises:
        UserError: no DICOM that can be converted, several series and none or no such one chosen, or
            dcm2niix is not installed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        said = _run(folder, Path(temporary))
        files = {stem(path): path for path in sorted(Path(temporary).rglob("*.nii"))}
        if not files:
            why = next((line for line in reversed(said) if _complains(line)), "it found no series")
            raise UserError(
                f"{folder} holds no scan, and no DICOM series that dcm2niix can convert: "
                f"{one_line(why)}"
            )
        chosen = _choose(folder, files, series)
        warned = [line.split(":", 1)[1].strip() for line in said if _complains(line)]
        if warned:
            of = f" (of {len(files)} converted series)" if len(files) > 1 else ""
            say(f"warning: {folder.name}{of}: dcm2niix says: {one_line('; '.join(warned))}")
        say(f"{folder.name}: series {chosen}, converted by dcm2niix")
        return opened(files[chosen]), tags_beside(files[chosen])


def _choose(folder: Path, files: dict[str, Path], series: str) -> str:
    """The name of the series that is meant."""
    fitting = [name for name in files if series in (name, name.partition("_")[0])] if series else []
    if len(fitting) == 1:
        return fitting[0]
    if not series and len(files) == 1:
        return next(iter(files))
    listed = [f"{name} ({_size(path)})" for name, path in list(files.items())[:LISTED]]
    more = f" and {len(files) - LISTED} more" if len(files) > LISTED else ""
    wrong = f"no series {series}" if series and not fitting else f"{len(fitting or files)} series"
    raise UserError(
        f"{folder} has {wrong}; choose with --series, by number or full name, from: "
        f"{', '.join(listed)}{more}"
    )


def _size(path: Path) -> str:
    return "x".join(str(size) for size in opened(path).stored.shape if size > 1)


def _run(folder: Path, out: Path) -> list[str]:
    """What dcm2niix says, by lines."""
    try:
        import dcm2niix
    except ImportError:
        raise UserError(
            f"{folder} is a folder without NIfTI files; to read DICOM, install the extra: "
            "pip install 'mrsr[dicom]'"
        ) from None
    # -l o: the values as they are stored; -f: number and description of the series
    given = ["-b", "y", "-z", "n", "-l", "o", "-f", "%s_%d", "-o", str(out), str(folder)]
    done = subprocess.run(
        [dcm2niix.bin, *given], capture_output=True, encoding="utf-8", errors="replace"
    )
    return (done.stdout + done.stderr).replace(str(out), "").splitlines()


def _complains(line: str) -> bool:
    return line.startswith(("Warning:", "Error:"))
