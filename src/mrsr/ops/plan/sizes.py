"""Sizes of sources and datasets, also before anything was downloaded or sliced."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from mrsr.errors import UserError
from mrsr.params.experiment import Resolved
from mrsr.params.schema import SPLITS
from mrsr.params.typed import digest


def _read(name: str) -> dict[str, dict[str, float]]:
    """The numbers of a table beside this file, by the name in its first column."""
    with open(Path(__file__).with_name(name), encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    return {row[0]: dict(zip(head[1:-1], map(float, row[1:-1]), strict=True)) for row in rows}


# sizes at the sources' default settings, each with its origin: pixel_bytes of a store; bytes under
# data/raw at most, archives included, and bytes_per_second of a thread
NOMINAL, RAW = _read("datasets.csv"), _read("sources.csv")


@dataclass(frozen=True)
class Geometry:
    """Volumes of a dataset by split, the slices (n, height, width) of each, bytes of a pixel."""

    volumes: dict[str, int]
    slices: int
    height: int
    width: int
    pixel_bytes: float

    def count(self, *splits: str) -> int:
        """Slices of these splits together; of all without any."""
        return self.slices * sum(self.volumes[split] for split in splits or SPLITS)

    def megapixels(self, *splits: str) -> float:
        """Of these slices."""
        return self.count(*splits) * self.height * self.width / 1e6


@functools.cache
def geometry(resolved: Resolved, dataset: str, results: Path = Path("results")) -> Geometry | None:
    """The size of a dataset; None if only slicing can tell (your own scans)."""
    wanted = digest(resolved.slicing(dataset))
    for folder in sorted(results.glob(f"*/slices/{dataset}")):
        if found := stored(folder, wanted):
            return found
    entry = resolved.params.data.datasets[dataset]
    names = (f"{entry.source} {entry.organ}", f"{entry.source} {entry.contrast}", entry.source)
    name = next((name for name in names if name in NOMINAL), None)
    if name is None:
        return None
    told = NOMINAL[name]
    has = {key: int(value) for key, value in told.items()}
    volumes = {split: min(has[split], entry.max_volumes or has[split]) for split in SPLITS}
    slices = min(entry.central_slices or has["slices"], entry.max_slices or has["slices"])
    height, width = entry.crop or (has["height"], has["width"])
    return Geometry(volumes, slices, height, width, told["pixel_bytes"])


def stored(folder: Path, wanted: str = "") -> Geometry | None:
    """Of the stores in a folder; None without them, or if their settings have another digest."""
    paths = [folder / f"{split}.h5" for split in SPLITS]
    if not all(path.is_file() for path in paths):
        return None
    from mrsr.slices import store  # imports numpy and h5py

    try:
        if wanted and store.attributes(paths[0]).get("digest") != wanted:
            return None
        found = [store.read_store(path) for path in paths]
    except UserError:
        return None  # being written, or damaged: ignored here
    depths, heights, widths = zip(*(v.shape for of_split in found for v in of_split), strict=True)
    slices, height, width = round(sum(depths) / len(depths)), max(heights), max(widths)
    pixel_bytes = sum(path.stat().st_size for path in paths) / (sum(depths) * height * width)
    volumes = dict(zip(SPLITS, map(len, found), strict=True))
    return Geometry(volumes, slices, height, width, pixel_bytes)
