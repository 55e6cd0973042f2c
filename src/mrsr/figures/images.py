"""Fig. 2 to 5: the original, each method's image, a cut-out enlarged, and the difference images.

All panels show the same area and the same window: 0 to the reference's 99.8 % quantile there. All
differences share one colour scale, which ends at the 99.5 % quantile of those of bicubic
interpolation: figures of one slice compare, and a method that fails does not darken the others.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrsr.figures import style
from mrsr.figures.example_file import PLAIN, REFERENCE, Loaded

MOST = 7  # panels side by side
LINE, GAP = 0.13, 0.04  # inches: of a title, between panels
ZOOMED = 5  # the cut-out is that fraction of the shorter side


class Window(NamedTuple):
    """What is shown. area: rows and columns. box: the cut-out's top, left and side, in the area."""

    area: tuple[slice, slice]
    white: float
    worst: float
    box: tuple[int, int, int]


def draw(example: Loaded, methods: Sequence[str], number: int = 0) -> Any:
    """The figure of one slice by these methods.

    Args:
        example: of a dataset and scale. number: which of its slices.
    """
    shown = window(example, number)
    mm = example.slices[number]["mm"]
    blocks = math.ceil((len(methods) + 1) / MOST)
    across = math.ceil((len(methods) + 1) / blocks)
    rows, columns = (s.stop - s.start for s in shown.area)
    width = style.WIDTH / max(across, 4) - GAP
    heights = [width * rows * mm[0] / (columns * mm[1]), width * mm[0] / mm[1]]
    heights.append(heights[0])  # image, cut-out, difference
    title = 0.06 + LINE * (1 + max(len(_name(example, key)) for key in (REFERENCE, *methods)))
    height = blocks * (title + sum(heights) + 4 * GAP)
    figure = style.figure(height, max(across, 4) * (width + GAP))
    figure.set_layout_engine("none")  # places are computed here
    layout = _Layout(figure, title, width, heights)
    for position, method in enumerate((REFERENCE, *methods)):
        block, column = divmod(position, across)
        axes = layout.axes(block, column)
        _panel(axes, example, number, method, shown)
        if method == REFERENCE:
            _scale_bar(axes[0], columns, rows, mm[1])
            _sides(axes[0], example.slices[number])
            _colour_bar(figure, axes[2], shown)
    return figure


class _Layout:
    """Places of panels, in inches from the top left corner."""

    def __init__(self, figure: Any, title: float, width: float, heights: list[float]) -> None:
        self.figure, self.title, self.width, self.heights = figure, title, width, heights
        self.block = title + sum(heights) + 4 * GAP

    def axes(self, block: int, column: int) -> list[Any]:
        """Image, cut-out and difference of a panel, from top to bottom."""
        wide, high = self.figure.get_size_inches()
        top, made = block * self.block + self.title, []
        for height in self.heights:
            left = column * (self.width + GAP) + GAP / 2
            box = (left / wide, 1 - (top + height) / high, self.width / wide, height / high)
            axis = self.figure.add_axes(box)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(False)
            axis.spines[:].set_visible(False)
            made.append(axis)
            top += height + GAP
        return made


