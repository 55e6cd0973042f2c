"""Enhance your own scan with a trained network: in-plane voxels become `scale` times smaller.

By hand: `mrsr enhance IN.nii.gz OUT.nii.gz --model results/.../best.pt`.

Slices are taken in the finest plane, that is along the axis with the largest voxel size (ties: the
last axis), and each goes through the network on its own; the slice direction is left as it is. The
scan is divided by a high percentile of itself as the training volumes were, and multiplied back.

A guided network also gets a second contrast of the same head, `--guide SCAN2`: it is put onto the
output's grid by both headers' positions (nothing is registered) and divided by the same percentile
of itself. A method that learns from the scan itself (type self) is trained on it first.

The output has the input's axes in the input's order, float32 intensities in the input's scale
(a network may overshoot a little below zero; nothing is clipped), and the input's header. Each old
voxel becomes scale x scale new ones that fill the same space, so the anatomy does not move.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrsr import checkpoint, compute, models, resampling
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import atomic
from mrsr.inference import apply
from mrsr.params.jobs import SuperResolution
from mrsr.params.typed import build
from mrsr.raw.volume import Volume

PERCENTILE = 99.9  # the intensity that becomes 1, where the checkpoint does not say another


def enhance(
    input: Path,
    output: Path,
    model: Path | str,
    *,
    scale: int = 0,
    device: str = "auto",
    batch: int = 8,
    overwrite: bool = False,
    guide: Path | None = None,
) -> None:
    """Super-resolve a NIfTI scan of any orientation.

    Args:
        input: a 3D `.nii` or `.nii.gz` file.
        output: the file to write, atomically.
        model: a `best.pt` of a training; or "bicubic", to compare with.
        scale: with "bicubic": 2, 3, 4 or 8. A checkpoint knows its own.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        batch: slices that go through the network at once.
        overwrite: replace `output` if it is there.
        guide: a scan of the second contrast, for guided networks, on whatever grid.

    Raises:
        UserError: the input, the guide or the checkpoint cannot be used (each says why), `output`
            exists, or it is not named `.nii` or `.nii.gz`.
    """
    from mrsr.raw.nifti import read_nifti

    input, output = Path(input), Path(output)
    check_output(output, overwrite)
    if batch < 1:
        raise UserError(f"batch is {batch}, it must be 1 or more")
    where = compute.device_for(device)
    percentile, settings = PERCENTILE, {}
    if str(model) == "bicubic":
        resampling.check(scale, "bicubic")
        models.check_guide("bicubic", guide is not None)
        network = models.build("bicubic", scale, {}).to(where)
    else:
        saved = checkpoint.load(model)
        models.check_guide(saved.model_name, guide is not None)
        if scale not in (0, saved.scale):
            raise UserError(f"{model} was trained for {saved.scale}x, not {scale}x")
        scale, settings, percentile = saved.scale, saved.settings, _percentile(saved.settings)
        if (times := settings.get("acceleration", 1)) > 1:
            say(f"warning: {model} expects a scan undersampled {times}x in k-space, as it learned")
        if settings.get("type") != "self":
            network = checkpoint.network(model, where)
    volume = read_nifti(input, subject="", contrast="", organ="")
    axes = [int(axis) for axis in volume.attributes["axes"].split(",")]

    image = volume.image
    unit = intensity_unit(image, percentile, input.name)
    second = _second(Path(guide), volume, scale, percentile) if guide else None
    if settings.get("type") == "self":
        network = _own_network(image / unit, settings, where, input.name)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fine = apply(network, image / unit, scale, device=where, batch=batch, guide=second)
    if not np.isfinite(fine).all():
        raise UserError(f"{model} gives NaN or infinite values on {input.name}; train it again")
    write_scan(output, (fine * unit).transpose(np.argsort(axes)), input, axes[1:], scale)


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output that has no NIfTI suffix or already exists."""
    from mrsr.raw.nifti import is_nifti

    if not is_nifti(output):
        raise UserError(f"output {output} must be named .nii or .nii.gz")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; give another name, or --overwrite to replace it")


