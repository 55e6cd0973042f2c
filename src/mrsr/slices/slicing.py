"""Volumes -> slice store: one HDF5 file per split, subjects in one split only (section 4.1).

Threads read, check and pack several volumes at a time: unpacking, numpy and packing all run outside
of the interpreter's lock. One thread writes, in a fixed order, so the same input gives the same
bytes for any number of workers. The three files appear together when
all are complete. `store.py` describes the layout.

By hand: `mrsr slices data/raw/phantom/manifest.csv --settings @settings.json --out
results/demo/slices/phantom_t1`; the settings are `jobs.Slicing`.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from mrsr import datasets
from mrsr.console import say
from mrsr.errors import UserError, one_line
from mrsr.files import alone, atomic, write_json
from mrsr.params.jobs import Slicing
from mrsr.params.typed import digest, plain
from mrsr.raw.nifti import read_nifti
from mrsr.raw.volume import Volume, VolumeRef, along, checked, physical
from mrsr.slices import chunks, splits
from mrsr.slices.store import FORMAT, Sliced, describe, new_store, write_volume

__all__ = ["FORMAT", "Cut", "Sliced", "cut", "new_store", "slice_dataset", "write_volume"]

SKIPPED = "skipped.json"
# a voxel is tissue if it is above this fraction of the volume's normalising intensity
_TISSUE = 0.05


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which slices of a volume are kept, and how its intensities are scaled.

    crop: central (height, width), or None. central: number of central slices, or None.
    most: largest number of slices (tiny runs), or None.
    percentile: of the whole volume, with its sign; the intensity that becomes 1, above zero.
    foreground: slices with a smaller fraction of tissue are left out; 0 keeps all.
    slice_axis: of the file, that slices are stacked along; None: as the source reads them.
    """

    crop: tuple[int, int] | None = None
    central: int | None = None
    most: int | None = None
    percentile: float = 99.9
    foreground: float = 0.0
    slice_axis: int | None = None


def slice_dataset(
    raw: str | Path, settings: Slicing, out: str | Path, source_settings: Any, workers: int = 1
) -> dict[str, Any]:
    """Write train.h5, validation.h5, test.h5 and skipped.json into `out`; return a report.

    raw: the folder that the source prepared. source_settings: its own.

    The report has `dataset`, `splits` (subjects, volumes and slices of each) and `skipped` (path,
    split, subject and reason of each; empty unless `skip_bad`).

    Raises:
        UserError: nothing to slice, an impossible split, or a bad volume without `skip_bad`.
    """
    raw, out = Path(raw), Path(out)
    contrast, organ = settings.contrast, settings.organ
    name = datasets.module(settings.source, source_settings)
    found = datasets.source(name).list_volumes(raw, source_settings, contrast)
    refs = [ref for ref in found if not (organ and ref.organ) or ref.organ == organ]
    if not refs:
        raise UserError(f"no {contrast} volume of the {organ} in {raw}; check contrast and source")
    assigned = splits.assign(refs, settings.split, settings.dataset)
    chosen = splits.first_subjects(assigned, settings.max_volumes)
    why = {ref.path: f"not of the {organ}" for ref in found}
    why |= {ref.path: "its subject is in no split" for ref in refs}
    why |= {ref.path: "beyond max_volumes" for refs in assigned.values() for ref in refs}
    splits.tell(settings.dataset, found, chosen, why)

    skipped: list[dict[str, str]] = []
    guessed: Counter[str] = Counter()
    report: dict[str, Any] = {"dataset": settings.dataset, "splits": {}, "skipped": skipped}
    total = sum(len(of_split) for of_split in chosen.values())
    with ExitStack() as stack:
        stack.enter_context(alone(out))
        pool = None
        if workers > 1:
            pool = ThreadPoolExecutor(workers)
            stack.callback(pool.shutdown, cancel_futures=True)
        bar = stack.enter_context(tqdm(total=total, unit="volume", disable=None, desc="slices"))
        for split, of_split in chosen.items():
            file = stack.enter_context(new_store(stack.enter_context(atomic(out / f"{split}.h5"))))
            _describe(file, settings, split)
            subjects, slices, count = set(), 0, 0
            wanted = _wanted(settings, split)
            for ref, result in _results(name, of_split, wanted, pool, 2 * workers):
                bar.update()
                path = relative(ref.path, raw)
                if isinstance(result, UserError):
                    if not settings.skip_bad:
                        raise UserError(f"{result} (or skip such volumes with --skip-bad)")
                    about = {"path": path, "split": split, "subject": ref.subject}
                    skipped.append(about | {"reason": one_line(str(result))})
                    continue
                write_volume(file, count, result, subject=ref.subject, visit=ref.visit, path=path)
                guessed[result.guessed] += 1
                subjects.add(ref.subject)
                slices += len(result.data)
                count += 1
            if not count:
                raise UserError(
                    f"{settings.dataset}: no usable volume is left in the {split} split; "
                    f"{len(skipped)} were skipped, the last: {skipped[-1]['reason']}"
                )
            made = {"subjects": sorted(subjects), "volumes": count, "slices": slices}
            report["splits"][split] = made
        write_json(out / SKIPPED, skipped)
    for choice, count in sorted(guessed.items()):
        if choice:
            say(
                f"{settings.dataset}: {count} of {total} volumes have nearly isotropic voxels and "
                f"are sliced along {choice}; data.datasets.{settings.dataset}.slice_axis names "
                "another"
            )
    return report


