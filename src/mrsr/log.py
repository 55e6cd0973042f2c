"""What a training says: `log.jsonl` for programs, a bar or plain lines for people.

One JSON object per line: `{"event": "start", ...}`, then
`{"time": ..., "cpu": ..., "step": n, "split": "train", "metrics": {...}}`, then
`{"event": "end", ...}`. A step is the number of steps done; `cpu` is the process's own seconds.
After a resume the log is what it was at the resumed step, then goes on: no step is in it twice.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from mrsr.errors import UserError
from mrsr.files import full_disk_told, write_text


def say(text: str) -> None:
    """One line to people, above a bar if there is one."""
    tqdm.write(f"mrsr: {text}", file=sys.stderr)
    sys.stderr.flush()


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


class Log:
    """Append-only JSON lines; each is on disk (in the system's hands) when `write` returns."""

    def __init__(self, path: Path, text: str = "", *, active: bool = True) -> None:
        """Start the file with `text`, the lines up to the resumed step."""
        self.path = path
        self.text = text
        self.active = active
        if active:
            write_text(path, text)
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, line: dict[str, Any]) -> None:
        """Append one object; numbers that JSON does not have become null."""
        if not self.active:
            return
        text = json.dumps(_finite(line), ensure_ascii=False, allow_nan=False) + "\n"
        self.text += text
        with full_disk_told(self.path):
            self.file.write(text)
            self.file.flush()

    def metrics(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Append the metrics of a split after `step` steps."""
        clocks = {"time": time.time(), "cpu": time.process_time()}
        self.write({**clocks, "step": step, "split": split, "metrics": metrics})

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.file.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
