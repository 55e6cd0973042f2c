"""PSNR of every test slice, by method: what a mean hides."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrsr.figures import style


def draw(psnr: Mapping[str, np.ndarray], main: str) -> Any:
    """A box plot per method: median, quartiles, 5th and 95th percentile, slices beyond as dots.

    Args:
        psnr: label -> PSNR (dB) of every slice with signal.
        main: the label of the method that the experiment is about, which is coloured.
    """
    count = max((len(values) for values in psnr.values()), default=0)
    low = style.far_below({label: float(np.median(values)) for label, values in psnr.items()})
    psnr = {label: values for label, values in psnr.items() if label not in low}
    figure = style.figure(0.8 + 0.28 * len(psnr) + 0.15 * bool(low))
    axis = figure.subplots()
    drawn = axis.boxplot(
        list(psnr.values()), orientation="horizontal", whis=(5, 95), patch_artist=True,
        widths=0.6, flierprops={"marker": ".", "markersize": 2, "alpha": 0.5},
        medianprops={"color": "black"},
    )  # fmt: skip
    for label, box in zip(psnr, drawn["boxes"], strict=True):
        box.set(facecolor=style.MAIN if label == main else "#9ECAE9", linewidth=0.6)
    axis.set_yticks(range(1, len(psnr) + 1), list(psnr))
    axis.invert_yaxis()
    below = ", ".join(f"{label} (median {value:.2f} dB)" for label, value in low.items())
    text = f"PSNR of each of {count} test slices (dB)"
    lines = textwrap.wrap(f"far below the others, not drawn: {below}", 90) if below else []
    axis.set_xlabel("\n".join([text, *lines]))
    return figure
