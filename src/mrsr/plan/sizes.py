"""How many slices a dataset has, and how many bytes an experiment writes, before any is written.

What lies on the disk already is read; the rest comes from the sources' settings and from NOMINAL,
which says where each number is from.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrsr import store
from mrsr.errors import UserError
from mrsr.in_force import InForce
from mrsr.settings import digest

SPLITS = ("train", "validation", "test")
# bytes of a parameter: best.pt and last.pt; while it trains two states (`resume.py`) of weights,
# Adam's two moments and the best weights so far
KEPT, RUNNING = 2 * 4, 2 * 4 * 4
METRICS_BYTES, SLICE_ROW_BYTES = 250e3, 90  # JSON and figure of a method; its CSV's row of a slice
FIGURE_BYTES, TABLE_BYTES = 80e3, 100e3


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Volumes of a dataset by split, the slices (n, height, width) of each, bytes in the store.

    pixel_bytes: on the disk, compressed, labels included. exact: read from stores, not assumed.
    """

    volumes: dict[str, int]
    slices: int
    height: int
    width: int
    pixel_bytes: float
    is_complex: bool = False
    labels: bool = False
    exact: bool = False

    def count(self, split: str) -> int:
        """Slices of a split."""
        return self.volumes.get(split, 0) * self.slices

    def bytes(self) -> float:
        """Of the three stores together."""
        return sum(map(self.count, SPLITS)) * self.height * self.width * self.pixel_bytes


# bytes per pixel of phantom and openms: measured on their stores. IXI: the paper's counts and crop,
# as many bytes per pixel as the phantom's images. fastMRI: the settings' counts, some 36 slices of
# 320x320, and the bytes of the phantom's knee.
_IXI = {"train": 500, "validation": 6, "test": 70}
NOMINAL: dict[str, dict[str, Any]] = {
    "ixi": {"volumes": _IXI, "slices": 130, "height": 256, "width": 256, "pixel_bytes": 1.1},
    "openms T1": {
        "volumes": {"train": 3, "validation": 1, "test": 2},
        **{"slices": 48, "height": 256, "width": 256, "pixel_bytes": 0.5},
    },
    "openms T2": {
        "volumes": {"train": 4, "validation": 1, "test": 2},
        **{"slices": 44, "height": 384, "width": 348, "pixel_bytes": 0.6},
    },
}
# bytes that a source puts under data/raw, and the largest that it needs while it fetches. IXI: the
# publisher's three archives (README), one of which lies beside its files at a time; fastMRI: 75 MB
# a file of the single-coil set, archives of 73 and 15 GB as its publisher lists them
RAW_BYTES = {"openms": (37e6, 37e6), "ixi": (14e9, 19e9), "fastmri": (75e6, 88e9)}
BRAIN_BYTES, KNEE_BYTES = 5.1e6, 7.5e6  # of the phantom: one subject of 32 slices, one knee


def geometry(in_force: InForce, dataset: str, results: Path = Path("results")) -> Geometry | None:
    """What a dataset will hold; None where only slicing can tell (own scans)."""
    wanted = in_force.slice_settings(dataset)
    found = _existing(dataset, digest(json.loads(json.dumps(wanted))), results)
    if found is not None:
        return found
    entry = in_force.params.data.datasets[dataset]
    source = in_force.source_settings(entry.source)
    given = _of_source(entry.source, entry.contrast, entry.organ, source)
    if given is None:
        return None
    slices = entry.central_slices or given.slices
    height, width = entry.crop or (given.height, given.width)
    volumes = {
        split: min(count, entry.max_volumes or count) for split, count in given.volumes.items()
    }
    change = {"volumes": volumes, "height": height, "width": width}
    change["slices"] = min(slices, entry.max_slices or slices)
    return Geometry(**{**vars(given), **change})


