"""The log of a training, `log.jsonl`.

One JSON object per line: `{"event": "start", ...}`, then
`{"time": ..., "cpu": ..., "step": n, "split": "train", "metrics": {...}}`, then
`{"event": "end", ...}`. A step is the number of steps done; `cpu` is the process's own seconds.
After a resume the log continues from its state at the resumed step: no step is in it twice.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from mrsr.files import full_disk_told, write_text


class Log:
    """Append-only JSON lines; each is flushed when `write` returns."""

    def __init__(self, path: Path, text: str = "", *, active: bool = True) -> None:
        """Start the file with `text`, the lines up to the resumed step."""
        self.path = path
        self.text = text
        self.active = active
        if active:
            write_text(path, text)
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, line: dict[str, Any]) -> None:
        """Append one object; NaN and infinities become null."""
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
