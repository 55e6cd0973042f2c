"""What the JSON beside a scan says of it: BIDS and dcm2niix write one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mrsr.raw.nifti import stem


def tags_beside(path: Path) -> dict[str, Any]:
    """Tags such as EchoTime (seconds); empty without a JSON that can be read."""
    return json_object(path.parent / f"{stem(path)}.json") or {}


def json_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file of others; None without one that can be read.

    Numbers that are none (NaN, Infinity, 1e999) become None: JSON has no words for them.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be written again
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None
