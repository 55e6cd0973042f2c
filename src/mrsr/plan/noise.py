"""Stores of noise and untrained checkpoints, for the measurements of `measure.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsr import checkpoint, models, slicing
from mrsr.errors import UserError
from mrsr.in_force import InForce
from mrsr.plan import sizes
from mrsr.plan.sizes import SPLITS, Geometry

SLICES = 16  # of a volume of noise; a labelled one has all of its


def geometry(in_force: InForce, dataset: str) -> Geometry:
    """The real dataset's size, which its noise will have.

    Raises:
        UserError: nothing tells it before slicing.
    """
    size = sizes.geometry(in_force, dataset)
    if size is None:
        raise UserError(f"the slices' size of {dataset} is not known; run `snakemake slices` first")
    return size


def depth(size: Geometry) -> int:
    """Slices of a volume of noise; a 3D network needs all."""
    return size.slices if size.labels else min(size.slices, SLICES)


def stores(
    in_force: InForce, folder: Path, dataset: str, size: Geometry, volumes: int = 2
) -> dict[str, Path]:
    """Stores of so many volumes of noise each, by split."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (depth(size), size.height, size.width)
    paths = {split: folder / f"{split}.h5" for split in SPLITS}
    for seed, (split, path) in enumerate(paths.items()):
        rng = np.random.default_rng(seed)
        with slicing.new_store(path) as file:
            organ = in_force.params.data.datasets[dataset].organ
            described = {"format": slicing.FORMAT, "dataset": dataset, "organ": organ}
            described |= {"contrast": "", "split": split, "settings": "{}", "digest": split}
            file.attrs.update(described)
            file.create_group("volumes")
            for number in range(volumes):
                data = rng.integers(1, 1000, shape).astype(np.int16)
                labels = (data % 5).astype(np.uint8) if size.labels else None
                noise = slicing.Sliced(
                    data=data.astype(np.complex64) if size.is_complex else data,
                    **{"scale": 1000.0, "slope": 1.0, "intercept": 0.0, "affine": np.eye(4)},
                    slice_index=list(range(shape[0])),
                    voxel_size=(1.0, 1.0, 1.0),
                    labels=labels,
                )
                about = {"subject": f"s{seed}{number}", "visit": "", "path": f"{number}"}
                slicing.write_volume(file, number, noise, **about)
    return paths


def guide(in_force: InForce, folder: Path, dataset: str, size: Geometry, volumes: int = 2) -> Path:
    """The folder of the stores of a guide, which is noise too."""
    return stores(in_force, folder / "guide", dataset, size, volumes)["test"].parent


def frozen(in_force: InForce, settings: dict[str, Any], folder: Path) -> dict[str, Path | None]:
    """Checkpoints, of random weights, of the networks that the losses look through."""
    paths: dict[str, Path | None] = {"vit": None, "autoencoder": None}
    losses = settings["losses"]
    if "vit" in losses:
        vit = in_force.vit_settings("segmentation")
        paths["vit"] = folder / "vit.pt"
        options = {**vit["network"], "classes": vit["classes"], "dimensions": 3}
        untrained(paths["vit"], "unetr", 1, options)
    if {"structure", "texture"} & set(losses):
        own = in_force.autoencoder_settings(settings["dataset"], settings["scale"])["network"]
        paths["autoencoder"] = folder / "autoencoder.pt"
        untrained(paths["autoencoder"], "autoencoder", settings["scale"], own)
    return paths


def untrained(
    path: Path, model: str, scale: int, options: dict[str, Any], keys: tuple[str, ...] = ()
) -> None:
    """A checkpoint of an untrained network; for each of `keys`, where there are any."""
    own = models.build(model, scale, options).state_dict()
    parts = [checkpoint.part_of(key, own) for key in keys]
    weights = {name: value for part in parts for name, value in part.items()} or own
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"model_name": model, "options": options, "scale": scale, "weights": weights}
    checkpoint.save(path, **given, settings={}, provenance={})
