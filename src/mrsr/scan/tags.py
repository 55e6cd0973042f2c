"""What the JSON beside a scan says of it: BIDS and dcm2niix write one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrsr.raw.nifti import stem


def tags_beside(path: Path) -> dict[str, Any]:
    """Tags such as EchoTime (seconds); empty without a JSON that can be read."""
    try:
        found = json.loads(path.with_name(f"{stem(path)}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
