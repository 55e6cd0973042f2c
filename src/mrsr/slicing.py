"""Volumes -> slice store: one HDF5 file per split, subjects in one split only (section 4.1).

Several volumes are read and checked at a time in processes of their own; one process writes, in a
fixed order, so the same input gives the same bytes whatever the number of workers. The three files
appear together when all of them are whole. The layout is described in `store.py`.

By hand: `mrsr slices data/raw/phantom/manifest.csv --settings @settings.json --out
results/demo/slices/phantom_t1` with the settings that `slice_dataset` lists.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from mrsr import datasets, splits
from mrsr.datasets.nifti import read_nifti
from mrsr.datasets.volume import Volume, VolumeRef
from mrsr.errors import UserError, one_line
from mrsr.files import alone, atomic, reserve, write_json
from mrsr.settings import digest, plain
from mrsr.store import FORMAT, fixed, read_slices, read_store

__all__ = ["Cut", "Sliced", "cut", "read_slices", "read_store", "slice_dataset"]

SKIPPED = "skipped.json"
# what counts as tissue: a voxel above this part of the volume's normalising intensity
_TISSUE = 0.05
_OVERHEAD = 1 << 16  # bytes that HDF5 may need beside the arrays


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which slices of a volume are kept, and how its intensities are scaled.

    crop: central (height, width), or None. central: that many central slices, or None.
    most: no more than so many central slices (tiny runs), or None.
    percentile: the one of the whole volume that becomes 1.
    foreground: slices with a smaller fraction of tissue are left out; 0 keeps all.
    """

    crop: tuple[int, int] | None = None
    central: int | None = None
    most: int | None = None
    percentile: float = 99.9
    foreground: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sliced:
    """A checked volume as it goes into the store; see `store.py` for the fields."""

    data: np.ndarray
    scale: float
    slope: float
    intercept: float
    slice_index: list[int]
    affine: np.ndarray
    voxel_size: tuple[float, float, float]
    labels: np.ndarray | None = None  # uint8, of the same shape as `data`


def slice_dataset(
    raw: str | Path, settings: Any, out: str | Path, source_settings: Any, workers: int = 1
) -> dict[str, Any]:
    """Write train.h5, validation.h5, test.h5 and skipped.json into `out`; return a report.

    raw: the folder that the source prepared. settings: `dataset source contrast organ crop
    central_slices normalise split skip_bad max_slices max_volumes foreground`.

    The report has `dataset`, `splits` (subjects, volumes and slices of each) and `skipped` (path,
    split, subject and reason of each; empty unless `skip_bad`).

    Raises:
        UserError: nothing to slice, a split that cannot be made, a bad volume without `skip_bad`.
    """
    raw, out = Path(raw), Path(out)
    contrast, organ = settings.contrast, settings.organ
    refs = datasets.source(settings.source).list_volumes(raw, source_settings, contrast)
    refs = [ref for ref in refs if not (organ and ref.organ) or ref.organ == organ]
    if not refs:
        raise UserError(f"no {contrast} volume of the {organ} in {raw}; check contrast and source")
    chosen = splits.assign(refs, settings.split, settings.dataset)
    chosen = splits.first_subjects(chosen, getattr(settings, "max_volumes", None))

    skipped: list[dict[str, str]] = []
    report: dict[str, Any] = {"dataset": settings.dataset, "splits": {}, "skipped": skipped}
    total = sum(len(of_split) for of_split in chosen.values())
    with ExitStack() as stack:
        stack.enter_context(alone(out))
        submit, lookahead = _workers(stack, workers)
        bar = stack.enter_context(tqdm(total=total, unit="volume", disable=None, desc="slices"))
        for split, of_split in chosen.items():
            results = _results(of_split, settings, split, submit, lookahead)
            file = stack.enter_context(new_store(stack.enter_context(atomic(out / f"{split}.h5"))))
            _describe(file, settings, split)
            subjects, slices, count = set(), 0, 0
            for ref, result in results:
                bar.update()
                if isinstance(result, UserError):
                    if not getattr(settings, "skip_bad", False):
                        raise UserError(f"{result} (or skip such volumes with --skip-bad)")
                    skipped.append(
                        {
                            "path": relative(ref.path, raw),
                            "split": split,
                            "subject": ref.subject,
                            "reason": one_line(str(result)),
                        }
                    )
                    continue
                write_volume(
                    file,
                    count,
                    result,
                    subject=ref.subject,
                    visit=ref.visit,
                    path=relative(ref.path, raw),
                )
                subjects.add(ref.subject)
                slices += len(result.data)
                count += 1
            if not count:
                raise UserError(
                    f"{settings.dataset}: no usable volume is left in the {split} split; "
                    f"{len(skipped)} were skipped, the last: {skipped[-1]['reason']}"
                )
            report["splits"][split] = {
                "subjects": sorted(subjects),
                "volumes": count,
                "slices": slices,
            }
        write_json(out / SKIPPED, skipped)
    return report


