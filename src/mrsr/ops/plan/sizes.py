"""Sizes of sources and datasets, also before anything was downloaded or sliced."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from mrsr.errors import UserError
from mrsr.params.experiment import Resolved
from mrsr.params.schema import SPLITS
from mrsr.params.typed import digest
from mrsr.slices import store

# volumes, slices, height, width, bytes of a pixel in the store. openms, phantom: measured on their
# stores. IXI: the paper's counts, the phantom's bytes. fastMRI: about 36 slices; the phantom's knee
NOMINAL = {
    "phantom brain": ((0, 0, 0), 32, 224, 192, 1.14),
    "phantom knee": ((0, 0, 0), 6, 320, 320, 6.5),
    "openms T1": ((3, 1, 2), 48, 256, 256, 0.5),
    "openms T2": ((4, 1, 2), 44, 384, 348, 0.6),
    "ixi": ((500, 6, 70), 130, 256, 256, 1.1),
    "fastmri": ((0, 0, 0), 36, 320, 320, 6.5),
}
# bytes under data/raw at the most, and how many a second a thread downloads (assumed) or simulates.
# IXI: three archives, one beside its files at a time (README); fastMRI: 251 pairs of single-coil
# files of 75 MB beside the two archives as published
RAW = {"phantom": (157e6, 3.3e6), "openms": (37e6, 10e6), "ixi": (19e9, 10e6)}
RAW["fastmri"] = (2 * 251 * 75e6 + 88e9, 10e6)


@dataclass(frozen=True)
class Geometry:
    """Volumes of a dataset by split, the slices (n, height, width) of each, bytes of a pixel."""

    volumes: dict[str, int]
    slices: int
    height: int
    width: int
    pixel_bytes: float

    def count(self, *splits: str) -> int:
        """Slices of these splits together."""
        return self.slices * sum(self.volumes[split] for split in splits)

    def megapixels(self, *splits: str) -> float:
        """Of all slices of these splits."""
        return self.count(*splits) * self.height * self.width / 1e6


@functools.cache
def geometry(resolved: Resolved, dataset: str, results: Path = Path("results")) -> Geometry | None:
    """The size of a dataset; None if only slicing can tell (your own scans)."""
    wanted = digest(resolved.slicing(dataset))
    for folder in sorted(results.glob(f"*/slices/{dataset}")):
        if found := stored(folder, wanted):
            return found
    entry = resolved.params.data.datasets[dataset]
    source, settings = entry.source, resolved.source_settings(entry.source)
    names = (f"{source} {entry.organ}", f"{source} {entry.contrast}", source)
    name = next((name for name in names if name in NOMINAL), None)
    if name is None:
        return None
    counts, slices, height, width, pixel_bytes = NOMINAL[name]
    if source == "phantom":
        people = settings["knee" if entry.organ == "knee" else "subjects"]
        counts = (people["train"], people["validation"], people["test"])
        slices = slices if entry.organ == "knee" else settings["slices"]
    elif source == "fastmri":
        held = settings["validation"]
        counts = (settings["pairs_train"] - held, held, settings["pairs_test"])
    volumes = {s: min(n, entry.max_volumes or n) for s, n in zip(SPLITS, counts, strict=True)}
    slices = min(entry.central_slices or slices, entry.max_slices or slices)
    return Geometry(volumes, slices, *(entry.crop or (height, width)), pixel_bytes)


def stored(folder: Path, wanted: str = "") -> Geometry | None:
    """Of the stores in a folder; None without them, or if their settings have another digest."""
    paths = [folder / f"{split}.h5" for split in SPLITS]
    try:
        if wanted and store.attributes(paths[0]).get("digest") != wanted:
            return None
        volumes = [store.read_store(path) for path in paths]
    except UserError:
        return None  # missing, being written, or damaged: ignored here
    depths, heights, widths = zip(*(v.shape for of_split in volumes for v in of_split), strict=True)
    pixels = sum(depths) * max(heights) * max(widths)
    pixel_bytes = sum(path.stat().st_size for path in paths) / pixels
    counts = dict(zip(SPLITS, map(len, volumes), strict=True))
    slices = round(sum(depths) / len(depths))
    return Geometry(counts, slices, max(heights), max(widths), pixel_bytes)