def cut(volume: Volume, wanted: Cut, name: str = "", labels: np.ndarray | None = None) -> Sliced:
    """Check a volume, select its slices and find its scale; the stored values stay as they are.

    labels: of the whole volume, in its shape; cut in the same way.

    Raises:
        UserError: not 3D, no voxels, NaN or infinite values, one value everywhere, nothing above
            zero, smaller than the crop, or fewer slices than wanted.
    """
    stored = checked(volume.stored, name)
    image = checked(np.abs(stored), name) if np.iscomplexobj(stored) else stored
    # a percentile of the stored values, mapped to physical ones; a negative slope turns their order
    if np.iscomplexobj(stored):
        scale = percentile(image, wanted.percentile) * abs(volume.slope)
    else:
        order = wanted.percentile if volume.slope > 0 else 100 - wanted.percentile
        scale = percentile(image, order) * volume.slope + volume.intercept
    if not (np.isfinite(scale) and scale > 0):
        raise UserError(
            f"{name}: the {wanted.percentile:g}th percentile of its intensities is {scale:g}, so "
            f"there is nothing to normalise by; {below_zero(volume)}leave the file out"
        )

    start, count = 0, stored.shape[0]
    if count < (wanted.central or 0):
        raise UserError(
            f"{name} has {count} slices, fewer than central_slices = {wanted.central}; lower "
            "it or leave the file out"
        )
    for most in (wanted.central, wanted.most):
        if most and most < count:
            start, count = start + (count - most) // 2, most
    height, width = wanted.crop or stored.shape[1:]
    if height > stored.shape[1] or width > stored.shape[2]:
        raise UserError(
            f"{name} has slices of {stored.shape[1]}x{stored.shape[2]}, smaller than the crop "
            f"{height}x{width}; lower crop or leave the file out"
        )
    top, left = (stored.shape[1] - height) // 2, (stored.shape[2] - width) // 2

    index = np.arange(start, start + count)
    box = np.s_[start : start + count, top : top + height, left : left + width]
    data = stored[box]
    if wanted.foreground > 0:
        values = physical(image[box], volume.slope, volume.intercept)
        keep = (values > _TISSUE * scale).mean(axis=(1, 2)) >= wanted.foreground
        if not keep.any():
            raise UserError(
                f"{name}: no slice has the foreground fraction {wanted.foreground:g}; lower it"
            )
        data, index = data[keep], index[keep]
    shift = np.eye(4)
    shift[:3, 3] = index[0], top, left
    return Sliced(
        data=np.ascontiguousarray(data),
        scale=scale,
        slope=float(volume.slope),
        intercept=float(volume.intercept),
        slice_index=index.tolist(),
        affine=np.asarray(volume.affine, dtype=np.float64) @ shift,
        voxel_size=volume.voxel_size,
        labels=None if labels is None else np.ascontiguousarray(labels[box][index - start]),
        guessed=volume.attributes.get("guessed", ""),
    )


