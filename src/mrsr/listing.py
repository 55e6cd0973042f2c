"""The files below a folder, as a person means them, and a digest that changes with them.

Links are followed, also linked folders. Hidden files and folders are skipped at every level, and so
are the folders in which BIDS keeps what is no scan (`SKIPPED`). What has a right name and cannot be
used is returned with the reason, so that nobody loses a file in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mrsr.errors import UserError

SKIPPED = ("derivatives", "sourcedata", "code")
ABSENT = "its content is not here; get it, for instance with `datalad get`"
_POINTERS = (b"/annex/objects/", b"version https://git-lfs")  # files in the place of absent content
_POINTER_BYTES = 1024  # longer ones do not occur
_SMALL = 1 << 20  # bytes; up to here a file that is named by itself is read


@dataclass
class Listing:
    """Files found, sorted, and what was left out: (path, reason)."""

    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)


def below(root: Path, suffixes: Sequence[str]) -> Listing:
    """The files below `root` whose names end in one of `suffixes`, in any case.

    Raises:
        UserError: a folder cannot be read.
    """
    found = Listing()
    _walk(Path(root), tuple(suffixes), (os.path.realpath(root),), found)
    found.files.sort()
    found.left_out.sort()
    return found


def digest(path: Path, suffixes: Sequence[str] = ()) -> str:
    """Twelve hexadecimal digits that change with a file, or with the files below a folder.

    A file of up to a megabyte goes by its content, a larger one and those below a folder by name,
    size and time, so that gigabytes need not be read. "absent" if there is nothing.

    Raises:
        UserError: a folder or file cannot be read.
    """
    path = Path(path)
    content = hashlib.sha256()
    try:
        if path.is_dir():
            for file in below(path, suffixes).files:
                content.update(os.fsencode(file.relative_to(path)) + _state(file))
        elif not path.is_file():
            return "absent"
        elif path.stat().st_size > _SMALL:
            content.update(_state(path))
        else:
            content.update(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    return content.hexdigest()[:12]


def copies(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Pairs of files with the same bytes, whatever their names.

    Only files of equal size are read, first a little of each, and to their ends if that agrees.
    """
    groups: list[list[Path]] = [list(paths)]
    for key in (_size, _sample, _whole):
        split: list[list[Path]] = []
        for group in groups:
            by_key: dict[object, list[Path]] = {}
            for path in group:
                by_key.setdefault(key(path), []).append(path)
            split += [same for same in by_key.values() if len(same) > 1]
        groups = split
    for group in groups:
        yield from ((group[0], other) for other in group[1:])


def _walk(folder: Path, suffixes: tuple[str, ...], above: tuple[str, ...], found: Listing) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check its permissions") from None
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            real = os.path.realpath(path)
            if entry.name.lower() in SKIPPED:
                found.left_out.append((path, "a folder of derived data, sources or code"))
            elif real in above:
                found.left_out.append((path, "a link to a folder that it is in"))
            else:
                _walk(path, suffixes, (*above, real), found)
        elif entry.is_symlink() and not path.exists():
            found.left_out.append((path, ABSENT))
        elif entry.name.lower().endswith(suffixes) and entry.is_file():
            if _is_pointer(path):
                found.left_out.append((path, ABSENT))
            else:
                found.files.append(path)


def _is_pointer(path: Path) -> bool:
    if _size(path) > _POINTER_BYTES:
        return False
    try:
        return path.read_bytes().startswith(_POINTERS)
    except OSError:
        return False  # who reads the scan says what is wrong


def _state(path: Path) -> bytes:
    told = path.stat()
    return f"\0{told.st_size} {told.st_mtime_ns}\n".encode()


def _size(path: Path) -> int:
    return path.stat().st_size


def _sample(path: Path) -> bytes:
    """64 KiB of the start, the middle and the end."""
    with open(path, "rb") as file:
        parts = []
        for place in (0, _size(path) // 2, max(0, _size(path) - 65536)):
            file.seek(place)
            parts.append(file.read(65536))
    return hashlib.sha256(b"".join(parts)).digest()


def _whole(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
