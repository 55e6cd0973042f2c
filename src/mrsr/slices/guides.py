"""The second contrast of the same scans, on the grid of a slice store: guides of guided methods.

    mrsr guides data/raw/openms/manifest.csv --settings @settings.json \\
        --slices results/benchmark/slices/openms_t2 --out .../openms_t2/guide

For each of train.h5, validation.h5 and test.h5, a store of the same name is written with the other
contrast of the same scans (volumes with the same `pair`), slice by slice. If the grids agree up to
whole voxels, the stored values are copied; otherwise the guide is resampled by the two affines
(cubic splines). Nothing is registered. The remaining in-plane shift between the edges of
the two contrasts is measured and stored as `residual_mm`.
Scans without the other contrast are left out of training and validation, and named in the store.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from mrsr import datasets, files
from mrsr.console import account
from mrsr.errors import UserError
from mrsr.params.jobs import Guides
from mrsr.params.schema import SPLITS
from mrsr.params.typed import digest, plain
from mrsr.raw.volume import Volume, VolumeRef, along
from mrsr.slices import store
from mrsr.slices.slicing import relative
from mrsr.slices.store import Sliced, StoredVolume

LOOKED_AT = 9  # slices of a volume whose residual shift is measured
HALF = 0.501  # of a voxel, plus a little for rounding


def make(
    raw: Path, settings: Guides, source_settings: Any, slices: Path, out: Path
) -> dict[str, Any]:
    """Write the guides' stores into `out`, all or none; returns the residuals by split.

    Args:
        raw: the folder that the source prepared.
        settings: both contrasts, and the guide's normalisation. source_settings: the source's own.
        slices: folder of the stores to make guides for.

    Raises:
        UserError: a test volume has no second contrast, or one cannot be used.
    """
    source = datasets.source(datasets.module(settings.source, source_settings))
    target, guide = (
        source.list_volumes(raw, source_settings, contrast)
        for contrast in (settings.contrast, settings.guide_contrast)
    )
    pair_of = {relative(ref.path, raw): ref.pair for ref in target}
    guide_of = {ref.pair: ref for ref in guide if ref.pair}
    chosen: dict[str, list[tuple[StoredVolume, VolumeRef]]] = {split: [] for split in SPLITS}
    alone: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for volume in store.read_store(slices / f"{split}.h5"):
            if ref := guide_of.get(pair_of.get(volume.path, "")):
                chosen[split].append((volume, ref))
            else:
                alone[split].append(volume.path)
    if alone["test"] or not all(chosen.values()):
        name = next(path for split in reversed(SPLITS) for path in alone[split])
        raise UserError(
            f"{name} has no {settings.guide_contrast} scan of the same visit; leave it out, or "
            f"take data.datasets.{settings.dataset}.guide away"
        )
    for split in SPLITS:
        lost = [
            (path, f"no {settings.guide_contrast} scan of the same visit") for path in alone[split]
        ]
        account(f"guides of {settings.dataset}, {split}", "volumes", len(chosen[split]), lost)
    residuals = {}
    with ExitStack() as stack:
        stack.enter_context(files.alone(out))
        for split in SPLITS:
            path = stack.enter_context(files.atomic(out / f"{split}.h5"))
            file = stack.enter_context(store.new_store(path))
            guided = slices / f"{split}.h5"
            residuals[split] = _write_split(file, guided, chosen[split], source, settings)
            store.describe(file, without_guide=json.dumps(alone))
    return residuals


def _write_split(
    file: h5py.File,
    path: Path,
    pairs: list[tuple[StoredVolume, VolumeRef]],
    source: Any,
    settings: Any,
) -> dict[str, float]:
    """Write into an open store; returns the residual shift in mm, empty if no slice has edges."""
    file.create_group("volumes")
    shifts, resampled = [], False
    for stored, ref in tqdm(pairs, unit="volume", disable=None, desc="guides"):
        percentile, volume = settings.normalise.percentile, source.read_volume(ref)
        if settings.slice_axis is not None:
            volume = along(volume, settings.slice_axis, ref.path.name)
        guide, moved = onto(volume, stored, percentile, ref.path.name)
        resampled |= moved
        names = {"subject": stored.subject, "visit": stored.visit}
        names["path"] = f"{ref.subject}/{ref.path.name}"
        store.write_volume(file, int(stored.key), guide, **names)
        data = _real(store.normalised(store.read_slices(path, stored), stored))
        image = _real(guide.data).astype(float)
        shifts.append(residual_shift(data, image, stored.voxel_size[1:]))
    described = plain(settings)
    found = [shift for shift in shifts if np.isfinite(shift)]  # blank slices have no edges
    residual = {"median": float(np.median(found)), "largest": max(found)} if found else {}
    store.describe(
        file,
        dataset=settings.dataset,
        guide=settings.guide,
        organ=settings.organ,
        contrast=settings.guide_contrast,
        split=path.stem,
        settings=json.dumps(described, sort_keys=True),
        digest=digest({"guide": described, "of": str(store.attributes(path)["digest"])}),
        resampled=resampled,
        residual_mm=json.dumps(residual),
    )
    return residual


def _real(image: np.ndarray) -> np.ndarray:
    """Complex images as magnitudes; real ones keep their sign."""
    return np.abs(image) if np.iscomplexobj(image) else image


def onto(volume: Volume, stored: StoredVolume, percentile: float, name: str) -> tuple[Sliced, bool]:
    """A volume on the grid of a stored one, and whether it had to be resampled.

    Raises:
        UserError: the two do not overlap, or the guide has no signal there.
    """
    scale = np.percentile(volume.image, percentile)
    if not (np.isfinite(scale) and scale > 0):
        raise UserError(f"{name}: there is hardly any signal to normalise by; leave it out")
    first = np.eye(4)
    first[0, 3] = -stored.slice_index[0]  # from the index in the volume to that in the store
    to_guide = np.linalg.inv(volume.affine) @ stored.affine @ first
    start = _whole_voxels(to_guide, stored, volume.stored.shape)
    if start is not None:
        rows, columns = (slice(a, a + n) for a, n in zip(start[1:], stored.shape[1:], strict=True))
        data = volume.stored[np.array(stored.slice_index) + start[0]][:, rows, columns]
        slope, intercept = volume.slope, volume.intercept
    else:
        data = resample(volume.image, to_guide, stored.slice_index, stored.shape[1:])
        slope, intercept = 1.0, 0.0
    if (data == data.flat[0]).all():
        raise UserError(f"{name} does not overlap {stored.path}; check the positions in its header")
    sliced = Sliced(
        data=np.ascontiguousarray(data),
        scale=float(scale),
        slope=float(slope),
        intercept=float(intercept),
        slice_index=list(stored.slice_index),
        affine=stored.affine,
        voxel_size=stored.voxel_size,
    )
    return sliced, start is None


def _whole_voxels(
    to_guide: np.ndarray, stored: StoredVolume, shape: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """The shift in voxels where two grids differ by one, inside the guide; None otherwise."""
    turned = np.abs(to_guide[:3, :3] - np.eye(3)).max() > 1e-4
    start = to_guide[:3, 3].round().astype(int)
    if turned or np.abs(to_guide[:3, 3] - start).max() > 0.01:
        return None
    first = start + np.array([stored.slice_index[0], 0, 0])
    last = start + np.array([stored.slice_index[-1] + 1, *stored.shape[1:]])
    if (first < 0).any() or (last > shape).any():
        return None
    return tuple(start.tolist())


def resample(
    image: np.ndarray, to_image: np.ndarray, slices: tuple[int, ...], size: tuple[int, int]
) -> np.ndarray:
    """(slices, rows, columns) of an image (s, h, w) at another grid, float32.

    Outside of the image it is zero, or the image's lowest value where that is negative (air).

    to_image: (4, 4), from (slice, row, column, 1) of that grid to voxels of the image. Cubic
    splines, clipped to the image's own range, since they overshoot at edges. The image ends at the
    outer border of its voxels, half a voxel beyond their centres.
    """
    smooth = ndimage.spline_filter(image.astype(np.float32), order=3, output=np.float32)
    rows, columns = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    last = np.array(image.shape)[:, None, None] - 1
    result = np.empty((len(slices), *size), np.float32)
    lowest = min(0.0, float(image.min()))
    for number, index in enumerate(slices):
        grid = np.stack([np.full(rows.shape, index), rows, columns, np.ones(rows.shape)])
        where = np.tensordot(to_image[:3], grid, axes=1)
        inside = ((where > -HALF) & (where < last + HALF)).all(axis=0)
        value = ndimage.map_coordinates(
            smooth, np.clip(where, 0, last), order=3, prefilter=False, mode="mirror"
        )
        result[number] = np.where(inside, value, lowest)
    return np.clip(result, lowest, float(image.max()))


def residual_shift(target: np.ndarray, guide: np.ndarray, voxel_size: tuple[float, ...]) -> float:
    """Millimetres between the edges of two contrasts (s, h, w): median over middle slices.

    Phase correlation of the gradients' magnitudes, to a tenth of a voxel; in the plane only.
    """
    from skimage.registration import phase_cross_correlation

    which = np.unique(np.linspace(0, len(target) - 1, LOOKED_AT + 2)[1:-1].astype(int))
    lengths = []
    for index in which:
        edges = [ndimage.gaussian_gradient_magnitude(x[index], 1.0) for x in (target, guide)]
        if min(edge.max() for edge in edges) == 0:
            continue
        shift, _, _ = phase_cross_correlation(*edges, upsample_factor=10, normalization=None)
        lengths.append(float(np.linalg.norm(shift * np.asarray(voxel_size))))
    return float(np.median(lengths)) if lengths else float("nan")
