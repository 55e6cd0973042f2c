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
in the input's scale (a network may overshoot a little below zero; nothing is clipped), or those of
the input's type. Each voxel becomes scale x scale new ones in the same space, so the anatomy does
not move. Of a 4D scan every volume is enhanced on its own, with its own percentile. A JSON beside
the output says what was done (`sidecar.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from mrsr import compute
from mrsr.console import recorded
from mrsr.errors import UserError
from mrsr.scan import applying, fitting, sidecar
from mrsr.scan.choosing import choose, ready
from mrsr.scan.guiding import intensity_unit, second_contrast
from mrsr.scan.input import (
    Source,
    each_volume,
    file_axes,
    open_scan,
    read_scan,
    say_nan,
)
from mrsr.scan.output import as_image, check_output, header_for, write_slices
from mrsr.scan.stored import Kind

PERCENTILE = 99.9  # the intensity that becomes 1, unless the checkpoint gives another


def enhance(
    input: Source,
    output: Path | str | None = None,
    model: Path | str = "",
    *,
    scale: int = 0,
    device: str = "auto",
    batch: int = 0,
    overwrite: bool = False,
    guide: Source | None = None,
    ensemble: int = 1,
    axis: int | None = None,
    tile: int = 0,
    volume: int | None = None,
    nan: str = "refuse",
    dtype: str = "float32",
    contrast: str = "",
    series: str = "",
    through_plane: float | None = None,
    slice_thickness: float | None = None,
    consistency: bool = False,
    quality: Path | str | None = None,
) -> SpatialImage:
    """Super-resolve a scan of any orientation.

        from mrsr import enhance
        enhance("scan.nii.gz", "finer.nii.gz")
        finer = enhance(nibabel.load("scan.nii.gz"))  # writes nothing

    Args:
        input: a scan of 2, 3 or 4 axes: .nii, .nii.gz, .nii.bz2, .mgh or .mgz, a folder with a
            DICOM series, or an image of nibabel.
        output: the `.nii` or `.nii.gz` file to write, atomically, and a `.json` beside it. None:
            nothing is written.
        model: a `best.pt` of a training; or "bicubic" or "pseudo_inverse" (of a bicubic
            degradation), to compare with. Empty: the network of the package.
        scale: 2 (the usual), 3, 4 or 8 if nothing is trained; of the package's networks 2 or what
            else it has. A checkpoint has its own.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        batch: slices per forward pass; 0 takes what is fast on the device. It is halved, with a
            line about it, where memory does not suffice.
        overwrite: replace `output` and the JSON if they exist.
        guide: a scan of the second contrast, for guided networks, on any grid.
        ensemble: 8 averages over the flips and turns of each slice: better, in 8 times the time.
        axis: of the file (0, 1, 2), that slices are stacked along; None decides by shape and voxel
            size, and says so where voxels are nearly isotropic.
        tile: cut slices into tiles of so many input pixels a side, so that large ones need less
            memory; 0: only where memory does not suffice. Networks of convolutions give the same
            image; of others, a line says that it changes a little.
        volume: of a 4D scan, from 0; None: every one, each on its own.
        nan: "zero" reads NaN as 0; "refuse" takes no scan that has any.
        dtype: "float32", or "same": the input's type, slope and intercept; integers are rounded,
            and clipped to what the type holds.
        contrast: of the scan, such as "T1"; empty: guessed from name, tags or header, and said.
        series: of a DICOM folder that has several: its number or its name.
        through_plane: thin thick slices to so many millimetres instead, by what the scan itself
            teaches; 0: as fine as the plane (`through_plane.py`). Takes no model and no scale.
        slice_thickness: of those slices, in millimetres; None: what the JSON beside the scan says,
            else an estimate.
        consistency: move the output to the nearest image that degrades to the input, and say how
            far it was from it (`consistency.py`). With `through_plane` that is always so.
        quality: a file for the standard deviation of the eight estimates of each pixel over flips
            and turns (`quality.py`), in the output's geometry and the scan's intensities.

    Returns:
        The enhanced scan as an image of nibabel; of a file, its voxels are read when they are used.

    Raises:
        UserError: the input, the guide or the checkpoint cannot be used (each says why), `output`
            exists, or it is not named `.nii` or `.nii.gz`.
    """
    target = None if output is None else Path(output)
    if target is not None:
        check_output(target, overwrite, sidecar.path_of(target), read=(input, guide))
    quality = None if quality is None else Path(quality)
    if quality is not None:
        check_output(quality, overwrite, read=(input, guide))
        if target is not None and quality.resolve() == target.resolve():
            raise UserError(f"{quality} is the output already; give the quality map another name")
    applying.check_options(axis, batch, tile, ensemble, nan, dtype)
    where = compute.device_for(device)
    if through_plane is not None:
        if str(model) or scale or guide is not None:
            raise UserError(
                "--through-plane learns from the scan itself; leave model, scale and guide out"
            )
        if batch or tile or contrast:
            raise UserError(
                "--through-plane has no use for batch, tile and contrast; leave them out"
            )
        from mrsr.scan.through_plane import enhance_through

        return enhance_through(
            input, target, through_plane, thickness=slice_thickness, quality=quality, device=where,
            axis=axis, volume=volume, nan=nan, dtype=dtype, series=series, flips=ensemble == 8,
        )  # fmt: skip
    if slice_thickness is not None:
        raise UserError("--slice-thickness is for --through-plane alone; leave it out")
    with recorded() as said:
        chosen = choose(model, scale, where, guided=guide is not None)
        scale, percentile = chosen.scale, _percentile(chosen.settings)
        given = open_scan(input, series)
        numbers = list(range(given.scan.volumes)) if volume is None else [volume]
        if len(numbers) > 1 and (chosen.network is None or guide is not None):
            raise UserError(
                f"{given.name} has {len(numbers)} volumes, and {chosen.label} takes one at a time; "
                "choose it with --volume"
            )
        if quality is not None and len(numbers) > 1:
            raise UserError(f"{given.name} has {len(numbers)} volumes, a quality map is of one; "
                            "choose it with --volume")  # fmt: skip
        first = read_scan(given, axis, volume=numbers[0], nan=nan)
        axes = file_axes(first)
        kind = Kind.of(given, dtype, complex_scan=np.iscomplexobj(first.stored))
        header = header_for(given.scan.image, axes[1:], scale, name=given.name,
                            volumes=len(numbers), dtype=kind.dtype,
                            scaling=(kind.slope, kind.intercept))  # fmt: skip
        names = [given.name if len(numbers) == 1 else f"{given.name}, volume {number}"
                 for number in numbers]  # fmt: skip
        units = []
        for name, one in zip(names, each_volume(given, first, numbers, axis, nan), strict=True):
            if one is not first:  # all of them are checked before the work starts
                say_nan(one, name)
            units.append(intensity_unit(one.image, percentile, name))
        contrast = fitting.contrast_of(given, contrast, chosen)
        fitting.warn(given, first, float(units[0]), contrast, chosen)

        second = None
        if guide is not None:
            second = second_contrast(open_scan(guide), first, scale, percentile)
        network = ready(chosen, first, units[0], where, given.name, guided=second is not None)

        how: dict[str, Any] = {"device": where, "batch": batch, "guide": second, "tile": tile}

        def pieces() -> Iterator[np.ndarray]:
            volumes = each_volume(given, first, numbers, axis, nan)
            for name, unit, one in zip(names, units, volumes, strict=True):
                label = name if len(numbers) > 1 else ""
                for fine in applying.slabs(
                    network, one.image, unit, chosen, name, label=label, ensemble=ensemble,
                    consistency=consistency, **how,
                ):  # fmt: skip
                    yield kind.stored(fine)

        made: Any = None
        if target is None:
            made = as_image(pieces(), header, axes)
        else:
            write_slices(target, pieces(), header, axes)
        kind.say_clipped(given.name)
        if quality is not None:
            found = applying.disagreement(network, first.image, units[0], chosen, given.name, **how)
            plain = header_for(given.scan.image, axes[1:], scale, name=given.name)
            write_slices(quality, found, plain, axes)
    if target is None:
        return made
    ratio = [1 / scale if at in axes[1:] else 1 for at in range(3)]
    sizes = [first.voxel_size[axes.index(at)] for at in range(3)]
    sidecar.write(
        target,
        source=given.path,
        model=chosen.record(),
        settings={
            "scale": scale,
            "axis": axes[0],
            "contrast": contrast or None,
            "ensemble": ensemble,
            "dtype": kind.dtype.name,
            "nan": nan,
            "volume": volume,
            "volumes": len(numbers),
            "guide": _name(guide),
            "consistency": consistency,
            "quality": quality and quality.name,
            "voxel_mm": {"input": _rounded(sizes),
                         "output": _rounded(np.multiply(sizes, ratio))},
        },
        said=said,
    )  # fmt: skip
    return nibabel.load(target)  # type: ignore[return-value]  # what was written is spatial


def _name(guide: Source | None) -> str | None:
    if guide is None or isinstance(guide, SpatialImage):
        return None if guide is None else "an image in memory"
    return Path(guide).name


def _rounded(sizes: Any) -> list[float]:
    return [round(float(size), 6) for size in sizes]


def _percentile(settings: dict[str, Any]) -> float:
    normalise = settings.get("normalise") or {}
    return float(normalise.get("percentile", PERCENTILE))
