"""Downloads: resumed, verified, renamed into place.

`fetch` takes http(s) URLs, file:// URLs and plain paths. A broken download resumes where it
stopped (HTTP Range, guarded by If-Range or by the checksum), waits longer after each failure, and
gets its name only when it is complete and its checksum is right. archives.py unpacks.

A URL with a query string or a password is a secret (signed URLs carry the access key there): it
appears in no message, log record or exception chain. So errors are raised outside `except` blocks
here, and urllib3's logging of URLs is off during a request. Retries are counted here: urllib3's
Retry cannot resume a body that broke off, and logs URLs as well.

By hand: `python -m mrsr.raw.download URL TARGET [SHA256]`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlunsplit
from urllib.request import url2pathname

from mrsr.errors import UserError
from mrsr.files import _split, atomic, is_secret

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
    """Bring `url` to `target`, complete and verified, or not at all.

    A target that exists and has the right checksum (or of which none is known) is not fetched
    again. An interrupted download is kept beside it as `<name>.part`; the next call resumes it.

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
    if path := local_path(url):
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
    if not scheme:
        return Path(url).expanduser()
    if scheme in ("http", "https"):
        return None
    if scheme != "file":
        raise UserError(f"cannot fetch {scheme}:// addresses; use http, https, file or a path")
    parts = _split(url)
    if parts.netloc not in ("", "localhost"):
        raise UserError(f"file URL names the host '{parts.hostname}'; write file:///path")
    return Path(url2pathname(parts.path))


def join(base: str | Path, *names: str) -> str:
    """The address of a file below a base URL (before its query) or a base folder."""
    base = str(base)
    if "://" not in base:
        return str(Path(base).expanduser().joinpath(*names))
    parts = _split(base)
    path = "/".join([parts.path.rstrip("/"), *names])
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def shown(url: str | Path) -> str:
    """The form of a URL for messages: host and file name; only the file name if it is secret."""
    url = str(url)
    if local_path(url) is not None:
        return url
    parts = _split(url)
    file = PurePosixPath(unquote(parts.path)).name or "the file"
    return file if is_secret(url) else f"{parts.scheme}://{parts.hostname}/.../{file}"


def mismatch(path: Path, expected: dict[str, str]) -> str:
    """Empty when the file has the expected digests, otherwise what differs."""
    for kind, digest in expected.items():
        if digest:
            new = partial(hashlib.new, kind, usedforsecurity=False)  # MD5 on a FIPS machine
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, new).hexdigest()
            if found != digest:
                return f"{kind} is {found}, published is {digest}"
    return ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _copy(source: Path, target: Path, expected: dict[str, str], name: str) -> None:
    if not source.is_file():
        raise UserError(f"{name}: no file at {source}; check the source setting")
    with atomic(target) as temporary:
        try:
            shutil.copyfile(source, temporary)
        except OSError as error:
            raise UserError(f"{name}: cannot copy to {target}: {error.strerror}") from None
        problem = mismatch(temporary, expected)
        if problem:
            raise UserError(f"{name}: wrong checksum ({problem}); get a fresh copy of {source}")


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
            problem, asked = _attempt(url, part, tag, name, verified=any(expected.values()))
        if not problem:
            wrong = mismatch(part, expected)
            if not wrong:
                break
            part.unlink()
            tag.unlink(missing_ok=True)
            if not resumed or restarted:
                raise UserError(f"{name}: wrong checksum ({wrong}); the source serves another file")
            # the pieces may be of two versions: once from the start
            _say(f"{name}: the resumed download has a wrong checksum; starting over")
            restarted, resumed = True, False
            continue
        failures = 0 if _size(part) > before else failures + 1
        if failures > retries:
            raise UserError(
                f"{name}: gave up after {retries} retries ({problem}); "
                "check the network and run it again: it goes on where it stopped"
            )
        wait = min(max(FIRST_WAIT * 2 ** max(failures - 1, 0), asked), LONGEST_WAIT)
        _say(f"{name}: {problem}; trying again in {wait:.0f} s")
        time.sleep(wait)
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    tag.unlink(missing_ok=True)


