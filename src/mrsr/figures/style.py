"""One look for all figures: sizes for print, colours that colour-blind people tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrsr import drawing
from mrsr.params.figures import FORMATS

WIDTH = 7.2  # inches: both columns of a journal's page
DPI = 200
SMALL, NORMAL = 7.0, 8.0  # points
# Okabe and Ito's colours without yellow, which paper swallows; each with a marker of its own
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
LINES = ("-", "--", "-.", ":")
MAIN = "#D55E00"  # the method that a figure is about
SETTINGS: Any = {
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def figure(height: float, width: float = WIDTH) -> Any:
    """An empty figure of that height and width in inches."""
    return drawing.figure(width, height, DPI)


def save(drawn: Any, folder: Path, name: str) -> None:
    """Write a figure as `<name>.pdf` and `<name>.png`."""
    for suffix in FORMATS:
        drawing.save(drawn, folder / f"{name}.{suffix}")


def appearance(number: int) -> tuple[str, str, str]:
    """Colour, marker and line of a series; twelve differ in two of the three."""
    return (
        COLOURS[number % len(COLOURS)],
        MARKERS[number % len(MARKERS)],
        LINES[number // len(COLOURS) % len(LINES)],
    )


def nice(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above a positive value."""
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(power * factor for factor in (5, 2, 1) if power * factor <= value)


def far_below(psnr: Mapping[str, float], gap: float = 10.0) -> dict[str, float]:
    """Those that are more than `gap` dB below the median: beside them, others would look alike."""
    middle = sorted(psnr.values())[len(psnr) // 2] if psnr else 0.0
    return {key: value for key, value in psnr.items() if value < middle - gap}
