"""The slice store: one HDF5 file per dataset and split, every volume lossless in its own type.

Layout:

    /                     attributes format, dataset, organ, contrast, split, settings, digest
    /volumes/0000         attributes subject, visit, path, slope, intercept, scale, slice_index,
                          affine, voxel_size
    /volumes/0000/data    (slices, height, width), one chunk per slice
    /volumes/0000/labels  the same shape, uint8, where the dataset has labels

A normalised image is (data * slope + intercept) / scale: `scale` is the physical intensity that
becomes 1, and zero stays zero. Nothing is clipped: real volumes keep their negative values.
`affine` maps (slice_index - slice_index[0], row, column, 1) to RAS+ millimetres; `slice_index`
counts in the volume before slices were selected.

Everything has checksums: a flipped bit is refused when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrsr.errors import UserError
from mrsr.files import reserve
from mrsr.raw.volume import physical
from mrsr.slices import chunks

FORMAT = 1
_OVERHEAD = 1 << 16  # bytes that HDF5 may need besides the arrays
_NUMBERS = ("slope", "intercept", "scale", "slice_index", "affine", "voxel_size")
Which = Sequence[int] | np.ndarray | None  # positions of slices; None: all
_DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OSError,
    RuntimeError,
)  # h5py's, by what is hit


@dataclass(frozen=True, kw_only=True)
class Sliced:
    """A checked volume, ready for the store."""

    data: np.ndarray
    scale: float
    slope: float
    intercept: float
    slice_index: list[int]
    affine: np.ndarray
    voxel_size: tuple[float, float, float]
    labels: np.ndarray | None = None  # uint8, of the same shape as `data`
    guessed: str = ""  # the slice axis, if it was a guess; not stored
    packed: list[bytes] | None = None  # `data` by `chunks.packed`, if a thread has done so


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredVolume:
    """The record of a volume; `read_slices` reads its data, `read_labels` its labels.

    shape: (slices, height, width). affine: (4, 4) float64. voxel_size: mm along the three axes.
    """

    key: str
    subject: str
    visit: str
    path: str
    slope: float
    intercept: float
    scale: float
    slice_index: tuple[int, ...]
    affine: np.ndarray
    voxel_size: tuple[float, float, float]
    shape: tuple[int, int, int]
    dtype: np.dtype
    has_labels: bool = False


@contextmanager
def new_store(path: Path) -> Iterator[h5py.File]:
    """An empty HDF5 file, open for writing; its structures carry checksums (HDF5 1.10 reads it).

    Raises:
        OSError: no space for it.
    """
    reserve(path, 0, _OVERHEAD)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        reserve(path, 0, _OVERHEAD)  # opening has truncated it
        yield file
        file.flush()
        size = file.id.get_filesize()
    os.truncate(path, size)  # without reserved space that was not needed


def describe(file: h5py.File, **about: str | bool) -> None:
    """Set the attributes of an open store, its format among them."""
    file.attrs["format"] = FORMAT
    for key, value in about.items():
        file.attrs[key] = fixed(value) if isinstance(value, str) else value


def write_volume(
    file: h5py.File, number: int, sliced: Sliced, *, subject: str, visit: str, path: str
) -> None:
    """Put a volume into an open store as volume `number`; `path` is relative to the raw data.

    Raises:
        OSError: no space for it; the store is unchanged.
    """
    arrays = {"data": sliced.data, "labels": sliced.labels}
    most = sum(values.nbytes for values in arrays.values() if values is not None)
    file.flush()
    reserve(file.filename, file.id.get_filesize(), most + _OVERHEAD + 256 * len(sliced.data))
    group = file["volumes"].create_group(f"{number:04d}")
    ready = {"data": sliced.packed}
    for name, values in arrays.items():
        if values is not None:
            dataset = group.create_dataset(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(1, *values.shape[1:]),
                track_times=False,
                **chunks.FILTERS,
            )
            for position, chunk in enumerate(ready.get(name) or chunks.packed(values)):
                dataset.id.write_direct_chunk((position, 0, 0), chunk)
    for key, text in {"subject": subject, "visit": visit, "path": path}.items():
        group.attrs[key] = fixed(text)
    for key in _NUMBERS:
        group.attrs[key] = getattr(sliced, key)


def open_store(path: str | Path) -> h5py.File:
    """The open file, checked to be a slice store of this format.

    Raises:
        UserError: missing, unreadable, truncated, not a slice store, or one of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no slice store {path}; make it with 'mrsr slices' or snakemake slices")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise UserError(f"{path} is not a readable HDF5 file; delete it and slice again") from None
    try:
        version, whole = file.attrs.get("format"), "volumes" in file
    except (OSError, KeyError, RuntimeError):
        version, whole = "damage", False
    if not whole or version != FORMAT:
        file.close()
        raise UserError(
            f"{path} is not a slice store of format {FORMAT} (found {version}); slice again"
        )
    return file


