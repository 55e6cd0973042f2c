"""Residual spectra: which frequencies each method restores (`spectrum.py` has the definition)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrsr.figures import style
from mrsr.figures.example_file import Loaded
from mrsr.params.figures import main_method

HIGHEST = 10.0  # of the axis; a method beyond makes an image worse than an empty one


def draw(example: Loaded, methods: Sequence[str]) -> Any:
    """The residual's power relative to the original's, against the frequency."""
    figure = style.figure(3.2)
    axis = figure.subplots()
    main = main_method(tuple(methods))
    x, beyond = example.spectra["frequency"], []
    for number, method in enumerate(methods):
        y = example.spectra["residual"][method]
        label = example.labels[method]
        if min(y) > HIGHEST:
            beyond.append(label)
            continue
        colour, marker, line = style.appearance(number)
        axis.plot(
            x, y, color=colour, linestyle=line, marker=marker, markersize=3, markevery=4,
            linewidth=2 if method == main else 1, label=label,
        )  # fmt: skip
    axis.axvline(1 / example.scale, color="black", linewidth=0.8, linestyle=":")
    axis.axhline(1, color="black", linewidth=0.5)
    axis.set_yscale("log")
    axis.set_ylim(top=HIGHEST, bottom=max(1e-5, axis.get_ylim()[0]))
    axis.set_xlim(0, 1)
    axis.set(
        xlabel=f"frequency / Nyquist frequency of HR (dotted: that of LR, 1/{example.scale})",
        ylabel="power of residual / of original",
    )
    handles, labels = axis.get_legend_handles_labels()
    if beyond:
        handles += [axis.plot([], [], linestyle="")[0]] * (len(beyond) + 1)
        labels += ["above the axis:", *beyond]
    figure.legend(handles, labels, loc="outside right upper")
    return figure
