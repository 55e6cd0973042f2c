"""Errors for users: one line that says what is wrong, where, and what to do.

Exit codes (docs/reliability.md has what leads to them):

- 1: one of several processes was lost (`compute.py`); with a Python traceback: a bug
- 2: the input is wrong (a parameter, a file, a path, an unexpected answer from a server), or the
  output cannot be written (no permission, a full disk, a folder in use)
- 4: a training diverged
- 75: interrupted by SIGTERM or SIGUSR1 after a checkpoint was written; run the command again
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
BAD_INPUT = 2
DIVERGED = 4
INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues later


class UserError(Exception):
    """A problem that the user can fix. The message is one line: what, where, what to do."""

    exit_code = BAD_INPUT


class Diverged(UserError):
    """A loss became NaN or exploded; the message names the step and the term."""

    exit_code = DIVERGED


class Interrupted(UserError):
    """A signal stopped the job. Its state is on disk; the next start continues from there."""

    exit_code = INTERRUPTED


def one_line(text: str) -> str:
    """Replace line breaks and runs of white space by single spaces."""
    return " ".join(str(text).split())


def printable() -> None:
    """Let both streams print every name: what their encoding lacks is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def end_tidily() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does: temporary files go, 128 + its number.

    Without it they end a program at once, and what it was writing stays. Not for trainings, which
    save their state on SIGTERM.
    """

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # nohup's choice stays; handlers belong to the first thread alone
        if number and signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):
                signal.signal(number, end)


def guarded(main: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate an entry point: a `UserError` becomes one line on stderr and its exit code.

    So does a full disk. Any other exception is a bug and keeps its traceback.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> Any:
        printable()
        try:
            return main(*args, **kwargs)
        except UserError as error:
            text, code = str(error), error.exit_code
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            where = f" ({error.filename})" if error.filename else ""
            text = f"{os.strerror(error.errno)}{where}; free some space and run the command again"
            code = BAD_INPUT
        with contextlib.suppress(OSError):  # a job's log may lie on the full disk
            print(f"mrsr: error: {one_line(text)}", file=sys.stderr)
        raise SystemExit(code)

    return run