def attributes(path: str | Path) -> dict[str, Any]:
    """The store's own attributes: dataset, organ, contrast, split, settings (JSON), digest."""
    with open_store(path) as file:
        try:
            return {key: _plain(value) for key, value in file.attrs.items()}
        except _DAMAGE as error:
            raise UserError(f"{path} is damaged ({error}); delete it and slice again") from None


def fixed(text: str) -> np.ndarray:
    """Store a string as a fixed-length attribute, which HDF5's checksums cover.

    Strings of any length, h5py's default, lie in a heap that has none.
    """
    data = text.encode()
    return np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value.decode() if isinstance(value, bytes) else value


def read_store(path: str | Path) -> list[StoredVolume]:
    """All volumes of a store in its order, without their data.

    Raises:
        UserError: the file is not a complete slice store, or has no volume.
    """
    with open_store(path) as file:
        try:
            volumes = [_volume(key, file["volumes"][key]) for key in sorted(file["volumes"])]
        except _DAMAGE as error:
            raise UserError(f"{path} is damaged ({error}); delete it and slice again") from None
    if not volumes:
        raise UserError(f"{path} has no volume; check the dataset's split and slice again")
    return volumes


def _volume(key: str, group: h5py.Group) -> StoredVolume:
    data, attrs = group["data"], group.attrs
    scale = float(attrs["scale"])
    index = tuple(int(i) for i in attrs["slice_index"])
    z, y, x = (float(size) for size in attrs["voxel_size"])
    if data.ndim != 3 or len(index) != len(data) or not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"volume {key}")
    has_labels = "labels" in group
    if has_labels and group["labels"].shape != data.shape:
        raise ValueError(f"labels of volume {key}")
    return StoredVolume(
        key=key,
        **{name: str(_plain(attrs[name])) for name in ("subject", "visit", "path")},
        slope=float(attrs["slope"]),
        intercept=float(attrs["intercept"]),
        scale=scale,
        slice_index=index,
        affine=np.asarray(attrs["affine"], dtype=np.float64),
        voxel_size=(z, y, x),
        shape=tuple(data.shape),
        dtype=data.dtype,
        has_labels=has_labels,
    )


def read_slices(
    source: str | Path | h5py.File, volume: StoredVolume, which: Which = None
) -> np.ndarray:
    """(n, height, width) in the stored type: all slices, or those at increasing positions `which`.

    source: the path, or the file that `open_store` opened, for many small reads.
    """
    return _read(source, volume, "data", which)


def read_labels(
    source: str | Path | h5py.File, volume: StoredVolume, which: Which = None
) -> np.ndarray:
    """(n, height, width) uint8 labels, 0 the background; arguments as in `read_slices`.

    Raises:
        UserError: the volume has none.
    """
    if not volume.has_labels:
        raise UserError(f"{volume.path} has no labels in its store; slice a labelled dataset")
    return _read(source, volume, "labels", which)


def _read(
    source: str | Path | h5py.File, volume: StoredVolume, name: str, which: Which
) -> np.ndarray:
    if not isinstance(source, h5py.File):
        with open_store(source) as file:
            return _read(file, volume, name, which)
    try:
        data = source["volumes"][volume.key][name]
        if which is None:
            return data[:]
        # one chunk is one slice: single reads are faster than h5py's fancy indexing
        return np.stack([data[int(i)] for i in which])
    except _DAMAGE:
        raise UserError(
            f"{source.filename} is damaged at volume {volume.key}; delete it and slice again"
        ) from None


def normalised(stored: np.ndarray, volume: StoredVolume) -> np.ndarray:
    """Stored values -> float32 (complex64 for complex volumes), so that `volume.scale` becomes 1.

    Take the magnitude of complex values after degradation, never before.
    """
    if np.iscomplexobj(stored):
        return stored.astype(np.complex64) * np.float32(volume.slope / volume.scale)
    return physical(stored, volume.slope, volume.intercept) / np.float32(volume.scale)
