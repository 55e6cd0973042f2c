"""Thick slices made thin, beside a cubic B-spline and ECLARE: docs/howto/thick-slices.md.

    python bench/through_plane.py run mni 3 --rows rows.jsonl    # nilearn's template, thickened 3x
    python bench/through_plane.py run ch2=ch2.nii.gz 5 --rows rows.jsonl  # Debian's mricron-data
    python bench/through_plane.py run mni 3 --rows rows.jsonl --eclare venv/bin/run-eclare
    python bench/through_plane.py table rows.jsonl docs/howto/thick-slices.md

`run` thickens an isotropic scan along its third axis: slices are Gaussian-weighted means (FWHM =
spacing, no gap). Every method gets the same file and is scored against the scan: PSNR over the
whole volume with the scan's maximum as peak, and SSIM (scikit-image, 7x7x7 windows). `--crop N`
takes N^3 voxels from the middle. ECLARE (pip install eclare, GPL-3.0) runs as its own program;
`--patches` is its `--n-patches`, 1,000,000 by its own default.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pages
import torch
from skimage.metrics import structural_similarity

from mrsr import enhance
from mrsr.scan import slice_profile
from mrsr.scan.slice_profile import slice_matrix, spline_matrix

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
BEGIN = "<!-- bench/through_plane.py -->"


def scan_of(text: str, crop: int) -> tuple[str, np.ndarray]:
    """(name, (x, y, z) float32) of `mni` or `NAME=FILE`."""
    name, _, path = text.partition("=")
    image = nibabel.load(path or str(files("nilearn") / TEMPLATE))
    whole = image.get_fdata(dtype=np.float32)
    if crop:
        starts = [(size - crop) // 2 for size in whole.shape]
        whole = whole[tuple(slice(start, start + crop) for start in starts)]
        name = f"{name}, middle {crop}^3"
    return name, whole


def scores(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR (dB) and SSIM of the whole volume."""
    peak = float(truth.max())
    psnr = 10 * np.log10(peak**2 / np.square(found - truth, dtype=np.float64).mean())
    return {
        "psnr": float(psnr),
        "ssim": float(structural_similarity(truth, found, data_range=peak)),
    }


def run(given: argparse.Namespace) -> None:
    """One scan and one ratio; a line of JSON for each method."""
    name, whole = scan_of(given.scan, given.crop)
    slices = int(whole.shape[2] / given.ratio)
    slices -= slices % (1 if given.ratio == int(given.ratio) else 2)  # x.5 gives whole voxels
    voxels = round(slices * given.ratio)
    truth = whole[..., :voxels]
    matrix = slice_matrix(voxels, slices, given.ratio, given.ratio)
    thick = (truth @ matrix.T).astype(np.float32)
    shape = "x".join(map(str, thick.shape))
    common = {
        "scan": name,
        "ratio": given.ratio,
        "input": shape,
        "threads": torch.get_num_threads(),
    }

    def put(method: str, found: np.ndarray, seconds: float, **more: Any) -> None:
        row = {**common, "method": method, **scores(found, truth), "seconds": seconds, **more}
        pages.add(row, given.rows)

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "thick.nii.gz"
        nibabel.save(nibabel.Nifti1Image(thick, np.diag([1, 1, given.ratio, 1])), source)
        if given.eclare:
            with_eclare(given, source, put, truth.shape)
            return
        places = (np.arange(voxels) + 0.5) / given.ratio - 0.5
        began = time.monotonic()
        spline = (thick @ spline_matrix(slices, places).T).astype(np.float32)
        put("cubic B-spline", spline, time.monotonic() - began)
        guess = slice_profile.estimate(thick.transpose(2, 1, 0), (given.ratio, 1, 1)).fwhm
        began, used = time.monotonic(), time.process_time()
        thin = enhance(source, through_plane=0, slice_thickness=given.ratio)
        took, used = time.monotonic() - began, time.process_time() - used
        found = thin.get_fdata(dtype=np.float32)
        put("mrsr enhance --through-plane", found, took, cpu=used, estimated=guess)


def with_eclare(given: argparse.Namespace, source: Path, put: Any, shape: tuple[int, ...]) -> None:
    """The same file through `run-eclare`, told the same slice thickness."""
    began = time.monotonic()
    command = [given.eclare, "--in-fpath", source, "--out-dir", source.parent, "--n-patches",
               given.patches, "--relative-slice-thickness", given.ratio]  # fmt: skip
    subprocess.run([str(word) for word in command], check=True)
    took = time.monotonic() - began
    found = nibabel.load(source.with_name("thick_eclare.nii.gz")).get_fdata(dtype=np.float32)
    if found.shape != shape:
        raise SystemExit(f"ECLARE gave {found.shape}, the scan has {shape}")
    put(f"ECLARE, {given.patches:,} patches", found, took)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the page's table."""
    base = {(r["scan"], r["ratio"]): r["psnr"] for r in rows if r["method"] == "cubic B-spline"}
    rows.sort(key=lambda row: (row["scan"], row["ratio"]))  # stable: methods as they were run
    lines = [
        "| Scan | Thickened | Input | Method | PSNR (dB) | over the spline | SSIM | CPU time "
        "| Thickness, estimated |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        gain = row["psnr"] - base[row["scan"], row["ratio"]]
        used = f"{row['cpu']:.0f} s" if "cpu" in row else ""
        guess = f"{row['estimated']:.1f} mm" if "estimated" in row else ""
        lines.append(
            f"| {row['scan']} | {row['ratio']:g}x | {row['input']} | {row['method']} "
            f"| {row['psnr']:.2f} | {gain:+.2f} | {row['ssim']:.4f} | {used} | {guess} |"
        )
    return lines


def arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `run`."""
    parser.add_argument("scan", help="mni, or NAME=FILE")
    parser.add_argument("ratio", type=float)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--eclare", default="", help="path of run-eclare")
    parser.add_argument("--patches", type=int, default=1_000_000)


if __name__ == "__main__":
    pages.command_line(__doc__.splitlines()[0], BEGIN, run, arguments, table)
