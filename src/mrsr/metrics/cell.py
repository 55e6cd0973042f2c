"""One cell of the results: its network and test slices, checked to belong to it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mrsr import checkpoint, compute, models
from mrsr.checkpoint import Checkpoint
from mrsr.errors import UserError
from mrsr.params.jobs import Evaluation
from mrsr.params.typed import plain
from mrsr.slices import holding, store
from mrsr.slices.store import StoredVolume


def opened(
    settings: Evaluation,
    slices: Path,
    saved: Path | None,
    guide: Path | None,
    place: str = "auto",
) -> tuple[nn.Module, holding.Slices, Checkpoint | None]:
    """The network, the test slices, and the checkpoint of the former if it has one.

    Args:
        settings: of the evaluation; its number of threads becomes torch's.
        slices: the test store. saved: best.pt, of networks with weights. guide: the test store of
            the second contrast, of guided networks. place: as in `holding.load`.

    Raises:
        UserError: a file is missing, cannot be used, or is of another cell.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = compute.device_for(settings.device)
    origin = checkpoint.load(saved, checkpoint.SR) if saved else None
    if origin:
        check_origin(origin, saved, settings)
    check_store(slices, settings)
    built = network(settings, saved, device, guided=guide is not None)
    pairs = holding.load(
        slices,
        scale=settings.scale,
        degradation=settings.degradation,
        device=device,
        place=place,
        guide=guide,
        acceleration=settings.acceleration,
    )
    return built, pairs, origin


def check_origin(origin: Checkpoint, path: Path | None, settings: Evaluation) -> None:
    """Refuse a checkpoint of another cell: it would put a wrong number into the tables."""
    known = {**origin.settings, "scale": origin.scale, "model": origin.model_name}
    asked = {**plain(settings), "model": settings.model.name}
    asked["method"] = settings.weights_of or settings.method
    if settings.trained_on:  # one network for several datasets, whatever their degradation
        asked["dataset"] = settings.trained_on
        del asked["degradation"]
    for key in ("scale", "dataset", "method", "degradation", "model", "type", "acceleration"):
        if key in known and key in asked and known[key] != asked[key]:
            raise UserError(
                f"{path} was trained for {key} {known[key]}, the evaluation asks for "
                f"{asked[key]}; give the checkpoint of this cell"
            )


def check_volumes(origin: Checkpoint, path: Path | None, volumes: list[StoredVolume]) -> None:
    """Refuse networks trained on other volumes, for instance of a store that was since rebuilt."""
    here = {volume.key: volume.path for volume in volumes}
    if origin.provenance.get("volumes", here) != here:
        raise UserError(f"{path} was trained on other volumes than this store's; train it again")


def check_store(path: Path, settings: Evaluation) -> None:
    """Refuse slices of another dataset: they would put a wrong number into the tables."""
    found = store.attributes(path).get("dataset")
    if found != settings.dataset:
        raise UserError(
            f"{path} holds slices of {found}, the evaluation asks for {settings.dataset}; "
            "give that dataset's test.h5"
        )


def network(
    settings: Evaluation, saved: Path | None, device: torch.device, *, guided: bool
) -> nn.Module:
    """The network of a cell on the device, in evaluation mode.

    saved: its checkpoint; None builds it untrained. guided: whether a second contrast is given.

    Raises:
        UserError: a network with weights has no checkpoint, or a guide is missing or not needed.
    """
    models.check_guide(settings.model.name, guided)
    own = settings.type == "self"  # its weights are loaded volume by volume
    if saved and not own:
        built = checkpoint.network(saved, device)
    else:
        built = models.build(settings.model.name, settings.scale, settings.model.options)
        if any(True for _ in built.parameters()) and not saved:
            raise UserError(
                f"method '{settings.method}' has to be trained; give its best.pt with --checkpoint"
            )
    built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    return built.to(device).eval()
