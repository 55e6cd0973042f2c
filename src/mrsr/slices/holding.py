"""LR and HR images of a slice store, kept in memory if they fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from mrsr import resampling
from mrsr.errors import UserError
from mrsr.slices import store
from mrsr.slices.memory import memory_available
from mrsr.slices.store import StoredVolume

MIXED = "mixed"  # slices of a volume are degraded in each way of `resampling.KINDS` in turn


@dataclass(kw_only=True, eq=False)
class Slices:
    """All slices of a store, in its order. Made by `load`.

    hr, lr: (count, height, width) canvases with each slice at the top left; None when
    streaming. second: the guides (canvases of HR size) or clean LR images, where `role` says
    "guide" or "clean". sizes: (count, 2) the unpadded HR heights and widths. volume, position:
    (count,) which volume a slice is of, and where in it.
    """

    path: Path
    volumes: list[StoredVolume]
    scale: int
    degradation: str
    device: torch.device
    place: str
    dtype: torch.dtype
    canvas: tuple[int, int]
    sizes: np.ndarray
    volume: np.ndarray
    position: np.ndarray
    hr: Tensor | None = None
    lr: Tensor | None = None
    second: Tensor | None = None
    role: str = ""
    guide: Path | None = None
    acceleration: int = 1
    _file: h5py.File | None = field(default=None, repr=False)
    _guide_file: h5py.File | None = field(default=None, repr=False)
    _guides: dict[str, StoredVolume] = field(default_factory=dict, repr=False)
    _usable: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _orders: dict[tuple[int, int, int], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int:
        """Number of slices."""
        return len(self.sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Consecutive slices of one volume, as `whole` yields them.

    size: unpadded (H, W) of HR. positions: of the slices in the stored volume.
    """

    volume: StoredVolume
    size: tuple[int, int]
    positions: list[int]


def _canvas(volumes: list[StoredVolume], scale: int) -> tuple[int, int]:
    height = max(volume.shape[1] for volume in volumes)
    width = max(volume.shape[2] for volume in volumes)
    return height + -height % scale, width + -width % scale