def cut(volume: Volume, wanted: Cut, name: str = "", labels: np.ndarray | None = None) -> Sliced:
    """Check a volume, select its slices and find its scale; the stored values stay as they are.

    labels: of the whole volume, in its shape; cut in the same way.

    Raises:
        UserError: not 3D, no voxels, NaN or infinite values, one value everywhere, nothing above
            zero, smaller than the crop, or fewer slices than wanted.
    """
    stored = _storable(volume.stored, name)
    image = np.abs(stored) if np.iscomplexobj(stored) else stored
    if image.min() == image.max():
        raise UserError(f"{name} is empty: every voxel is {image.flat[0]:g}; leave the file out")
    # a percentile of the stored values, mapped to physical ones; a negative slope turns their order
    if np.iscomplexobj(stored):
        scale = float(np.percentile(image, wanted.percentile)) * abs(volume.slope)
    else:
        percentile = wanted.percentile if volume.slope > 0 else 100 - wanted.percentile
        scale = float(np.percentile(image, percentile)) * volume.slope + volume.intercept
    if not (np.isfinite(scale) and scale > 0):
        raise UserError(
            f"{name}: the {wanted.percentile:g}th percentile of its intensities is {scale:g}, so "
            "there is nothing to normalise by; leave the file out"
        )

    start, count = 0, stored.shape[0]
    if wanted.central:
        if count < wanted.central:
            raise UserError(
                f"{name} has {count} slices, fewer than central_slices = {wanted.central}; lower "
                "it or leave the file out"
            )
        start, count = (count - wanted.central) // 2, wanted.central
    if wanted.most and wanted.most < count:
        start, count = start + (count - wanted.most) // 2, wanted.most
    height, width = wanted.crop or stored.shape[1:]
    if height > stored.shape[1] or width > stored.shape[2]:
        raise UserError(
            f"{name} has slices of {stored.shape[1]}x{stored.shape[2]}, smaller than the crop "
            f"{height}x{width}; lower crop or leave the file out"
        )
    top, left = (stored.shape[1] - height) // 2, (stored.shape[2] - width) // 2

    index = np.arange(start, start + count)
    box = np.s_[start : start + count, top : top + height, left : left + width]
    data, labels = stored[box], None if labels is None else labels[box]
    if wanted.foreground > 0:
        physical = np.abs(data) if np.iscomplexobj(data) else data
        physical = physical.astype(np.float32) * volume.slope + volume.intercept
        keep = (physical > _TISSUE * scale).mean(axis=(1, 2)) >= wanted.foreground
        if not keep.any():
            raise UserError(
                f"{name}: no slice has the foreground fraction {wanted.foreground:g}; lower it"
            )
        data, index = data[keep], index[keep]
        labels = None if labels is None else labels[keep]
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
        labels=None if labels is None else np.ascontiguousarray(labels),
    )


def read_labels(ref: VolumeRef, volume: Volume) -> np.ndarray | None:
    """Labels (slices, height, width) uint8 on the grid of a volume; None where it has none.

    Raises:
        UserError: the file is broken, lies on another grid, or holds anything but 0 to 255.
    """
    if ref.labels is None:
        return None
    name = f"labels {ref.labels.name} of {ref.path.name}"
    axes = volume.attributes.get("axes", "")  # which axis of the file became the slices
    found = read_nifti(
        ref.labels,
        subject=ref.subject,
        contrast="labels",
        organ=ref.organ,
        slice_axis=int(axes[0]) if axes else None,
    )
    if found.stored.shape != volume.stored.shape or not np.allclose(
        found.affine, volume.affine, atol=0.01
    ):
        raise UserError(f"{name} lie on another grid; resample them to the volume's")
    values = found.image
    with np.errstate(invalid="ignore"):  # negative ones differ afterwards
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise UserError(f"{name} are not whole numbers from 0 to 255; save them as such")
    return labels


def _storable(stored: np.ndarray, name: str) -> np.ndarray:
    """The array in native byte order: integers as they are, else float32 or complex64."""
    if stored.ndim != 3:
        raise UserError(
            f"{name} is {stored.ndim}D, a 3D volume is needed; save one as its own file"
        )
    if stored.size == 0:
        raise UserError(f"{name} has no voxels; leave the file out")
    kind = stored.dtype.kind
    if kind == "b":
        return stored.astype(np.uint8)
    if kind in "iu":
        return stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if kind not in "fc":
        raise UserError(f"{name} holds {stored.dtype} values; numbers are needed")
    with np.errstate(over="ignore"):
        stored = stored.astype(np.complex64 if kind == "c" else np.float32, copy=False)
    bad = stored.size - int(np.isfinite(stored).sum())
    if bad:
        raise UserError(
            f"{name}: {bad} of {stored.size} voxels are NaN or infinite; replace them or leave "
            "the file out"
        )
    return stored


def _read(source: str, ref: VolumeRef, wanted: Cut) -> Sliced | UserError:
    """In a worker: one volume, checked and cut, or why not."""
    try:
        volume = datasets.source(source).read_volume(ref)
        return cut(volume, wanted, ref.path.name, read_labels(ref, volume))
    except UserError as error:
        return error
    except (OSError, EOFError, zlib.error) as error:
        return UserError(
            f"cannot read {ref.path.name} ({one_line(str(error))}); copy or download it again"
        )


