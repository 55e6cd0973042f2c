"""Whether `--quality` predicts the error: the table of docs/howto/quality-map.md.

    python bench/quality.py run phantom --rows rows.jsonl              # three simulated contrasts
    python bench/quality.py run T1W=study1_T1W.nii.gz --rows rows.jsonl
    python bench/quality.py table rows.jsonl docs/howto/quality-map.md

A scan is degraded 2x in its plane and enhanced by the network of the package with `--quality`. The
error is the difference to the scan; both are compared in the head (pixels above 5 % of the scan's
99.9th percentile), by Spearman's rank correlation. By slice: the map's mean and the RMS error of
each slice. By pixel: the map and the absolute error, within each slice, then averaged over slices.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pages
from scipy.stats import spearmanr

from mrsr import degrade, enhance
from mrsr.datasets import phantom

BEGIN = "<!-- bench/quality.py -->"
LEAST = 200  # pixels of head in a slice that counts
RANKED = 8  # slices that are enough to rank


def scans(text: str, folder: Path) -> Iterator[tuple[str, nibabel.Nifti1Image]]:
    """The phantom's contrasts, or `NAME=FILE`."""
    if text != "phantom":
        name, _, path = text.partition("=")
        yield name, nibabel.load(path)
        return
    nobody = {"train": 0, "validation": 0}
    settings = phantom.SETTINGS | {"subjects": nobody | {"test": 1}, "knee": nobody | {"test": 0}}
    phantom.prepare(folder, SimpleNamespace(**settings))
    for contrast in phantom.CONTRASTS:
        yield f"phantom {contrast}", nibabel.load(next((folder / contrast).glob("*.nii.gz")))


def measured(image: nibabel.Nifti1Image, slices: int, scale: int = 2) -> dict[str, float]:
    """Rank correlations of map and error, and the errors of calm and of doubtful pixels.

    slices: along the last axis, evenly chosen; 0: all.
    """
    sides = [size - size % scale for size in image.shape[:2]]
    step = max(1, image.shape[2] // slices) if slices else 1
    image = image.slicer[: sides[0], : sides[1], ::step]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quality.nii"
        fine = enhance(degrade(image, scale=scale, axis=2), scale=scale, axis=2, quality=path)
        doubt = nibabel.load(path).get_fdata()
    truth = image.get_fdata()
    error = np.abs(fine.get_fdata() - truth)
    head = truth > 0.05 * np.percentile(truth, 99.9)
    good = [at for at in range(truth.shape[2]) if head[..., at].sum() >= LEAST]
    pairs = [(doubt[..., at][head[..., at]], error[..., at][head[..., at]]) for at in good]
    means = [(one.mean(), np.sqrt(np.square(other).mean())) for one, other in pairs]
    ranked = np.concatenate([other[one.argsort()] for one, other in pairs])
    tenths = [np.array_split(other[one.argsort()], 10) for one, other in pairs]
    calm, wild = (
        np.sqrt(np.mean([np.square(part[at]).mean() for part in tenths])) for at in (0, 9)
    )
    return {
        "slices": len(good),
        "pixels": len(ranked),
        "by_slice": float(spearmanr(*zip(*means, strict=True)).statistic),
        "by_pixel": float(np.mean([spearmanr(*pair).statistic for pair in pairs])),
        "calm": float(calm / np.sqrt(np.square(ranked).mean())),
        "wild": float(wild / np.sqrt(np.square(ranked).mean())),
    }


def run(given: argparse.Namespace) -> None:
    """A line of JSON for each scan."""
    with tempfile.TemporaryDirectory() as folder:
        for name, image in scans(given.scan, Path(folder)):
            row = {"scan": name, **measured(image, given.slices)}
            pages.add(row, given.rows)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the page's table."""
    lines = [
        "| Scan, 2x | Slices | Pixels | By slice | By pixel | Calmest tenth | Doubtful tenth |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        by_slice = f"{row['by_slice']:.2f}" if row["slices"] >= RANKED else "too few"
        lines.append(
            f"| {row['scan']} | {row['slices']} | {row['pixels']:,} | {by_slice} "
            f"| {row['by_pixel']:.2f} | {row['calm']:.2f} | {row['wild']:.2f} |"
        )
    return lines


def arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `run`."""
    parser.add_argument("scan", help="phantom, or NAME=FILE")
    parser.add_argument("--slices", type=int, default=0, help="evenly chosen; 0: all")


if __name__ == "__main__":
    pages.command_line(__doc__.splitlines()[0], BEGIN, run, arguments, table)
