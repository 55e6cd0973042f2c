"""How well a network does on a scan: degrade it, enhance that, score it against the scan itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mrsr.scan.boxed import UNTRAINED
from mrsr.scan.degrade import degrade
from mrsr.scan.enhance import enhance
from mrsr.scan.score import score


def compare(scan: Path, network: Path, scale: int) -> dict[str, dict[str, Any]]:
    """Scores of the untrained methods by their names, and of a checkpoint as `network`.

    scan: a NIfTI file whose slices divide by the scale.

    Raises:
        UserError: the scan cannot be used.
    """
    models: dict[str, Path | str] = {name: name for name in UNTRAINED} | {"network": network}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        coarse = Path(folder) / "coarse.nii.gz"
        degrade(scan, coarse, scale=scale)
        for name, model in models.items():
            fine = Path(folder) / f"{name}.nii.gz"
            enhance(coarse, fine, model, scale=scale)
            found[name] = score(fine, scan)
    return found
