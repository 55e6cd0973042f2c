"""Each method minus the one that the experiment is about, subject by subject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mrsr.figures import style
from mrsr.params.figures import main_method
from mrsr.tables import comparison


def draw(records: Sequence[Mapping[str, Any]]) -> Any:
    """Paired differences of PSNR: a grey dot per subject, the mean and its 95 % interval.

    records: of one dataset and scale, measured on the same subjects. The axis is linear within
    0.1 dB around zero and logarithmic beyond, so that small and large differences are readable.
    """
    main = main_method(tuple(record["method"] for record in records))
    base = next(record for record in records if record["method"] == main)
    others = [record for record in records if record is not base]
    figure = style.figure(1.0 + 0.24 * max(1, len(others)))
    axis = figure.subplots()
    of_base = comparison.subjects(base, "psnr")
    few, reach = False, 0.1
    for row, record in enumerate(others):
        own = comparison.subjects(record, "psnr")
        each = [own[subject] - of_base[subject] for subject in sorted(own)]
        found = comparison.paired(each)
        few = few or found["low"] is None
        axis.plot(each, [row] * len(each), "o", color="0.6", markersize=3, zorder=2)
        if found["low"] is not None:
            axis.plot([found["low"], found["high"]], [row, row], color=style.COLOURS[0],
                      linewidth=2, zorder=3)  # fmt: skip
        axis.plot(found["difference"], row, "D", color=style.COLOURS[0], markersize=5, zorder=4)
        reach = max(reach, *(abs(value) for value in each))
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xscale("symlog", linthresh=0.1, linscale=1.0)
    ticks = [sign * 10.0**power for power in range(-1, math.ceil(math.log10(reach)) + 1)
             for sign in (-1, 1)]  # fmt: skip
    lowest, highest = axis.get_xlim()
    axis.set_xticks(sorted([0.0, *(t for t in ticks if lowest <= t <= highest)]))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.set_yticks(range(len(others)), [r.get("label") or r["method"] for r in others])
    axis.set_ylim(len(others) - 0.4, -0.6)
    label = base.get("label") or base["method"]
    why = "; too few subjects for an interval" if few else ""
    axis.set_xlabel(
        f"PSNR minus that of {label} (dB), {base['n_subjects']} test "
        f"subject{'s' if base['n_subjects'] > 1 else ''}{why}"
    )
    return figure