def _of_source(source: str, contrast: str, organ: str, settings: dict[str, Any]) -> Geometry | None:
    if source == "phantom" and organ == "knee":
        common = {"volumes": settings["knee"], "slices": 6, "height": 320, "width": 320}
        return Geometry(**common, pixel_bytes=6.5, is_complex=True)
    if source == "phantom":
        common = {"volumes": settings["subjects"], "slices": settings["slices"]}
        return Geometry(**common, height=224, width=192, pixel_bytes=1.14, labels=True)
    if source == "fastmri":
        learned, held = settings["pairs_train"], settings["validation"]
        volumes = {"train": learned - held, "validation": held, "test": settings["pairs_test"]}
        common = {"volumes": volumes, "slices": 36, "height": 320, "width": 320}
        return Geometry(**common, pixel_bytes=6.5, is_complex=True)
    found = NOMINAL.get(f"{source} {contrast}") or NOMINAL.get(source)
    return Geometry(**found) if found else None


def _existing(dataset: str, wanted: str, results: Path) -> Geometry | None:
    """Of the stores of any experiment that were cut by the same settings."""
    for train in sorted(results.glob(f"*/slices/{dataset}/train.h5")):
        paths = {split: train.with_name(f"{split}.h5") for split in SPLITS}
        try:
            if store.attributes(train).get("digest") != wanted:
                continue
            volumes = {split: store.read_store(path) for split, path in paths.items()}
        except UserError:
            continue  # being written, or damaged: not the plan's business
        every = [volume for of_split in volumes.values() for volume in of_split]
        pixels = sum(volume.shape[0] * volume.shape[1] * volume.shape[2] for volume in every)
        return Geometry(
            volumes={split: len(of_split) for split, of_split in volumes.items()},
            slices=round(sum(volume.shape[0] for volume in every) / len(every)),
            height=max(volume.shape[1] for volume in every),
            width=max(volume.shape[2] for volume in every),
            pixel_bytes=sum(path.stat().st_size for path in paths.values()) / pixels,
            is_complex=every[0].dtype.kind == "c",
            labels=every[0].has_labels,
            exact=True,
        )
    return None


def raw_bytes(in_force: InForce, source: str) -> tuple[float, float] | None:
    """Bytes of a source's files, and the most while they are fetched; None: not known."""
    settings = in_force.source_settings(source)
    if source == "phantom":
        brains, knees = sum(settings["subjects"].values()), sum(settings["knee"].values())
        total = brains * BRAIN_BYTES * settings["slices"] / 32 + knees * KNEE_BYTES
        return total, total
    if source == "fastmri":
        file, archives = RAW_BYTES[source]
        total = 2 * file * (settings["pairs_train"] + settings["pairs_test"])
        return total, total if settings["source"] else total + archives
    return RAW_BYTES.get(source)


def parameters(rule: str, settings: dict[str, Any], network: dict[str, Any] | None = None) -> int:
    """Parameters of the network that a training trains, counted without computing anything.

    network: of the vision transformer, which a pre-text's settings do not name.
    """
    if rule == "train_autoencoder":
        return _count("autoencoder", settings["scale"], {**settings["network"], "start": "random"})
    if rule.startswith("train_vit"):
        options = settings.get("network") or network or {}
        dimensions = 3 if rule == "train_vit_segmentation" else 2
        classes = settings.get("classes", 5)
        return _count("unetr", 1, {**options, "classes": classes, "dimensions": dimensions})
    model = settings["model"]
    return _count(model["name"], settings["scale"], model["options"])


def _count(name: str, scale: int, options: dict[str, Any]) -> int:
    return _counted(name, scale, json.dumps(options, sort_keys=True))


@functools.cache
def _counted(name: str, scale: int, options: str) -> int:
    import torch

    from mrsr import models

    with torch.device("meta"):
        network = models.build(name, scale, json.loads(options))
    return sum(p.numel() for p in network.parameters())


def shown(size: float) -> str:
    """Bytes for people."""
    for unit, value in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= value:
            return f"{size / value:.3g} {unit}"
    return f"{size / 1e3:.0f} kB"
