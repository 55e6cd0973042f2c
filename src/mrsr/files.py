"""Write files completely or not at all (temporary name, then rename); checksums; folder locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mrsr.errors import DISK_FULL, UserError

LOCK = ".lock"


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffixes of `path` (writers choose formats by suffix). When the
    block raises, the temporary file is removed and `path` is left as it was.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=".tmp-", suffix="".join(path.suffixes[-2:]), dir=path.parent
        )
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; check folder and disk") from None
    os.close(handle)
    temporary = Path(name)
    try:
        with full_disk_told(path):
            yield temporary
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
        # mkstemp makes files private; give what an ordinary open() would have given
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def full_disk_told(path: str | Path) -> Iterator[None]:
    """Turn a full disk, also one that another library has wrapped, into one line.

    Raises:
        UserError: the disk or the quota is full; names `path`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        # torch.save raises a RuntimeError of its own while handling the disk's
        while cause is not None and getattr(cause, "errno", None) not in DISK_FULL:
            cause = cause.__cause__ or cause.__context__
        if not isinstance(cause, OSError):
            raise
        reason = os.strerror(cause.errno or errno.ENOSPC)
        raise UserError(
            f"cannot write {path}: {reason}; free some space and run the same command again, "
            "what was written before is kept"
        ) from None


def reserve(path: str | Path, start: int, size: int) -> None:
    """Reserve disk space for `size` bytes of a file, starting at byte `start`.

    HDF5 finds a full disk when it closes its file, and may crash there: who reserves first, writes
    into space that is there.

    Raises:
        OSError: there is not so much.
    """
    with open(path, "ab") as file, contextlib.suppress(AttributeError):  # not on macOS
        os.posix_fallocate(file.fileno(), start, size)


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold a folder, made if need be, against other processes that write the same files there.

    The lock is the system's (flock on `.lock` in the folder) and ends with the process: a file that
    a killed one left behind blocks nobody. Temporary files of a killed one are removed. Of several
    processes of one training, the first holds it. A file system without locks holds nobody off.

    Raises:
        UserError: another process holds the folder, or it cannot be written to.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = _locked(folder / LOCK)
    except BlockingIOError:
        raise UserError(
            f"another process is writing to {folder}; wait until it has ended, or end it"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; check folder and disk"
        ) from None
    try:
        for left in folder.glob(".tmp-*"):
            left.unlink(missing_ok=True)
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # first: whoever opens it from now on has his own
        os.close(held)


def _locked(path: Path) -> int:
    """A descriptor that holds the lock file of this name."""
    import fcntl  # not on Windows

    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                os.close(held)
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), path.stat()):
                return held
        os.close(held)  # its last holder removed it between our two calls


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        UserError: the text has a name of a file that is not UTF-8; or as `atomic`.
    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text[: error.start].rpartition("\n")[2] + text[error.start :].partition("\n")[0]
        shown = line[:200].encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"cannot write {path}: a file's name is not UTF-8: {shown}; rename that file"
        ) from None
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, readable and with a stable order of keys as given."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # a name that is not UTF-8 stands there as JSON's own escapes, and reads back as it was
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The objects of a log.jsonl; a last line that is still being written is left out.

    Raises:
        UserError: the file cannot be read, or another line is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; give a training's log.jsonl") from None
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError:
            objects.append(None)
        if not isinstance(objects[-1], dict):
            raise UserError(f"{path}, line {number}: not a JSON object; train again")
    return objects


def is_secret(url: str | Path) -> bool:
    """Whether a URL carries a query or a password, which may be an access key."""
    url = str(url)
    if not url.lower().startswith(("http:", "https:")):
        return False
    parts = _split(url)
    return bool(parts.query or parts.fragment or "@" in parts.netloc)


def _split(url: str) -> SplitResult:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "file" or parts.hostname:
            return parts
    # outside of the suppressed block: the ValueError may quote the URL
    raise UserError("a download address is not a valid URL; check its spelling")
