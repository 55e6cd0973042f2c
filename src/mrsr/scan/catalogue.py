"""What `mrsr enhance --list-models` prints: the networks of the package, and what they learned."""

from __future__ import annotations

from typing import Any

from mrsr import checkpoint
from mrsr.files import sha256
from mrsr.scan import boxed

COLUMNS = ("Model", "Scale", "Contrasts", "Organ", "Input voxels (mm)", "Intensities", "Undoes",
           "SHA-256")  # fmt: skip


def entries() -> list[dict[str, Any]]:
    """One for each network of the package, then the methods that need no training."""
    found = []
    for name in sorted(boxed.sums_of()):
        scale = int(name.removeprefix("x").removesuffix(".pt"))
        path = boxed.path(scale)
        saved = checkpoint.load(path, checkpoint.SR)
        known = saved.provenance.get("trained_on") or {}
        plane = [size * scale for size in known.get("plane_mm", ())]
        values = (
            f"--scale {scale}",
            f"{scale}x",
            ", ".join(known.get("contrasts", ())),
            known.get("organ", ""),
            _span(plane),
            _span(known.get("intensity", ())),
            saved.settings.get("degradation", ""),
            sha256(path)[:12],
        )
        found.append(dict(zip(COLUMNS, values, strict=True)))
    for name in boxed.UNTRAINED:
        values = (f"--model {name}", "2x, 3x, 4x, 8x", "any", "any", "any", "any", "bicubic", "")
        found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def text() -> str:
    """A table, and where to read more."""
    from tabulate import tabulate

    return (
        tabulate(entries(), headers="keys")
        + "\n\nIntensities are in units of the scan's 99.9 % percentile. For research only; the "
        f"card has data, figures and limits: {boxed.FOLDER / boxed.CARD}\n"
    )


def _span(ends: Any) -> str:
    return " to ".join(f"{end:.3g}" for end in ends)
