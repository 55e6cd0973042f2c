"""The long table as bars: a panel for each dataset and scale, a bar for each method.

A picture, because DVC's own charts load their scripts from the network: `dvc plots show` displays
this one without, and `dvc plots diff` puts two versions side by side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas

from mrsr.drawing import figure, save

BAR, PANEL, MARGIN = 0.24, 5.5, 0.9  # inches: height of a bar, width of a panel, title and axis


def psnr_bars(results: Path, out: Path) -> None:
    """Draw the PSNR of every row of results.csv.

    Args:
        results: the long table, as `mrsr tables` writes it.
        out: a .png, .pdf or .svg. Bars begin at 0 dB, so that lengths compare; lines on them are
            the intervals, where the table has any.

    Raises:
        UserError: `out` has another suffix.
    """
    save(drawn(pandas.read_csv(results)), out)


def drawn(table: pandas.DataFrame) -> Any:
    """The figure: datasets down, scales across; a cell that was not measured stays empty."""
    rows, columns = list(dict.fromkeys(table["dataset"])), sorted(set(table["scale"]))
    groups = dict(list(table.groupby(["dataset", "scale"], sort=False)))
    most = max((len(group) for group in groups.values()), default=1)
    drawing = figure(PANEL * max(1, len(columns)), (BAR * most + MARGIN) * max(1, len(rows)))
    axes = drawing.subplots(max(1, len(rows)), max(1, len(columns)), squeeze=False, sharex=True)
    longest = float(table["psnr"].max()) if len(table) else 1.0
    for row, dataset in enumerate(rows):
        for column, scale in enumerate(columns):
            axis, group = axes[row, column], groups.get((dataset, scale))
            if group is None:
                axis.set_axis_off()
                continue
            _panel(axis, group, longest)
            axis.set_title(f"{dataset}, {scale}x", fontsize=10)
    return drawing


def _panel(axis: Any, group: pandas.DataFrame, longest: float) -> None:
    """The bars of one dataset and scale, the first row at the top."""
    places = range(len(group))
    colours = ["C1" if method == "proposed" else "C0" for method in group["method"]]
    axis.barh(places, group["psnr"], color=colours, height=0.75)
    for place, (_, line) in zip(places, group.iterrows(), strict=True):
        end = line["psnr"]
        if pandas.notna(line["psnr_low"]):
            axis.plot([line["psnr_low"], line["psnr_high"]], [place, place], "k-", linewidth=1)
            end = max(end, line["psnr_high"])
        axis.annotate(
            f"{line['psnr']:.2f}", (end, place), (4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axis.set(xlabel="PSNR (dB)", xlim=(0, 1.15 * longest), ylim=(len(group) - 0.4, -0.6))
    axis.set_yticks(places, group["label"], fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
