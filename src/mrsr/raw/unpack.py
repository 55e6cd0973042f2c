"""Unpack tar and zip files from untrusted sources: all of it into one folder, or nothing.

Members may be files and folders. An absolute path, a `..`, a link, a device, a name given twice,
more files or bytes than the limit, or damage refuse the whole archive. Everything goes to a
temporary folder first, which is renamed when the last member is out.
"""

from __future__ import annotations

import contextlib
import filecmp
import gzip
import json
import lzma
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import write_json
from mrsr.raw.download import fetch

if sys.version_info >= (3, 12):
    import tarfile
else:  # Debian 12 has Python 3.11.2, which came before the filters
    from backports import tarfile

MAX_BYTES = 400 * 2**30  # fastMRI's single-coil knee training files are below 100 GB
MAX_FILES = 100_000
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile),
    *(lzma.LZMAError, zlib.error, EOFError),
)


def fetch_archive(
    url: Callable[[], str],
    target: Path,
    archive: str,
    only: Callable[[str], object],
    *,
    hint: str,
    md5: str = "",
    max_bytes: int = MAX_BYTES,
) -> list[Path]:
    """Fetch an archive and unpack the files that `only` accepts into the folder `target`, flat.

    The marker `<target>.json` is written last, with the name and size of each file. If they are all
    there, nothing is fetched and `url` is not asked for. Otherwise those that are missing or
    have another size are unpacked again. Whatever else is in the folder is left alone. The archive
    is removed to free its space, unless it was there before.

    Returns:
        The files of the archive, sorted.

    Raises:
        UserError: as `fetch` and `safe_extract`; no file is accepted (the message ends in `hint`);
            a file that this did not write is in the way of another one.
    """
    marker = target.with_name(f"{target.name}.json")
    known = _marked(marker, target, md5, only)
    if known and not _wanting(target, known):
        return [target / name for name in sorted(known)]
    packed = target.with_name(archive)
    was_there = packed.is_file()
    fetch(url(), packed, md5=md5, label=archive)
    sizes = _place(packed, target, only, known, max_bytes)
    if not sizes:
        raise UserError(f"{archive} holds no {hint}")
    told = {"archive": archive, "md5": md5, "files": sizes}
    write_json(marker, {key: value for key, value in told.items() if value})
    if was_there:
        say(f"{packed} was there before and is kept; it is no longer needed")
    else:
        packed.unlink()
    return [target / name for name in sorted(sizes)]


def _marked(marker: Path, target: Path, md5: str, only: Callable[[str], object]) -> dict[str, int]:
    """Name and size of the files that were unpacked; empty without a marker, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = json.loads(marker.read_text(encoding="utf-8"))
        if told.get("md5", "") != md5:
            return {}
        if isinstance(told["files"], int):  # earlier versions counted
            there = {path.name: path.stat().st_size for path in target.iterdir() if only(path.name)}
            return there if len(there) == told["files"] else {}
        return {str(name): int(size) for name, size in told["files"].items()}
    return {}


def _wanting(target: Path, known: dict[str, int]) -> list[str]:
    """The files that are missing or have another size."""
    return [
        name
        for name, size in known.items()
        if not (target / name).is_file() or (target / name).stat().st_size != size
    ]


def _place(
    packed: Path,
    target: Path,
    only: Callable[[str], object],
    known: dict[str, int],
    max_bytes: int,
) -> dict[str, int]:
    """Unpack into `target`, beside what is there; name and size of the archive's files."""
    if not target.exists():
        files = safe_extract(packed, target, only=only, flat=True, max_bytes=max_bytes)
        return {file.name: file.stat().st_size for file in files}
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target) as temporary:
        inside = Path(temporary) / "files"
        files = safe_extract(packed, inside, only=only, flat=True, max_bytes=max_bytes)
        sizes = {file.name: file.stat().st_size for file in files}
        moving = []
        for file in files:
            there = target / file.name
            if not there.exists() or file.name in known:
                moving.append(file)
            elif not filecmp.cmp(file, there, shallow=False):
                raise UserError(
                    f"{there} differs from the file in {packed.name} and mrsr did not write it; "
                    "move it out of the folder"
                )
        for file in moving:
            file.replace(target / file.name)
    return sizes


def safe_extract(
    archive: str | Path,
    folder: str | Path,
    *,
    only: Callable[[str], object] | None = None,
    flat: bool = False,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> list[Path]:
    """Unpack a tar (also .gz, .bz2, .xz) or zip file into a new folder.

    Args:
        folder: must not exist yet; it appears complete, and only if it holds a file.
        only: says by its path whether a file is unpacked; the others are checked and skipped.
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
    if not archive.is_file():
        raise UserError(f"no archive at {archive}; check the path")
    names: set[str] = set()
    left = max_bytes

    def place(name: str, size: int, is_file: bool, is_folder: bool) -> str:
        """Where below the folder a member goes; empty if it is skipped."""
        nonlocal left
        path, wrong = PurePosixPath(name), ""
        if not (is_file or is_folder):
            wrong = "a link or device"
        elif path.is_absolute() or ".." in path.parts or set(name) & {"\\", ":", "\0"}:
            wrong = "a path that leaves the folder"
        elif is_folder or not (only is None or only(name)):
            return ""
        target = path.name if flat else str(path)
        if wrong or target in names:
            wrong = wrong or "two files of one name"
            raise UserError(f"{archive.name} holds {wrong} ({name!r}); nothing was unpacked")
        names.add(target)
        left -= size
        if len(names) > max_files or left < 0:
            raise UserError(
                f"{archive.name} unpacks to more than {max_files} files or {max_bytes} bytes; "
                "it is not the archive that was expected"
            )
        return target

    def kept(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        target = place(member.name, member.size, member.isreg(), member.isdir())
        # ordinary permissions and today's date: scratch disks delete what looks old
        changes: dict[str, Any] = {"name": target, "mode": None, "mtime": None}
        return tarfile.data_filter(member, folder).replace(**changes) if target else None

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        where = tempfile.TemporaryDirectory(
            prefix=".unpack-", dir=folder.parent, ignore_cleanup_errors=True
        )
        with where as temporary:
            inside = Path(temporary) / "files"
            inside.mkdir()
            if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
                with zipfile.ZipFile(archive) as opened:
                    for info in opened.infolist():
                        kind = stat.S_IFMT(info.external_attr >> 16)  # 0: no Unix system
                        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                        is_folder = plain and info.is_dir()
                        target = place(info.filename, info.file_size, plain, is_folder)
                        if target:
                            info.filename = target
                            opened.extract(info, inside)
            else:
                with tarfile.open(archive) as tar:  # one pass: 90 GB are decompressed once
                    tar.extractall(inside, filter=kept)
            if names:
                inside.replace(folder)
    except _DAMAGE as error:
        raise UserError(
            f"{archive.name} is damaged ({type(error).__name__}); remove it and fetch it again"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive.name} into {folder}: {error.strerror or error}"
        ) from None
    return sorted(folder / name for name in names)
