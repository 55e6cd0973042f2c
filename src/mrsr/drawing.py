"""Figures: curves of trainings (the paper's Fig. 7) and images beside their errors (Fig. 2 to 5).

By hand: mrsr curves results/demo/checkpoints/phantom_t1/x2/srcnn/log.jsonl --out curves.png
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrsr.errors import UserError
from mrsr.files import atomic, read_log

if TYPE_CHECKING:
    import numpy as np

SPLITS = {"train": "C0", "validation": "C1", "test": "C2"}
FORMATS = (".png", ".pdf", ".svg")


def curves(logs: Mapping[str, Path], out: Path) -> None:
    """Draw the loss and the PSNR of trainings against the step, one row of panels per training.

    Args:
        logs: label -> log.jsonl. The loss is `total`; where it is missing, the first metric.
        out: a .png, .pdf or .svg; the bytes depend on the logs alone.

    Raises:
        UserError: a log cannot be read or has no metrics, or `out` has another suffix.
    """
    drawn = figure(9, 3 * max(1, len(logs)))
    axes = drawn.subplots(max(1, len(logs)), 2, squeeze=False)
    for (label, path), (left, right) in zip(logs.items(), axes, strict=True):
        drawable = series(path)
        loss = next((key for _, key in drawable if key == "total"), next(iter(drawable))[1])
        for axis, key, name in ((left, loss, f"loss ({loss})"), (right, "psnr", "PSNR (dB)")):
            for split, colour in SPLITS.items():
                if (split, key) in drawable:
                    steps, values = zip(*drawable[split, key], strict=True)
                    # a single point has no line to show
                    marker = "o" if len(steps) < 2 else None
                    axis.plot(steps, values, colour, label=split, marker=marker, linewidth=1.2)
            axis.set(title=label, xlabel="step", ylabel=name)
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend()
        positive = all((line.get_ydata() > 0).all() for line in left.lines)
        left.set_yscale("log" if positive else "linear")
    save(drawn, out)


def comparison(images: Mapping[str, np.ndarray], out: Path, reference: np.ndarray) -> None:
    """Draw images (top) and their absolute errors (bottom) beside the reference, as in Fig. 2.

    Args:
        images: name -> (height, width), in the reference's size and intensities.
        out: a .png, .pdf or .svg.
        reference: the true image (height, width); its range is shown from black to white. All
            errors share one grey scale: from 0 to the largest one.

    Raises:
        UserError: a shape differs from the reference's, or `out` has another suffix.
    """
    for name, image in images.items():
        if image.shape != reference.shape:
            raise UserError(
                f"image '{name}' has shape {image.shape}, the reference {reference.shape}; "
                "compare images of one grid"
            )
    errors = {name: abs(image - reference) for name, image in images.items()}
    drawn = figure(2.2 * (len(images) + 1), 5)
    axes = drawn.subplots(2, len(images) + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    shown = {"cmap": "gray", "vmin": float(reference.min()), "vmax": float(reference.max())}
    worst = max((float(error.max()) for error in errors.values()), default=0.0) or 1.0
    axes[0, 0].imshow(reference, **shown)
    axes[0, 0].set_title("high resolution", fontsize=9)
    for column, (name, image) in enumerate(images.items(), 1):
        axes[0, column].imshow(image, **shown)
        axes[0, column].set_title(name, fontsize=9)
        axes[1, column].imshow(errors[name], cmap="gray", vmin=0, vmax=worst)
    axes[1, 0].text(0.5, 0.5, f"errors\n0 to {worst:.3g}", ha="center", va="center")
    save(drawn, out)


def series(path: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(split, metric) -> [(step, value)] of a log; what JSON does not have was logged as null.

    Raises:
        UserError: the log cannot be read, or has no metrics.
    """
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in read_log(path):
        for key, value in (line.get("metrics") or {}).items():
            if type(value) in (int, float):
                found.setdefault((line["split"], key), []).append((line["step"], value))
    if not found:
        raise UserError(f"{path} has no metrics yet; draw it when the training has begun")
    return found


def figure(width: float, height: float, dpi: float = 120) -> Any:
    """A figure of so many inches outside pyplot: no global state, no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def save(figure: Any, out: Path) -> None:
    """Write a figure in the format of the file's suffix; equal figures are equal files.

    Raises:
        UserError: the suffix is none of FORMATS.
    """
    import matplotlib

    out = Path(out)
    kind = out.suffix.lower()
    if kind not in FORMATS:
        raise UserError(f"cannot draw {out}: give a name that ends in {', '.join(FORMATS)}")
    # neither date nor version, so that equal figures are equal files
    keys = {".png": ["Software"], ".pdf": ["CreationDate", "Creator", "Producer"]}
    metadata = dict.fromkeys(keys.get(kind, ["Date", "Creator"]))
    with matplotlib.rc_context({"svg.hashsalt": "mrsr"}), atomic(out) as temporary:
        figure.savefig(temporary, format=kind[1:], metadata=metadata)
