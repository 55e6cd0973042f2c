"""Fig. 7: losses of the training, validation and test data, of the ViT and of super-resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrsr.figures import style

Series = Mapping[tuple[str, str], list[tuple[int, float]]]  # (split, metric) -> [(step, value)]
SPLITS = {"train": "training", "validation": "validation", "test": "test"}


def loss_of(series: Series) -> str:
    """The metric that is drawn: the sum of all terms, where it was logged."""
    return next((key for _, key in series if key == "total"), next(iter(series))[1])


def draw(logs: Mapping[str, Series]) -> Any:
    """A panel for each training: title -> its log (`drawing.series`)."""
    from matplotlib.ticker import LogFormatter

    rows = -(-len(logs) // 2)
    figure = style.figure(2.4 * rows, style.WIDTH if len(logs) > 1 else style.WIDTH / 2)
    axes = figure.subplots(rows, min(2, len(logs)), squeeze=False).flatten()
    for number, (axis, (title, series)) in enumerate(zip(axes, logs.items(), strict=False)):
        key = loss_of(series)
        for place, (split, name) in enumerate(SPLITS.items()):
            if (split, key) in series:
                steps, values = zip(*series[split, key], strict=True)
                axis.plot(
                    steps, values, linewidth=1.2, label=name, color=style.COLOURS[place],
                    linestyle=style.LINES[place], marker="o" if len(steps) < 3 else "",
                )  # fmt: skip
        if all((line.get_ydata() > 0).all() for line in axis.lines):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        axis.set(xlabel="step", ylabel=f"loss ({key})")
        axis.set_title(f"({chr(97 + number)}) {title}", loc="left")
        axis.legend()
    for axis in axes[len(logs) :]:
        axis.set_visible(False)
    return figure