def memory_needed(path: str | Path, scale: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of all HR and LR slices of a store in memory."""
    volumes = store.read_store(path)
    height, width = _canvas(volumes, scale)
    pixels = height * width + (height // scale) * (width // scale)
    return sum(volume.shape[0] for volume in volumes) * pixels * dtype.itemsize


def _place(needed: int, device: torch.device) -> str:
    # half is for the network, its activations and the optimizer
    if needed < 0.5 * memory_available(device):
        return "device"
    if device.type != "cpu" and needed < 0.5 * memory_available(torch.device("cpu")):
        return "host"
    return "stream"


def load(
    path: str | Path,
    *,
    scale: int,
    degradation: str,
    device: str | torch.device,
    place: str = "auto",
    dtype: torch.dtype = torch.float32,
    guide: Path | None = None,
    acceleration: int = 1,
) -> Slices:
    """Open a store and, unless it streams, degrade every whole slice of it once.

    HR slices are padded at the bottom and right, by their edge, to a multiple of `scale`.
    guide: the store of the second contrast, with the same slices as `path`; volumes without a guide
    are left out.
    acceleration: factor of the LR images' undersampling in k-space (`resampling.undersample`).

    Raises:
        UserError: not a slice store, an unknown scale or degradation, a guide of other slices.
    """
    if guide and acceleration > 1:
        raise UserError("a guided method takes no undersampled input; leave acceleration at 1")
    resampling.check(scale, resampling.KINDS[0] if degradation == MIXED else degradation)
    volumes = store.read_store(path)
    device = torch.device(device)
    role = "guide" if guide else "clean" if acceleration > 1 else ""
    others: dict[str, StoredVolume] = {}
    if guide:
        others = {volume.key: volume for volume in store.read_store(guide)}
        volumes = _guided(Path(path), volumes, guide, others)
    if place == "auto":
        share = 2 if guide else 1
        place = _place(share * memory_needed(path, scale, dtype), device)
    lengths = [volume.shape[0] for volume in volumes]
    slices = Slices(
        path=Path(path),
        volumes=volumes,
        scale=scale,
        degradation=degradation,
        device=device,
        place=place,
        dtype=dtype,
        canvas=_canvas(volumes, scale),
        sizes=np.repeat([volume.shape[1:] for volume in volumes], lengths, axis=0),
        volume=np.repeat(np.arange(len(volumes)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        role=role,
        guide=guide,
        acceleration=acceleration,
        _guides=others,
    )
    if place != "stream":
        holder = device if place == "device" else torch.device("cpu")
        canvases = _empty(slices, slices.count, holder)
        slices.hr, slices.lr, slices.second = (*canvases, None)[:3]
        start = 0
        with store.open_store(path) as file:
            for volume in volumes:
                count = volume.shape[0]
                for canvas, image in zip(canvases, _images(slices, file, volume), strict=True):
                    canvas[start : start + count, : image.shape[1], : image.shape[2]] = image
                start += count
    return slices


def _guided(
    path: Path, volumes: list[StoredVolume], guide: Path, others: dict[str, StoredVolume]
) -> list[StoredVolume]:
    """The volumes that have a guide, which must have the same slices."""
    known = {volume.key: volume for volume in volumes}
    for key, two in others.items():
        one = known.get(key)
        same = one is not None and all(
            getattr(one, name) == getattr(two, name)
            for name in ("subject", "visit", "shape", "slice_index")
        )
        if one is None or not same or not np.allclose(one.affine, two.affine, atol=1e-3):
            raise UserError(f"{guide} does not hold the slices of {path}; make it again")
    return [volume for volume in volumes if volume.key in others]


def _empty(slices: Slices, count: int, device: torch.device) -> list[Tensor]:
    """Canvases of HR, LR and, if there is one, the second image."""
    height, width = slices.canvas
    s = slices.scale
    fine, coarse = (height, width), (height // s, width // s)
    sizes = [fine, coarse, *({"guide": [fine], "clean": [coarse]}.get(slices.role, []))]
    return [torch.zeros(count, *size, dtype=slices.dtype, device=device) for size in sizes]


def _images(
    slices: Slices, file: h5py.File, volume: StoredVolume, which: np.ndarray | None = None
) -> list[Tensor]:
    """HR (n, H, W), LR (n, H/s, W/s) and the second image of a volume's slices, on the device."""
    hr, lr = _pair(slices, volume, store.read_slices(file, volume, which), which)
    if slices.role == "clean":
        less = torch.stack([resampling.undersample(one, slices.acceleration) for one in lr])
        return [hr, less, lr]
    if slices.guide is None:
        return [hr, lr]
    if slices._guide_file is None:
        slices._guide_file = store.open_store(slices.guide)
    other = slices._guides[volume.key]
    guide = store.normalised(store.read_slices(slices._guide_file, other, which), other)
    image, _ = resampling.pad_to(torch.from_numpy(guide).to(slices.device), slices.scale)
    image = image.abs() if image.is_complex() else image
    return [hr, lr, image.to(slices.dtype)]


def _pair(
    slices: Slices, volume: StoredVolume, stored: np.ndarray, which: np.ndarray | None
) -> tuple[Tensor, Tensor]:
    """Stored slices (n, h, w) -> HR (n, H, W) and LR (n, H/s, W/s) magnitudes on the device.

    which: their positions in the volume; None: all of them.
    """
    image = torch.from_numpy(store.normalised(stored, volume)).to(slices.device)
    image, _ = resampling.pad_to(image, slices.scale)
    # one slice at a time: a matrix product over many may round differently with their number, and
    # then streaming would not give the bits that the resident slices give
    ways = resampling.KINDS if slices.degradation == MIXED else (slices.degradation,)
    positions = range(len(image)) if which is None else which
    lr = torch.stack(
        [
            resampling.degrade(one.clone(), slices.scale, ways[position % len(ways)])
            for one, position in zip(image, positions, strict=True)
        ]
    )
    hr = image.abs() if image.is_complex() else image
    return hr.to(slices.dtype), lr.to(slices.dtype)


def _fetch(slices: Slices, index: np.ndarray) -> tuple[list[Tensor], np.ndarray]:
    """HR, LR and second canvases with the slices `index`, and their positions in them."""
    if slices.hr is not None and slices.lr is not None:
        second = [] if slices.second is None else [slices.second]
        return [slices.hr, slices.lr, *second], index
    if slices._file is None:
        slices._file = store.open_store(slices.path)
    wanted, inverse = np.unique(index, return_inverse=True)
    canvases = _empty(slices, len(wanted), slices.device)
    for number in np.unique(slices.volume[wanted]):
        volume = slices.volumes[number]
        rows = np.flatnonzero(slices.volume[wanted] == number)
        images = _images(slices, slices._file, volume, slices.position[wanted[rows]])
        for canvas, image in zip(canvases, images, strict=True):
            canvas[rows, : image.shape[1], : image.shape[2]] = image
    return canvases, inverse
