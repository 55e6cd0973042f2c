"""Enhance your own scan with a trained network: in-plane voxels become `scale` times smaller.

By hand: `mrsr enhance IN.nii.gz OUT.nii.gz`, or with a network of your own, `--model best.pt`.

Slices are taken along an axis of length 1, else in the finest plane, that is along the axis with
the largest voxel size (ties: the last axis); `axis` names another. Each goes through the network
separately; the slice direction does not change. As for the training volumes, the scan is divided by
a high percentile of its intensities; the output is multiplied by it. Negative intensities (z-scored
scans, air at -1024) go through with their sign; the percentile must be above zero. Of complex scans
the magnitude is used.

A guided network also gets a second contrast of the same head, `--guide SCAN2`. It is resampled onto
the output's grid by the positions in both headers (nothing is registered) and divided by its own
percentile. A method that learns from the scan itself (type self) is trained on it first.

The output has the input's axes and header (of an MGH file, its position), and float32 intensities
in the input's scale (a network may overshoot a little below zero; nothing is clipped). Each voxel
becomes scale x scale new ones in the same space, so the anatomy does not move.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrsr import compute, inference, linear_tail, tiles
from mrsr.errors import UserError
from mrsr.raw.volume import Volume
from mrsr.scan.choosing import choose
from mrsr.scan.input import check_axis, file_axes, read_scan
from mrsr.scan.output import check_output, finer, header_for, write_slices

PERCENTILE = 99.9  # the intensity that becomes 1, unless the checkpoint gives another


def enhance(
    input: Path | str,
    output: Path | str,
    model: Path | str = "",
    *,
    scale: int = 0,
    device: str = "auto",
    batch: int = 0,
    overwrite: bool = False,
    guide: Path | str | None = None,
    ensemble: int = 1,
    axis: int | None = None,
    tile: int = 0,
) -> None:
    """Super-resolve a scan of any orientation.

        from mrsr import enhance
        enhance("scan.nii.gz", "finer.nii.gz")

    Args:
        input: a 3D scan, or a 2D one of one slice: .nii, .nii.gz, .nii.bz2, .mgh or .mgz.
        output: the `.nii` or `.nii.gz` file to write, atomically.
        model: a `best.pt` of a training; or "bicubic" or "pseudo_inverse" (of a bicubic
            degradation), to compare with. Empty: the network of the package.
        scale: 2, 3, 4 or 8 if nothing is trained; of the package's networks 2 (the usual) or what
            else it has. A checkpoint has its own.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        batch: slices per forward pass; 0 takes what is fast on the device. It is halved, with a
            line about it, where memory does not suffice.
        overwrite: replace `output` if it exists.
        guide: a scan of the second contrast, for guided networks, on any grid.
        ensemble: 8 averages over the flips and turns of each slice: better, in 8 times the time.
        axis: of the file (0, 1, 2), that slices are stacked along; None decides by shape and voxel
            size, and says so where voxels are nearly isotropic.
        tile: cut slices into tiles of so many input pixels a side, so that large ones need less
            memory; 0: only where memory does not suffice. Networks of convolutions give the same
            image; of others, a line says that it changes a little.

    Raises:
        UserError: the input, the guide or the checkpoint cannot be used (each says why), `output`
            exists, or it is not named `.nii` or `.nii.gz`.
    """
    input, output = Path(input), Path(output)
    check_output(output, overwrite)
    check_axis(axis)
    if batch < 0:
        raise UserError(f"batch is {batch}, it must be 1 or more, or 0 for what is fast")
    if tile and tile < tiles.LEAST:
        raise UserError(f"tile is {tile}, it must be {tiles.LEAST} or more, or 0 for whole slices")
    if ensemble not in (1, 8):
        raise UserError(f"ensemble is {ensemble}, it must be 1 or 8")
    where = compute.device_for(device)
    chosen = choose(model, scale, where, guided=guide is not None)
    network, scale, percentile = chosen.network, chosen.scale, _percentile(chosen.settings)
    volume = read_scan(input, axis)
    axes = file_axes(volume)
    header = header_for(input, axes[1:], scale)

    image = volume.image
    unit = intensity_unit(image, percentile, input.name)
    second = _second(Path(guide), volume, scale, percentile) if guide else None
    if network is None:
        from mrsr.training.one_volume import fit_scan

        threads = torch.get_num_threads()
        network = fit_scan(image / unit, chosen.settings, where, input.name)
        torch.set_num_threads(threads)  # the training has its own number, which its weights need
    if second is None:
        with inference.one_thread():
            linear_tail.fold(network, scale)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    image /= unit
    found = inference.slabs(
        network, image, scale, device=where, batch=batch, guide=second, ensemble=ensemble, tile=tile
    )
    write_slices(output, _checked(found, unit, chosen.name, input.name), header, axes)


def _checked(
    found: Iterator[tuple[slice, np.ndarray]], unit: np.float32, model: str, name: str
) -> Iterator[np.ndarray]:
    """The images in the input's scale."""
    for _, fine in found:
        if not np.isfinite(fine).all():
            raise UserError(f"{model} gives NaN or infinite values on {name}; train it again")
        fine *= unit
        yield fine


def intensity_unit(image: np.ndarray, percentile: float, name: str) -> np.float32:
    """The intensity that becomes 1: a percentile of the whole volume, as in the slice store."""
    unit = np.float32(np.percentile(image, percentile))
    if not image.max() > 0:
        raise UserError(
            f"{name}: none of its intensities is above zero ({image.min():g} to {image.max():g}), "
            "and they are divided by a percentile; add an offset, so that air is 0"
        )
    if not unit > 0:
        raise UserError(
            f"{name}: the {percentile:g} % percentile of its intensities is {unit:g}, there is "
            "hardly any signal; crop it, or leave it out"
        )
    return unit


def _second(path: Path, volume: Volume, scale: int, percentile: float) -> np.ndarray:
    """The second contrast (slices, scale * h, scale * w), normalised, on the output's grid."""
    from mrsr.slices import guides

    other = read_scan(path, sliced=False)
    unit = intensity_unit(other.image, percentile, path.name)
    count, height, width = volume.stored.shape
    to_other = np.linalg.inv(other.affine) @ volume.affine @ finer([1, 2], scale)
    size = (height * scale, width * scale)
    second = guides.resample(other.image, to_other, tuple(range(count)), size)
    if (second == second.flat[0]).all():
        raise UserError(
            f"{path.name} does not overlap the scan; check the positions in both headers"
        )
    return second / unit


def _percentile(settings: dict[str, Any]) -> float:
    normalise = settings.get("normalise") or {}
    return float(normalise.get("percentile", PERCENTILE))
