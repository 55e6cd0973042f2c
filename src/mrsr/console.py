"""What people see of a job: lines and progress bars on stderr."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

_recorded: list[list[str]] = []  # by `recorded`, innermost last


def say(text: str) -> None:
    """One line to people, above a bar if there is one."""
    for lines in _recorded:
        lines.append(text)
    tqdm.write(f"mrsr: {text}", file=sys.stderr)
    sys.stderr.flush()


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """The lines that are said in the block, in a list; they are shown as ever."""
    lines: list[str] = []
    _recorded.append(lines)
    try:
        yield lines
    finally:
        del _recorded[next(at for at, one in enumerate(_recorded) if one is lines)]


def bar(total: int, unit: str, label: str = "") -> tqdm[Any]:
    """A bar with the time left: on a terminal, or in a notebook; elsewhere nothing is shown."""
    kind: type[tqdm[Any]] = tqdm
    if notebook := _in_notebook():
        kind = importlib.import_module("tqdm.auto").tqdm
    # disable=None: no bar where nobody watches, that is in a log file
    return kind(total=total, unit=unit, desc=label or None, disable=False if notebook else None)


def _in_notebook() -> bool:
    """Whether the cells of a notebook run here."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


def account(
    what: str, unit: str, used: int, left_out: Sequence[tuple[str, str]], shown: int = 20
) -> None:
    """Say how many files were found and used, and which were left out, by reason.

    left_out: (name, reason). shown: names to print for each reason.
    """
    say(f"{what}: {used + len(left_out)} {unit} found, {used} used, {len(left_out)} left out")
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        say(f"  {len(names)} left out, {reason}: {', '.join(names[:shown])}{more}")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(max(0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def numbers(metrics: dict[str, float]) -> str:
    """Metrics as `name value` pairs of four digits."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


class Progress:
    """A bar on a terminal; elsewhere a plain line at each `show`; nothing on other processes."""

    def __init__(self, label: str, steps: int, done: int, *, active: bool = True) -> None:
        self.label, self.steps, self.active = label, steps, active
        self.began, self.first, self.done = time.monotonic(), done, done
        self.bar: tqdm[Any] | None = None
        if active and sys.stderr.isatty():
            self.bar = tqdm(total=steps, initial=done, desc=label, unit="step", leave=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self) -> None:
        """One step is done."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()

    def show(self, metrics: dict[str, float], split: str = "") -> None:
        """Show the latest metrics: beside the bar, or as a line with the time left."""
        if not self.active:
            return
        if self.bar is not None:
            if split:
                self.bar.write(f"step {self.done}  {split}: {numbers(metrics)}", file=sys.stderr)
            else:
                self.bar.set_postfix_str(numbers(metrics))
            return
        passed = max(1, self.done - self.first)
        left = (time.monotonic() - self.began) / passed * (self.steps - self.done)
        line = f"{self.label}  step {self.done}/{self.steps}  {split}{': ' if split else ''}"
        print(f"{line}{numbers(metrics)}  left {clock(left)}", file=sys.stderr, flush=True)
