"""Unpack tar and zip files that nobody vouches for: all of it into one folder, or nothing.

Members may be plain files and folders; an absolute path, a `..`, a link, a device, a name given
twice, more files or bytes than agreed, or a damaged archive refuse the whole archive. Everything
goes to a temporary folder first, which takes its name when the last member is out.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from mrsr.errors import UserError

MAX_BYTES = 400 * 2**30  # fastMRI's single-coil knee training files are below 100 GB
MAX_FILES = 100_000
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError)


def safe_extract(
    archive: str | Path,
    folder: str | Path,
    *,
    only: Callable[[str], bool] | None = None,
    flat: bool = False,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> list[Path]:
    """Unpack a tar (also .gz, .bz2, .xz) or zip file into a new folder.

    Args:
        folder: must not exist yet; it appears whole.
        only: keeps the members whose path it likes; the others are checked and left.
        flat: drop the folders of member paths.
        max_bytes, max_files: refuse archives that unpack to more.

    Returns:
        The files, sorted.

    Raises:
        UserError: not an archive, damaged, unsafe or too large; nothing is left behind.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it to unpack {archive.name} again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot unpack into {folder}: {error.strerror}") from None
    try:
        inside = temporary / "files"
        inside.mkdir()
        names = []
        left = max_bytes
        for name, size, stream in _members(archive, temporary):
            path = _inside(archive, name)
            if only is not None and not only(name):
                continue
            relative = path.name if flat else str(path)
            names.append(relative)
            if len(names) > max_files or size > left:
                raise UserError(
                    f"{archive.name} unpacks to more than {max_files} files or {max_bytes} bytes; "
                    "it is not the archive that was expected"
                )
            left -= _write(archive, stream(), inside / relative, size)
        inside.replace(folder)
    except _DAMAGE as error:
        raise UserError(
            f"{archive.name} is damaged ({type(error).__name__}); remove it and fetch it again"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive.name} into {folder}: {error.strerror or error}"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(folder / name for name in names)


def remove_folder(folder: Path) -> None:
    """Remove a folder that an earlier, unfinished run left behind."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


def _members(
    archive: Path, folder: Path
) -> Iterator[tuple[str, int, Callable[[], IO[bytes] | None]]]:
    """(path, bytes, opener) of each file of an archive; anything but files and folders raises."""
    if not archive.is_file():
        raise UserError(f"no archive at {archive}")
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _unsafe(archive, info.filename, "a link or device")
                _inside(archive, info.filename)
                if not info.is_dir():
                    yield info.filename, info.file_size, partial(opened.open, info)
        return
    with tarfile.open(archive) as opened:
        for member in opened:  # one pass: archives of 90 GB are decompressed once
            if not (member.isreg() or member.isdir()):
                raise _unsafe(archive, member.name, "a link or device")
            _inside(archive, member.name)
            if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and newer
                tarfile.data_filter(member, str(folder))
            if member.isreg():
                yield member.name, member.size, partial(opened.extractfile, member)


def _inside(archive: Path, name: str) -> PurePosixPath:
    """The member's path, if it stays inside of the folder on every system."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise _unsafe(archive, name, "a path that leaves the folder")
    return path


def _unsafe(archive: Path, name: str, what: str) -> UserError:
    return UserError(f"{archive.name} holds {what} ({name!r}); nothing was unpacked")


def _write(archive: Path, stream: IO[bytes] | None, path: Path, size: int) -> int:
    """Copy one member of announced size; returns its bytes."""
    if stream is None:
        raise _unsafe(archive, path.name, "a member without data")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with stream, open(path, "xb") as out:  # x: a name given twice is refused
        while chunk := stream.read(1 << 20):
            written += len(chunk)
            if written > size:
                raise UserError(f"{archive.name}: {path.name} is larger than announced; refused")
            out.write(chunk)
    if written != size:
        raise UserError(f"{archive.name} is damaged: {path.name} is cut off; fetch it again")
    return written