def intensity_unit(image: np.ndarray, percentile: float, name: str) -> np.float32:
    """The intensity that becomes 1: a percentile of the whole volume, as in the slice store."""
    unit = np.float32(np.percentile(image, percentile))
    if not unit > 0:
        raise UserError(
            f"{name}: the {percentile:g} % percentile of its intensities is {unit:g}, there is "
            "hardly any signal; crop it, or leave it out"
        )
    return unit


def _second(path: Path, volume: Volume, scale: int, percentile: float) -> np.ndarray:
    """The second contrast (slices, scale * h, scale * w), normalised, on the output's grid."""
    from mrsr.raw.nifti import read_nifti
    from mrsr.slices import guides

    other = read_nifti(path, subject="", contrast="", organ="")
    unit = intensity_unit(other.image, percentile, path.name)
    count, height, width = volume.stored.shape
    to_other = np.linalg.inv(other.affine) @ volume.affine @ _refine([1, 2], scale)
    size = (height * scale, width * scale)
    second = guides.resample(other.image, to_other, tuple(range(count)), size)
    if not second.any():
        raise UserError(
            f"{path.name} does not overlap the scan; check the positions in both headers"
        )
    return second / unit


def _own_network(
    image: np.ndarray, settings: dict[str, Any], device: torch.device, name: str
) -> nn.Module:
    """Train a network on the slices (n, h, w) of this scan, as for the checkpoint's volumes.

    The checkpoint's own weights are of the volumes it was measured on, and are not used.
    """
    from mrsr.training import train_self

    try:
        job = build(SuperResolution, {**settings, "device": str(device)}, strict=False)
    except ValueError as error:
        raise UserError(f"the checkpoint's settings cannot train again: {error}") from None
    say(f"{name}: the method learns from the scan itself: training on it, {job.steps} steps")
    machine = compute.start(job)
    lr = torch.from_numpy(np.ascontiguousarray(image, np.float32)).to(machine.device)
    return train_self.fit(lr, job, machine, f"{name} {job.method}").float()


def _percentile(settings: dict[str, Any]) -> float:
    normalise = settings.get("normalise") or {}
    return float(normalise.get("percentile", PERCENTILE))


def _refine(plane: list[int], scale: float) -> np.ndarray:
    """(4, 4), from voxels that are `scale` times finer along the axes in `plane` to the old ones.

    New voxel j covers a part of old voxel (j + 1/2) / scale - 1/2.
    """
    refine = np.eye(4)
    for axis in plane:
        refine[axis, axis] = 1 / scale
        refine[axis, 3] = -(1 - 1 / scale) / 2
    return refine


def write_scan(
    output: Path, array: np.ndarray, source: Path, plane: list[int], scale: float
) -> None:
    """Write (x, y, z) with the source's header and both of its transforms, finer in `plane`.

    A scale below 1 makes voxels larger.
    """
    import nibabel

    loaded: Any = nibabel.load(source)
    header = loaded.header.copy()
    refine = _refine(plane, scale)
    zooms = list(header.get_zooms()[:3])
    for axis in plane:
        zooms[axis] /= scale
    qform, qcode = header.get_qform(coded=True)
    sform, scode = header.get_sform(coded=True)
    header.set_data_shape(array.shape)
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1, 0)
    header.set_zooms(zooms)
    if qcode:
        header.set_qform(qform @ refine, int(qcode))
    if scode:
        header.set_sform(sform @ refine, int(scode))
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    # the header's own best transform: nibabel then keeps its codes
    image = kind(np.asarray(array, np.float32), header.get_best_affine(), header)
    content = image.to_bytes()
    if output.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=3, mtime=0)
    with atomic(output) as temporary:
        temporary.write_bytes(content)