def _attempt(url: str, part: Path, tag: Path, name: str, *, verified: bool) -> tuple[str, float]:
    """One request, from where `part` ends.

    Returns:
        (what went wrong, empty if nothing did; seconds that the server asks to wait).

    Raises:
        UserError: trying again would not help. No error quotes the URL.
    """
    import requests
    import urllib3

    have = _size(part)
    version = tag.read_text(encoding="utf-8") if have and tag.is_file() else ""
    if not (version or verified):
        have = 0  # nothing would tell a changed file from the one begun
    headers = {"Accept-Encoding": "identity", "User-Agent": "mrsr"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            status, told = answer.status_code, answer.headers
            span = told.get("Content-Range", "")
            if status == 416:  # nothing beyond what we have: complete, or of another version
                if span.endswith(f"*/{have}"):
                    return "", 0.0
                part.unlink(missing_ok=True)
                return "the file at the source changed", 0.0
            if status in TRY_AGAIN:
                return f"the server answers {status}", float(_number(told.get("Retry-After")) or 0)
            if status not in (200, 206):
                hint = "the link may have expired" if status in (401, 403) else "check the source"
                raise UserError(f"{name}: the server answers {status}; {hint}")
            if status == 206:
                if not re.match(rf"bytes\s*{have}-", span):
                    part.unlink(missing_ok=True)
                    return "the server sent another range than asked for", 0.0
                total = _number(span.rpartition("/")[2])
            else:  # the complete file: no Range support, or another version than ours
                have, total = 0, _number(told.get("Content-Length"))
                part.unlink(missing_ok=True)  # before the tag: never old bytes under a new tag
            entity = told.get("ETag", "")
            entity = "" if entity.startswith("W/") else entity  # weak tags do not fit If-Range
            tag.write_text(entity or told.get("Last-Modified", ""), encoding="utf-8")
            with open(part, "ab" if have else "wb") as out:
                for chunk in _progress(answer.iter_content(CHUNK), name, total, have):
                    out.write(chunk)
        size = _size(part)
        return ("" if total in (None, size) else f"{size} of {total} bytes arrived"), 0.0
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        kind = type(error).__name__
        if not isinstance(error, ValueError):
            return f"the connection failed or broke off ({kind})", 0.0
        problem = f"not a usable address ({kind}); check its spelling"  # InvalidURL and its like
    except OSError as error:  # after those of requests, which are OSErrors too
        reason = error.strerror or type(error).__name__
        problem = f"cannot write {part}: {reason}; free some space and run it again"
    raise UserError(f"{name}: {problem}")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _no_url_logging() -> Iterator[None]:
    """urllib3 logs whole request lines, queries included, when somebody turns logging on."""
    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _progress(chunks: Iterable[bytes], name: str, total: int | None, have: int) -> Iterator[bytes]:
    """Pass chunks on; a bar on a terminal, a line now and then in a job's log."""
    from tqdm import tqdm

    terminal, last = sys.stderr.isatty(), time.monotonic()
    count = {"unit": "B", "unit_scale": True}
    with tqdm(
        desc=name, total=total, initial=have, leave=False, disable=not terminal, **count
    ) as bar:
        for chunk in chunks:
            yield chunk
            have += len(chunk)
            bar.update(len(chunk))
            if not terminal and time.monotonic() - last > REPORT_EVERY:
                last = time.monotonic()
                share = f" of {total / 2**20:.0f}" if total else ""
                _say(f"{name}: {have / 2**20:.0f}{share} MiB")


def main(arguments: list[str]) -> None:
    if len(arguments) not in (2, 3):
        raise UserError("usage: python -m mrsr.raw.download URL TARGET [SHA256]")
    print(fetch(arguments[0], Path(arguments[1]), sha256="".join(arguments[2:])))


if __name__ == "__main__":
    from mrsr.errors import guarded

    guarded(main)(sys.argv[1:])
