"""PSNR against what it costs: the network's parameters, or the seconds of a slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mrsr.figures import style
from mrsr.params.figures import main_method

AXES = {
    "parameters": "parameters of the network (logarithmic)",
    "seconds_per_slice": "seconds per slice (logarithmic)",
}


def draw(records: Sequence[Mapping[str, Any]], cost: str) -> Any:
    """One point per method, its mean PSNR and interval against `cost`, a key of AXES.

    A cost of 0 (interpolation has no parameters) stands at the left edge. Methods far below the
    others are named, not drawn. Markers of equal methods cover each other; the legend has their
    PSNR.
    """
    from matplotlib.ticker import EngFormatter

    figure = style.figure(3.2)
    axis = figure.subplots()
    low = style.far_below({_label(record): record["psnr"]["mean"] for record in records})
    shown = [record for record in records if _label(record) not in low]
    costs = [record.get(cost) or 0 for record in shown]
    positive = [value for value in costs if value > 0] or [1.0]
    floor = min(positive) / 3
    main = main_method(tuple(record["method"] for record in records))
    for number, (record, value) in enumerate(zip(shown, costs, strict=True)):
        colour, marker, _ = style.appearance(number)
        psnr = record["psnr"]
        at = value if value > 0 else floor
        if psnr.get("low") is not None:
            axis.plot([at, at], [psnr["low"], psnr["high"]], color=colour, linewidth=0.8)
        axis.plot(
            at, psnr["mean"], marker=marker, color=colour, linestyle="",
            markersize=8 if record["method"] == main else 5,
            markeredgecolor="black" if record["method"] == main else colour,
            label=f"{_label(record)} ({psnr['mean']:.2f} dB)",
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set(xlabel=AXES[cost], ylabel="PSNR (dB)")
    axis.margins(x=0.12, y=0.12)
    if any(value <= 0 for value in costs):
        axis.axvline(floor * 1.6, color="black", linewidth=0.5, linestyle=":")
        axis.set_xlabel(f"{AXES[cost]}; left of the line: none")
    end = 10 ** (math.floor(math.log10(max(positive))) + 1)
    ticks = [end * step / 10**power for power in range(9) for step in (1, 2, 5)]
    least, most = min(positive) / 1.8, max(positive) * 1.8
    axis.set_xticks(sorted(tick for tick in ticks if least <= tick <= most))
    axis.xaxis.set_major_formatter(EngFormatter("s" if cost == "seconds_per_slice" else ""))
    axis.minorticks_off()
    handles, labels = axis.get_legend_handles_labels()
    if low:
        handles += [axis.plot([], [], linestyle="")[0]] * (len(low) + 1)
        labels += ["below the axis:"]
        labels += [f"{label} ({psnr:.2f} dB)" for label, psnr in low.items()]
    figure.legend(handles, labels, loc="outside right upper")
    return figure


def _label(record: Mapping[str, Any]) -> str:
    return str(record.get("label") or record["method"])
