"""Files from elsewhere: resumed, verified, renamed into place.

`fetch` takes http(s) URLs, file:// URLs and plain paths. A broken download goes on where it
stopped (HTTP Range, guarded by If-Range or by the checksum), waits longer after each failure, and
gets its name only when it is whole and its checksum is right. `safe_extract` (archives.py)
unpacks what came.

A URL with a query string or a password is a secret (signed URLs carry the access key there): it
stands in no message, log record or exception chain. That is why errors are raised outside of
`except` blocks here, and why the URL-logging of urllib3 is off meanwhile (its own Retry logs
addresses as well, so the retries are counted here).

By hand: `python -m mrsr.download URL TARGET [SHA256]`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from mrsr.archives import remove_folder, safe_extract
from mrsr.errors import UserError
from mrsr.files import atomic

__all__ = ["fetch", "is_secret", "join", "local_path", "remove_folder", "safe_extract", "shown"]

CHUNK = 1 << 16  # bytes; what a broken connection may cost
TIMEOUT = (15.0, 60.0)  # seconds to connect, seconds without a byte
FIRST_WAIT = 1.0  # seconds; doubled after each failure in a row
LONGEST_WAIT = 60.0
REPORT_EVERY = 30.0  # seconds between plain progress lines where there is no terminal
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


def fetch(
    url: str | Path,
    target: Path,
    *,
    sha256: str = "",
    md5: str = "",
    label: str = "",
    retries: int = 5,
) -> Path:
    """Bring `url` to `target`, whole and verified, or not at all.

    A target that is there already and has the right checksum is not fetched again (without a
    checksum: one that is there; names are given to whole files only). An interrupted download is
    kept beside it as `<name>.part` and resumed by the next call.

    Args:
        url: http(s) URL, file:// URL or path.
        sha256, md5: expected digests in hexadecimal; empty ones are not checked.
        label: what messages call the file; by default `shown(url)`.
        retries: failures in a row, none of which brought a byte, before giving up.

    Raises:
        UserError: refused, missing, cut off too often, wrong checksum, disk full.
    """
    url, target = str(url), Path(target)
    name = label or shown(url)
    expected = {"sha256": sha256.lower(), "md5": md5.lower()}
    if target.is_file():
        if not mismatch(target, expected):
            return target
        _say(f"{name}: {target} has another checksum than published; fetching it again")
    path = local_path(url)
    if path is not None:
        _copy(path, target, expected, name)
    else:
        _download(url, target, expected, name, retries)
    return target


def local_path(url: str | Path) -> Path | None:
    """The path behind a file:// URL or a plain path; None for http and https.

    Raises:
        UserError: another scheme, or a file URL of another host.
    """
    url = str(url)
    scheme = url.split(":", 1)[0].lower() if "://" in url or url.startswith("file:") else ""
    if scheme in ("http", "https"):
        return None
    if scheme == "file":
        parts = _split(url)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"file URL names the host '{parts.hostname}'; write file:///path")
        return Path(url2pathname(parts.path))
    if scheme:
        raise UserError(f"cannot fetch {scheme}:// addresses; use http, https, file or a path")
    return Path(url).expanduser()


def join(base: str | Path, *names: str) -> str:
    """The address of a file below a base URL (before its query) or a base folder."""
    base = str(base)
    if "://" not in base:
        return str(Path(base).expanduser().joinpath(*names))
    parts = _split(base)
    path = "/".join([parts.path.rstrip("/"), *names])
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def is_secret(url: str | Path) -> bool:
    """Whether a URL carries a query or a password, which may be an access key."""
    url = str(url)
    if not url.lower().startswith(("http:", "https:")):
        return False
    parts = _split(url)
    return bool(parts.query or parts.fragment or "@" in parts.netloc)


def shown(url: str | Path) -> str:
    """What messages may call a URL: host and file name; of a secret one, the file name alone."""
    url = str(url)
    if local_path(url) is not None:
        return url
    parts = _split(url)
    file = PurePosixPath(unquote(parts.path)).name or "the file"
    return file if is_secret(url) else f"{parts.scheme}://{parts.hostname}/.../{file}"


def mismatch(path: Path, expected: dict[str, str]) -> str:
    """Empty when the file has the expected digests, otherwise what differs."""
    for kind, digest in expected.items():
        if not digest:
            continue
        hashing = hashlib.new(kind, usedforsecurity=False)
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                hashing.update(chunk)
        found = hashing.hexdigest()
        if found != digest:
            return f"{kind} is {found}, published is {digest}"
    return ""


def _split(url: str) -> SplitResult:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "file" or parts.hostname:
            return parts
    # outside of the suppressed block: the ValueError may quote the URL
    raise UserError("a download address is not a valid URL; check its spelling")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _copy(source: Path, target: Path, expected: dict[str, str], name: str) -> None:
    if not source.is_file():
        raise UserError(f"{name}: no file at {source}; check the source setting")
    size = source.stat().st_size
    with atomic(target) as temporary:
        try:
            with open(source, "rb") as file, open(temporary, "wb") as out:
                for chunk in _progress(iter(lambda: file.read(1 << 20), b""), name, size, 0):
                    out.write(chunk)
        except OSError as error:
            raise UserError(f"{name}: cannot copy to {target}: {error.strerror}") from None
        problem = mismatch(temporary, expected)
        if problem:
            raise UserError(f"{name}: wrong checksum ({problem}); get a fresh copy of {source}")


@dataclass(frozen=True)
class _Outcome:
    done: bool = False
    fatal: bool = False
    problem: str = ""
    wait: float = 0.0  # seconds that the server asked for


def _download(url: str, target: Path, expected: dict[str, str], name: str, retries: int) -> None:
    part = target.with_name(target.name + ".part")
    tag = target.with_name(target.name + ".part.tag")  # the server's version of what `part` holds
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    resumed = restarted = False
    failures = 0
    while True:
        before = _size(part)
        resumed = resumed or before > 0
        with _no_url_logging():
            outcome = _attempt(url, part, tag, name, verified=any(expected.values()))
        if outcome.done:
            problem = mismatch(part, expected)
            if not problem:
                break
            part.unlink()
            tag.unlink(missing_ok=True)
            if resumed and not restarted:  # the pieces may be of two versions: once from zero
                _say(f"{name}: the resumed download has a wrong checksum; starting over")
                restarted, resumed = True, False
                continue
            raise UserError(f"{name}: wrong checksum ({problem}); the source serves another file")
        if outcome.fatal:
            raise UserError(f"{name}: {outcome.problem}")
        failures = 0 if _size(part) > before else failures + 1
        if failures > retries:
            raise UserError(
                f"{name}: gave up after {retries} retries ({outcome.problem}); "
                "check the network and run it again: it goes on where it stopped"
            )
        wait = min(max(FIRST_WAIT * 2 ** max(failures - 1, 0), outcome.wait), LONGEST_WAIT)
        _say(f"{name}: {outcome.problem}; trying again in {wait:.0f} s")
        time.sleep(wait)
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    tag.unlink(missing_ok=True)


def _attempt(url: str, part: Path, tag: Path, name: str, *, verified: bool) -> _Outcome:
    """One request, from where `part` ends. Never raises what could quote the URL."""
    import requests
    import urllib3

    have = _size(part)
    version = tag.read_text(encoding="utf-8") if have and tag.is_file() else ""
    if have and not (version or verified):
        have = 0  # nothing would tell a changed file from the one begun
    headers = {"Accept-Encoding": "identity", "User-Agent": "mrsr"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            status = answer.status_code
            if status == 416:  # nothing beyond what we have: whole, or of another version
                if answer.headers.get("Content-Range", "").endswith(f"*/{have}"):
                    return _Outcome(done=True)
                part.unlink(missing_ok=True)
                return _Outcome(problem="the file at the source changed")
            if status in TRY_AGAIN:
                asked = answer.headers.get("Retry-After", "")
                wait = float(asked) if asked.isdecimal() else 0.0
                return _Outcome(problem=f"the server answers {status}", wait=wait)
            if status not in (200, 206):
                hint = "the link may have expired" if status in (401, 403) else "check the source"
                return _Outcome(fatal=True, problem=f"the server answers {status}; {hint}")
            if status == 206:
                total, start = _content_range(answer.headers.get("Content-Range", ""))
                if start != have:
                    part.unlink(missing_ok=True)
                    return _Outcome(problem="the server sent another range than asked for")
            else:  # the whole file: no Range support, or another version than ours
                have = 0
                length = answer.headers.get("Content-Length", "")
                total = int(length) if length.isdecimal() else None
                part.unlink(missing_ok=True)  # before the tag: never old bytes under a new tag
            entity = answer.headers.get("ETag", "")
            entity = "" if entity.startswith("W/") else entity  # weak tags do not fit If-Range
            problem = _write_tag(tag, entity or answer.headers.get("Last-Modified", ""))
            chunks = _progress(answer.iter_content(CHUNK), name, total, have)
            problem = problem or _append(part, chunks, fresh=have == 0)
            if problem:
                return _Outcome(fatal=True, problem=problem)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        kind = type(error).__name__
        if isinstance(error, ValueError):  # requests' InvalidURL and its like
            return _Outcome(
                fatal=True, problem=f"not a usable address ({kind}); check its spelling"
            )
        return _Outcome(problem=f"the connection failed or broke off ({kind})")
    size = _size(part)
    if total is not None and size != total:
        return _Outcome(problem=f"{size} of {total} bytes arrived")
    return _Outcome(done=True)


def _append(part: Path, chunks: Iterable[bytes], *, fresh: bool) -> str:
    """Write chunks to `part`; the problem if the disk refuses (errors of the network pass)."""
    try:
        out = open(part, "wb" if fresh else "ab")  # noqa: SIM115  (network errors must pass)
    except OSError as error:
        return f"cannot write {part}: {error.strerror}"
    with out:
        for chunk in chunks:
            try:
                out.write(chunk)
            except OSError as error:
                return f"cannot write {part}: {error.strerror}; free some space and run it again"
    return ""


def _write_tag(tag: Path, version: str) -> str:
    try:
        tag.write_text(version, encoding="utf-8")
    except OSError as error:
        return f"cannot write {tag}: {error.strerror}"
    return ""


def _content_range(text: str) -> tuple[int | None, int]:
    """(total, start) of a Content-Range header such as 'bytes 100-199/200'; start -1 if bad."""
    span, _, total = text.removeprefix("bytes").strip().partition("/")
    start = span.partition("-")[0]
    return (
        int(total) if total.isdecimal() else None,
        int(start) if start.isdecimal() else -1,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _no_url_logging() -> Iterator[None]:
    """urllib3 logs whole request lines, queries included, when somebody turns logging on."""
    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _progress(chunks: Iterable[bytes], name: str, total: int | None, have: int) -> Iterator[bytes]:
    """Pass chunks on; a bar on a terminal, a line now and then in a job's log."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    done, last = have, time.monotonic()
    with tqdm(
        total=total,
        initial=have,
        desc=name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        disable=not terminal,
        leave=False,
    ) as bar:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            bar.update(len(chunk))
            if not terminal and time.monotonic() - last > REPORT_EVERY:
                last = time.monotonic()
                share = f" of {total / 2**20:.0f}" if total else ""
                _say(f"{name}: {done / 2**20:.0f}{share} MiB")


def main(arguments: list[str]) -> None:
    if len(arguments) not in (2, 3):
        raise UserError("usage: python -m mrsr.download URL TARGET [SHA256]")
    print(fetch(arguments[0], Path(arguments[1]), sha256="".join(arguments[2:])))


if __name__ == "__main__":
    from mrsr.errors import guarded

    guarded(main)(sys.argv[1:])
