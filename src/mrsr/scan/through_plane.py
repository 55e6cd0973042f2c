"""Thin thick slices, from the scan alone: `mrsr enhance IN.nii.gz OUT.nii.gz --through-plane`.

A network learns on the scan itself how blurred lines of its plane become sharp again
(`training/thick_slices.py`), and is applied to both through-planes: to the images that rows of the
plane make with the slice direction, and to those of its columns. Their Fourier coefficients are
averaged, and the result is moved to the nearest volume whose thick slices are the measured ones
(`consistency.py`). Nothing but the scan is used: no other person's anatomy can come in.

The output has voxels as fine as the plane's, or of the size asked for, along the slices; the plane
stays. It begins at the same edge of the field of view, so the anatomy does not move.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from torch import nn

from mrsr.console import bar, recorded, say
from mrsr.errors import UserError
from mrsr.raw.volume import Volume
from mrsr.scan import consistency, sidecar, slice_profile
from mrsr.scan.input import Source, file_axes, open_scan, read_scan
from mrsr.scan.output import as_image, header_for, write_slices
from mrsr.scan.slice_profile import SliceProfile, spline_matrix, weights
from mrsr.scan.stored import Kind
from mrsr.training import thick_slices

PERCENTILE = 99.9  # the intensity that becomes 1
STEPS = 300
LEAST_SLICES = 4
LEAST_GAIN = 1.05  # slices that are less than 5 % thicker than asked are thin already
EQUAL = 1.05  # lines of a direction whose pixels are within 5 % of the finest teach, too
MOST_PHASES = 16
CHUNK = 2**18  # LR pixels at a time
MARGIN = 4  # slices that mirror the border, for the network


@dataclass(frozen=True)
class Grid:
    """Where the new slices are.

    voxel: their spacing (mm). ratio: old spacing / new spacing. phases: samples per old slice that
    the network gives, at least `ratio`. count: new slices.
    """

    voxel: float
    ratio: float
    phases: int
    count: int


def grid_for(volume: Volume, wanted: float, name: str) -> Grid:
    """The grid of the output; wanted: mm, or 0 for the finest in the plane.

    Raises:
        UserError: the slices are thin already, too few, or the size asked for is finer than the
            plane, so that nothing can teach it.
    """
    spacing, *plane = volume.voxel_size
    finest = min(plane)
    voxel = wanted or finest
    if len(volume.stored) < LEAST_SLICES:
        raise UserError(
            f"{name} has {len(volume.stored)} slices, --through-plane needs {LEAST_SLICES} or more"
        )
    if voxel < 0.98 * finest:
        raise UserError(
            f"--through-plane {voxel:g}: {name} has voxels of {finest:.3g} mm in the plane, and "
            f"nothing finer to learn from; ask for {finest:.3g} or more"
        )
    ratio = spacing / voxel
    if ratio < LEAST_GAIN:
        raise UserError(
            f"{name}: slices {spacing:.3g} mm apart are no thicker than the {voxel:.3g} mm asked "
            "for; --axis names another slice direction"
        )
    phases = int(np.ceil(ratio - 0.02))
    if phases > MOST_PHASES:
        raise UserError(
            f"{name}: slices {spacing:.3g} mm apart are {ratio:.0f} times as thick as asked for, "
            f"at most {MOST_PHASES} can be learned; ask for {spacing / MOST_PHASES:.2g} mm or more"
        )
    # as header_for rounds the size
    return Grid(voxel, ratio, phases, int(np.floor(len(volume.stored) * ratio + 0.5)))


def enhance_through(
    input: Source,
    output: Path | None,
    voxel: float = 0,
    *,
    thickness: float | None = None,
    quality: Path | None = None,
    device: torch.device,
    axis: int | None = None,
    volume: int | None = None,
    nan: str = "refuse",
    dtype: str = "float32",
    series: str = "",
    flips: bool = False,
) -> SpatialImage:
    """A scan with thin slices; the arguments are those of `enhance`, already checked.

    output: None writes nothing. voxel: mm, 0: as fine as the plane. quality: where to write the
    standard deviation of the estimates, if anywhere.

    Raises:
        UserError: the scan cannot be used, each says why.
    """
    flips = flips or quality is not None
    with recorded() as said:
        given = open_scan(input, series)
        whole = read_scan(given, axis, volume=volume, nan=nan)
        axes, image = file_axes(whole), whole.image
        grid = grid_for(whole, voxel, given.name)
        profile = slice_profile.told(given.tags, whole.voxel_size[0], thickness)
        profile = profile or slice_profile.estimate(image, whole.voxel_size)
        kind = Kind.of(given, dtype, complex_scan=np.iscomplexobj(whole.stored))
        scan, name = given.scan.image, given.name
        header = header_for(scan, axes[:1], grid.ratio, name=name, dtype=kind.dtype,
                            scaling=(kind.slope, kind.intercept))  # fmt: skip
        plain = header_for(scan, axes[:1], grid.ratio, name=name) if quality else None
        say(f"{name}: {profile}; to {grid.voxel:.3g} mm, {len(image)} -> {grid.count} slices")
        unit = np.float32(np.percentile(np.abs(image), PERCENTILE))
        if not unit > 0:
            raise UserError(f"{name}: hardly any of its voxels has signal; crop it")
        image /= unit
        fine, spread, residual = thin(
            image, whole.voxel_size, grid, profile,
            device=device, steps=STEPS, flips=flips, name=name,
        )  # fmt: skip
        residual.tell(name, f"slices {profile.fwhm:.2f} mm thick")
        pieces = (kind.stored(one[None] * unit) for one in fine)
        found: Any = None
        if output is None:
            found = as_image(pieces, header, axes)
        else:
            write_slices(output, pieces, header, axes)
        kind.say_clipped(name)
        if quality:
            write_slices(quality, iter([spread * unit]), plain, axes)
    if output is None:
        return found
    before, after = residual.ratios
    settings = {
        "axis": axes[0],
        "volume": volume,
        "dtype": kind.dtype.name,
        "nan": nan,
        "slice_thickness_mm": round(profile.fwhm, 4),
        "slice_thickness": profile.source,
        "slice_spacing_mm": {"input": round(profile.spacing, 6), "output": round(grid.voxel, 6)},
        "training_steps": STEPS,
        "flips": flips,
        "quality": quality and quality.name,
        "residual": {"before": before, "after": after},
    }
    model = {"name": "through-plane: a network trained on this scan alone"}
    sidecar.write(output, source=given.path, model=model, settings=settings, said=said)
    return nibabel.load(output)  # type: ignore[return-value]  # what was written is spatial


def thin(
    image: np.ndarray,
    voxel_size: tuple[float, float, float],
    grid: Grid,
    profile: SliceProfile,
    *,
    device: torch.device,
    steps: int,
    flips: bool = False,
    name: str = "scan",
) -> tuple[np.ndarray, np.ndarray, consistency.Residual]:
    """(n, h, w) normalised -> (count, h, w) with thin slices.

    flips: average over the four flips of each image through the plane: better, in four times the
    time of applying the network.

    Returns:
        The volume, the standard deviation of its estimates (two planes, with `flips` eight), and
        how well it agrees with the slices before and after the projection.
    """
    fine_width = profile.spacing / grid.phases  # mm between the network's samples
    width = profile.fwhm / fine_width
    stacks = _lines(image, voxel_size, fine_width, grid.phases)
    with bar(steps, "step", f"{name}: learning") as progress:
        network = thick_slices.fit(
            stacks,
            grid.phases,
            lambda offsets: weights(offsets, width),
            slice_profile.reach(width),
            steps=steps,
            device=device,
            progress=lambda loss: progress.update(),
        )
    count = len(image) * grid.phases
    places = (np.arange(grid.count) + 0.5) * grid.phases / grid.ratio - 0.5
    onto = None if grid.count == count and np.allclose(places, np.arange(count)) else places
    to_grid = None if onto is None else spline_matrix(count, onto, 5).astype(np.float32)
    mean, spread = _both_planes(network, image, grid.phases, to_grid, device, flips, name)
    exact, residual = consistency.through(mean, image, grid.ratio, profile)
    return exact, spread, residual


def _lines(
    image: np.ndarray, voxel_size: tuple[float, float, float], fine: float, phases: int
) -> list[np.ndarray]:
    """Images of the plane (n, across, samples), along each direction that is fine enough."""
    finest = min(voxel_size[1:])
    found = []
    for axis in (1, 2):
        if voxel_size[axis] > EQUAL * finest:
            continue
        lines = image if axis == 2 else image.transpose(0, 2, 1)
        step = fine / voxel_size[axis]  # pixels between the samples
        samples = int(lines.shape[2] / step + 1e-3)
        if samples < 2 * phases:
            continue
        if abs(step - 1) > 1e-3:
            places = (np.arange(samples) + 0.5) * step - 0.5
            lines = lines @ spline_matrix(lines.shape[2], places, 5).astype(np.float32).T
        found.append(np.ascontiguousarray(lines, np.float32))
    if not found:
        raise UserError("the slices are too small to learn from: fewer pixels than two slices span")
    return found


def _both_planes(
    network: nn.Module,
    image: np.ndarray,
    phases: int,
    to_grid: np.ndarray | None,
    device: torch.device,
    flips: bool,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (count, h, w) of the estimates from both planes, and all flips.

    Both planes show the same slices, and the network leaves what they measured nearly as it was, so
    in the measured frequencies the two agree; the mean keeps them, and takes the others from both.
    """
    _, height, width = image.shape
    ways = list(itertools.product((False, True), repeat=2)) if flips else [(False, False)]
    total = square = np.zeros((), np.float32)
    with bar(len(ways) * (height + width), "image", f"{name}: thinning") as progress:
        for axis, (across, along) in itertools.product((1, 2), ways):
            flipped = (1,) * across + (2,) * along
            # images of one row (or column): (its number, across, slices)
            plane = np.flip(image.transpose(axis, 3 - axis, 0), flipped)
            fine = np.flip(_applied(network, plane, device, progress), flipped)
            fine = fine.transpose(2, 0, 1) if axis == 1 else fine.transpose(2, 1, 0)
            if to_grid is not None:
                fine = np.tensordot(to_grid, fine, 1)
            total = total + fine
            square = square + np.square(fine)
    count = 2 * len(ways)
    mean = total / count
    return mean, np.sqrt(np.maximum(square / count - np.square(mean), 0))


def _applied(
    network: nn.Module, images: np.ndarray, device: torch.device, progress: Any
) -> np.ndarray:
    """(count, across, slices) -> (count, across, phases * slices) float32."""
    count, across, slices = images.shape
    margin = min(MARGIN, slices)
    padded = np.pad(images, ((0, 0), (0, 0), (margin, margin)), mode="symmetric")
    chunk = max(1, CHUNK // (across * padded.shape[2]))
    found = []
    for start in range(0, count, chunk):
        part = torch.from_numpy(np.ascontiguousarray(padded[start : start + chunk], np.float32))
        with torch.inference_mode():
            fine = network(part[:, None].to(device))[:, 0].cpu().numpy()
        phases = fine.shape[-1] // padded.shape[2]
        found.append(fine[..., margin * phases : (margin + slices) * phases])
        progress.update(len(part))
    return np.concatenate(found)