def percentile(image: np.ndarray, q: float) -> float:
    """`np.percentile(image, q)` to the bit; of 16-bit integers by counting, in half of the time."""
    if image.dtype.kind not in "iu" or image.dtype.itemsize > 2:
        return float(np.percentile(image, q))
    least = int(image.min())
    counts = np.bincount(np.subtract(image, least, dtype=np.intp).ravel())
    # two values in their order, between which numpy interpolates
    at = (image.size - 1) * (q / 100)
    below = min(int(at), image.size - 1)
    ends = np.searchsorted(np.cumsum(counts), [below, min(below + 1, image.size - 1)], "right")
    low, high = (float(end + least) for end in ends)
    part = at - below
    # as numpy does, from the nearer one
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


def below_zero(volume: Volume) -> str:
    """Advice, if no value of a volume is above zero."""
    ends = (
        np.array([volume.stored.min(), volume.stored.max()], float)
        if (volume.stored.dtype.kind in "iuf")
        else np.ones(1)
    )
    if (ends * volume.slope + volume.intercept).max() > 0:
        return ""
    return "none of its values is above zero: add an offset, so that air is 0, or "


def read_labels(ref: VolumeRef, volume: Volume) -> np.ndarray | None:
    """Labels (slices, height, width) uint8 on the grid of a volume; None where it has none.

    Raises:
        UserError: the file is broken, is on another grid, or has other values than 0 to 255.
    """
    if ref.labels is None:
        return None
    name = f"labels {ref.labels.name} of {ref.path.name}"
    axes = volume.attributes.get("axes", "")  # which axis of the file became the slices
    found = read_nifti(ref.labels, slice_axis=int(axes[0]) if axes else None)
    if found.stored.shape != volume.stored.shape or not np.allclose(
        found.affine, volume.affine, atol=0.01
    ):
        raise UserError(f"{name} are on another grid; resample them to the volume's")
    values = found.image
    with np.errstate(invalid="ignore"):  # negative ones differ afterwards
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise UserError(f"{name} are not whole numbers from 0 to 255; save them as such")
    return labels


def _read(source: str, ref: VolumeRef, wanted: Cut) -> Sliced | UserError:
    """In a worker: one volume, checked and cut, or the reason why it cannot be used."""
    try:
        volume = datasets.source(source).read_volume(ref)
        if wanted.slice_axis is not None:
            volume = along(volume, wanted.slice_axis, ref.path.name)
        found = cut(volume, wanted, ref.path.name, read_labels(ref, volume))
        return replace(found, packed=chunks.packed(found.data))
    except UserError as error:
        return error
    except (OSError, EOFError, zlib.error) as error:
        return UserError(
            f"cannot read {ref.path.name} ({one_line(str(error))}); copy or download it again"
        )


def _results(
    source: str, refs: list[VolumeRef], wanted: Cut, pool: ThreadPoolExecutor | None, ahead: int
) -> Iterator[tuple[VolumeRef, Sliced | UserError]]:
    """Volumes in their order; a limited number wait in memory."""
    if pool is None:
        yield from ((ref, _read(source, ref, wanted)) for ref in refs)
        return
    todo = iter(refs)
    waiting: deque[tuple[VolumeRef, Future[Sliced | UserError]]] = deque()
    while True:
        for new in islice(todo, ahead - len(waiting)):
            waiting.append((new, pool.submit(_read, source, new, wanted)))
        if not waiting:
            return
        ref, future = waiting.popleft()
        yield ref, future.result()


def _wanted(settings: Slicing, split: str) -> Cut:
    return Cut(
        crop=settings.crop,
        central=settings.central_slices,
        most=settings.max_slices,
        percentile=settings.normalise.percentile,
        slice_axis=settings.slice_axis,
        # the choice of training slices must not change what is measured
        foreground=settings.foreground if split == "train" else 0.0,
    )


def _describe(file: h5py.File, settings: Slicing, split: str) -> None:
    value = plain(settings)
    if isinstance(value.get("split"), dict) and value["split"].get("path"):
        value["split"]["path"] = Path(value["split"]["path"]).name  # no folder of this computer
    describe(
        file,
        dataset=settings.dataset,
        organ=settings.organ,
        contrast=settings.contrast,
        split=split,
        settings=json.dumps(value, sort_keys=True),
        digest=digest(value),
    )
    file.create_group("volumes")


def relative(path: Path, raw: Path) -> str:
    """The path inside the raw folder, or the file's name alone: never a folder of this computer."""
    try:
        return path.resolve().relative_to(raw.resolve()).as_posix()
    except ValueError:
        return path.name