def _workers(stack: ExitStack, workers: int) -> tuple[Callable[..., Callable[[], Any]], int]:
    """`submit(function, *arguments)` that returns a function giving the result, and how many
    volumes may be under way at once (they wait in memory)."""
    if workers <= 1:
        return lambda function, *arguments: lambda: function(*arguments), 1
    # fork would copy the threads' locks of whatever the caller has imported
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    stack.callback(pool.shutdown, cancel_futures=True)
    return lambda function, *arguments: pool.submit(function, *arguments).result, 2 * workers


def _results(
    refs: list[VolumeRef],
    settings: Any,
    split: str,
    submit: Callable[..., Callable[[], Any]],
    lookahead: int,
) -> Iterator[tuple[VolumeRef, Sliced | UserError]]:
    """Volumes in their order, read a few ahead."""
    wanted = _wanted(settings, split)
    waiting: deque[tuple[VolumeRef, Callable[[], Any]]] = deque()
    name = ""
    try:
        for ref in [*refs, *[None] * lookahead]:
            if ref is not None:
                name = ref.path.name
                waiting.append((ref, submit(_read, settings.source, ref, wanted)))
            if waiting and (ref is None or len(waiting) >= lookahead):
                oldest, result = waiting.popleft()
                name = oldest.path.name
                yield oldest, result()
    except BrokenProcessPool:
        raise UserError(
            f"a worker died near {name}, perhaps for lack of memory; run again with fewer workers"
        ) from None


def _wanted(settings: Any, split: str) -> Cut:
    normalise = settings.normalise
    if normalise.level != "volume":
        raise UserError(f"normalise.level '{normalise.level}' is unknown; use 'volume'")
    crop = getattr(settings, "crop", None)
    return Cut(
        crop=(int(crop[0]), int(crop[1])) if crop else None,
        central=getattr(settings, "central_slices", None),
        most=getattr(settings, "max_slices", None),
        percentile=normalise.percentile,
        # what is measured must not depend on what is easy to learn from
        foreground=getattr(settings, "foreground", 0.0) if split == "train" else 0.0,
    )


def _describe(file: h5py.File, settings: Any, split: str) -> None:
    value = settings.model_dump() if hasattr(settings, "model_dump") else plain(settings)
    value = json.loads(json.dumps(value, default=str))
    if isinstance(value.get("split"), dict) and value["split"].get("path"):
        value["split"]["path"] = Path(value["split"]["path"]).name  # no folder of this computer
    file.attrs["format"] = FORMAT
    file.attrs["dataset"] = fixed(settings.dataset)
    file.attrs["organ"] = fixed(settings.organ)
    file.attrs["contrast"] = fixed(settings.contrast)
    file.attrs["split"] = fixed(split)
    file.attrs["settings"] = fixed(json.dumps(value, sort_keys=True))
    file.attrs["digest"] = fixed(digest(value))
    file.create_group("volumes")


@contextmanager
def new_store(path: Path) -> Iterator[h5py.File]:
    """An empty HDF5 file, open for writing; its structures carry checksums (HDF5 1.10 reads it).

    Raises:
        OSError: no space for it.
    """
    reserve(path, 0, _OVERHEAD)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        reserve(path, 0, _OVERHEAD)  # opening has cut it off
        yield file
        file.flush()
        size = file.id.get_filesize()
    os.truncate(path, size)  # without what was reserved and not needed


def write_volume(
    file: h5py.File, number: int, sliced: Sliced, *, subject: str, visit: str, path: str
) -> None:
    """Put a volume into an open store as volume `number`; `path` is relative to the raw data.

    Raises:
        OSError: no space for it; the store is as it was.
    """
    arrays = {"data": sliced.data, "labels": sliced.labels}
    most = sum(values.nbytes for values in arrays.values() if values is not None)
    file.flush()
    reserve(file.filename, file.id.get_filesize(), most + _OVERHEAD + 256 * len(sliced.data))
    group = file["volumes"].create_group(f"{number:04d}")
    for name, values in arrays.items():
        if values is not None:
            group.create_dataset(
                name,
                data=values,
                chunks=(1, *values.shape[1:]),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
                fletcher32=True,  # zlib has a checksum, but noise is stored without zlib
                track_times=False,
            )
    group.attrs["subject"] = fixed(subject)
    group.attrs["visit"] = fixed(visit)
    group.attrs["path"] = fixed(path)
    group.attrs["slope"] = sliced.slope
    group.attrs["intercept"] = sliced.intercept
    group.attrs["scale"] = sliced.scale
    group.attrs["slice_index"] = sliced.slice_index
    group.attrs["affine"] = sliced.affine
    group.attrs["voxel_size"] = sliced.voxel_size


def relative(path: Path, raw: Path) -> str:
    """The path inside the raw folder, or the file's name alone: never a folder of this computer."""
    try:
        return path.resolve().relative_to(raw.resolve()).as_posix()
    except ValueError:
        return path.name
