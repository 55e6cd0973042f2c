"""The README's picture: one slice, degraded, enhanced by the package's network, and the errors.

    cd $MRSR_MIRROR/open_ms_data/longitudinal/raw/patient12
    python .../docs/images/before_after.py study1_T1W.nii.gz

writes docs/images/before-after.png. The slice is the middle one of the scan, not a chosen one.
Patient 12 is in no training of the package's networks (src/mrsr/weights/README.md).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import nibabel
import numpy as np
from matplotlib import pyplot

from mrsr import degrade, enhance, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, help="NIfTI file, slices along its third axis")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("before-after.png"))
    arguments = parser.parse_args()
    image = nibabel.load(arguments.scan)
    middle = image.shape[2] // 2
    with tempfile.TemporaryDirectory() as name:
        paths = {key: Path(name) / f"{key}.nii.gz" for key in ("truth", "low", "bicubic", "ours")}
        nibabel.save(image.slicer[:, :, middle : middle + 1], paths["truth"])
        degrade(paths["truth"], paths["low"], scale=arguments.scale)
        enhance(paths["low"], paths["bicubic"], "bicubic", scale=arguments.scale)
        enhance(paths["low"], paths["ours"], scale=arguments.scale)
        found = {
            key: np.rot90(nibabel.load(path).get_fdata()[:, :, 0]) for key, path in paths.items()
        }
        decibels = {key: score(paths[key], paths["truth"])["psnr"] for key in ("bicubic", "ours")}
    draw(found, decibels, arguments.out)
    print(arguments.out, decibels)


def draw(found: dict[str, np.ndarray], decibels: dict[str, float], out: Path) -> None:
    """Four images in one window; below bicubic and network, the absolute error on one scale."""
    titles = {
        "low": "input, {} x {} pixels".format(*found["low"].shape),
        "bicubic": f"bicubic, {decibels['bicubic']:.1f} dB",
        "ours": f"mrsr, {decibels['ours']:.1f} dB",
        "truth": "original",
    }
    top = np.percentile(found["truth"], 99.5)
    figure, axes = pyplot.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (key, title) in zip(axes[0], titles.items(), strict=True):
        axis.imshow(found[key], cmap="gray", vmin=0, vmax=top, interpolation="nearest")
        axis.set_title(title, fontsize=11)
    for axis, key in ((axes[1, 1], "bicubic"), (axes[1, 2], "ours")):
        error = np.abs(found[key] - found["truth"]) / top
        drawn = axis.imshow(error, cmap="magma", vmin=0, vmax=0.2, interpolation="nearest")
    axes[1, 0].text(1, 0.5, "error", ha="right", va="center", transform=axes[1, 0].transAxes)
    bar = figure.colorbar(drawn, cax=axes[1, 3].inset_axes((0.05, 0.1, 0.07, 0.8)))
    bar.set_label("absolute error (1: the 99.5th percentile)", fontsize=9)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