def window(example: Loaded, number: int) -> Window:
    """The area with signal, the window, the end of the colour scale, and the cut-out.

    The cut-out is where bicubic interpolation errs most: the square with the largest sum of its
    squared differences.
    """
    reference = example.image(number, REFERENCE)
    signal = reference > 0.05 * np.quantile(reference, 0.998)
    area = tuple(_span(signal.any(axis=axis), length) for axis, length in _axes(reference))
    inside = reference[area]
    white = float(np.quantile(inside, 0.998)) or 1.0
    plain = example.image(number, PLAIN)[area]
    worst = float(np.quantile(abs(plain - inside), 0.995)) or 1.0
    side = max(8, min(inside.shape) // ZOOMED)
    squares = np.square(plain - inside)
    total = np.pad(squares, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return Window((area[0], area[1]), white, worst, (int(top), int(left), side))


def _axes(image: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """(axis to look along, length) for rows and for columns."""
    return (1, image.shape[0]), (0, image.shape[1])


def _span(has_signal: np.ndarray, length: int) -> slice:
    """From the first to the last line with signal, with a margin."""
    lines = np.flatnonzero(has_signal)
    if not len(lines):
        return slice(0, length)
    margin = max(2, length // 40)
    return slice(max(0, int(lines[0]) - margin), min(length, int(lines[-1]) + 1 + margin))


def _panel(axes: list[Any], example: Loaded, number: int, method: str, shown: Window) -> None:
    from matplotlib.patches import Rectangle

    image, cut, difference = axes
    pixels = example.image(number, method)[shown.area]
    original = example.image(number, REFERENCE)[shown.area]
    top, left, side = shown.box
    grey = {"cmap": "gray", "vmin": 0, "vmax": shown.white, "aspect": "auto"}
    image.imshow(pixels, **grey)
    frame: dict[str, Any] = {"fill": False, "edgecolor": style.COLOURS[5], "linewidth": 0.8}
    image.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, **frame))
    cut.imshow(pixels[top : top + side, left : left + side], **grey)
    cut.spines[:].set(visible=True, edgecolor=style.COLOURS[5], linewidth=0.8)
    lines = _name(example, method)
    if method != REFERENCE:
        shade = {"cmap": "inferno", "vmin": 0, "vmax": shown.worst, "aspect": "auto"}
        difference.imshow(abs(pixels - original), **shade)
        psnr = example.slices[number]["psnr"].get(method)
        lines = [*lines, *([] if psnr is None else [f"{psnr:.2f} dB"])]
    image.set_title("\n".join(lines), fontsize=style.SMALL, pad=2)


def _name(example: Loaded, method: str) -> list[str]:
    """The lines of a panel's name."""
    return textwrap.wrap(example.labels.get(method, "Original (HR)"), 19)[:3]


def _scale_bar(axis: Any, columns: int, rows: int, mm: float) -> None:
    """A bar with its length in mm, lower left."""
    from matplotlib.patheffects import withStroke

    length = style.nice(columns * mm / 3)
    edge, up = columns * 0.06, rows * 0.95
    axis.plot([edge, edge + length / mm], [up, up], color="white", linewidth=1.8,
              path_effects=[withStroke(linewidth=3, foreground="black")])  # fmt: skip
    _write(axis, edge, up - rows * 0.025, f"{length:g} mm", "bottom", "left")


def _sides(axis: Any, about: dict[str, Any]) -> None:
    """Letters of the sides: where the patient's left, front and head are."""
    axis.set_autoscale_on(False)
    _write(axis, 0.5, 0.985, about["top"], "top", "center", axis.transAxes)
    _write(axis, 0.06, 0.5, about["left"], "center", "center", axis.transAxes)


def _write(
    axis: Any, x: float, y: float, text: str, high: str, wide: str, transform: Any = None
) -> None:
    from matplotlib.patheffects import withStroke

    axis.text(
        x, y, text, color="white", ha=wide, va=high, fontsize=style.SMALL,
        path_effects=[withStroke(linewidth=1.5, foreground="black")],
        **({"transform": transform} if transform else {}),
    )  # fmt: skip


def _colour_bar(figure: Any, axis: Any, shown: Window) -> None:
    """The colour scale of the differences, in the place below the original."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = axis.inset_axes((0.12, 0.38, 0.1, 0.54))
    scale = ScalarMappable(Normalize(0, 100 * shown.worst / shown.white), "inferno")
    drawn = figure.colorbar(scale, cax=bar, extend="max")
    drawn.ax.tick_params(labelsize=style.SMALL, length=2, pad=1)
    drawn.outline.set_linewidth(0.4)
    drawn.ax.grid(False)
    drawn.ax.locator_params(nbins=5)
    text = "Difference from\nthe original,\n% of the window"
    axis.text(0.05, 0.0, text, fontsize=style.SMALL - 0.5, va="bottom", transform=axis.transAxes)
