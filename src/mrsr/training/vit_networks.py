"""The networks that a phase of the vision transformer's training starts from.

Section 3.2: a UNETR of its own or the user's, then its encoder, collapsed to 2D.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mrsr import checkpoint, compute, files, models
from mrsr.errors import UserError
from mrsr.method import features
from mrsr.models.unetr import Encoder2d, load_weights
from mrsr.params.jobs import Pretext, Segmentation
from mrsr.params.typed import plain
from mrsr.raw import download

WEIGHTS = "weights.pt"  # the user's own, beside the checkpoints


def unetr(
    settings: Segmentation, machine: compute.Machine, folder: Path
) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    """The network, the options that build it, and what identifies the user's weights."""
    options = {**plain(settings.network), "classes": settings.classes, "dimensions": 3}
    network = models.build("unetr", 1, options)
    if machine.first:
        _users_weights(settings, folder)  # the others find what the first one brought
    compute.wait(machine)
    if not settings.weights:
        return network, options, {}
    load_weights(network, folder / WEIGHTS)
    return network, options, {"weights_sha256": files.sha256(folder / WEIGHTS)}


def encoder(start: Path | None) -> tuple[Encoder2d, dict[str, Any], dict[str, str]]:
    """The 2D encoder of a ViT checkpoint, the options that build it, and the file's identity."""
    if start is None:
        raise UserError("phase pretext needs --start, the checkpoint of the segmentation")
    network = features.load_encoder(start).requires_grad_(True)
    options = {**checkpoint.load(start).options, "dimensions": 2}
    height, width = options["size"][1:]
    if height != width:
        raise UserError(f"{start}: network.size {options['size']} is not square in plane")
    return network, options, {"start_sha256": files.sha256(start)}


def _users_weights(settings: Segmentation, folder: Path) -> None:
    """Bring the user's own weights, where there are any, to `WEIGHTS`, verified."""
    if not settings.weights:
        return
    if not settings.weights_sha256 and download.local_path(settings.weights) is None:
        raise UserError("vit.weights is a URL: give vit.weights_sha256, its SHA-256, too")
    # beside the checkpoints: a resumed run finds it, also where there is no network any more
    target = folder / WEIGHTS
    if not settings.weights_sha256:
        target.unlink(missing_ok=True)  # nothing would tell an older copy from it
    download.fetch(settings.weights, target, sha256=settings.weights_sha256)


def recorded(settings: Segmentation | Pretext) -> dict[str, Any]:
    """The settings as log and checkpoint have them: no address, and the labels of other runs."""
    result = plain(settings)
    method = "segmentation"
    if isinstance(settings, Pretext):
        method = settings.pretext
    elif settings.weights:
        path = download.local_path(settings.weights)
        result["weights"] = path.name if path is not None else download.shown(settings.weights)
    return {"dataset": "vit", "scale": 1, "method": method, **result}
