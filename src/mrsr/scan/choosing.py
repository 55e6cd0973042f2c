"""The network that a scan goes through: the package's, a checkpoint's, or one without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrsr import checkpoint, models
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.scan import boxed


@dataclass(frozen=True)
class Chosen:
    """A network on its device; None for a method that is trained on the scan itself.

    settings: of its training; empty if there was none.
    """

    name: str
    network: nn.Module | None
    scale: int
    settings: dict[str, Any]


def choose(model: Path | str, scale: int, device: torch.device, *, guided: bool) -> Chosen:
    """The network that `enhance` is asked for; its arguments. guided: there is a second contrast.

    Raises:
        UserError: the checkpoint cannot be used, is of another scale, or a guide is missing.
    """
    if not str(model):
        model = boxed.path(scale)
        say(f"the package's network; for research only, see {model.with_name(boxed.CARD)}")
    if str(model) in boxed.UNTRAINED:
        models.check_guide(str(model), guided)
        return Chosen(str(model), boxed.untrained(str(model), scale).to(device), scale, {})
    saved = checkpoint.load(model, checkpoint.SR)
    models.check_guide(saved.model_name, guided)
    if scale not in (0, saved.scale):
        raise UserError(f"{model} was trained for {saved.scale}x, not {scale}x")
    if (times := saved.settings.get("acceleration", 1)) > 1:
        say(f"warning: {model} expects a scan undersampled {times}x in k-space, as it learned")
    alone = saved.settings.get("type") == "self"
    network = None if alone else checkpoint.network(model, device)
    return Chosen(str(model), network, saved.scale, saved.settings)
