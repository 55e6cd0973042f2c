"""The network that a scan goes through: the package's, a checkpoint's, or one without training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrsr import __version__, checkpoint, inference, linear_tail, models
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.raw.volume import Volume
from mrsr.scan import boxed


@dataclass(frozen=True)
class Chosen:
    """A network on its device; None for a method that is trained on the scan itself.

    name: as it was asked for. settings: of its training; empty if there was none. trained_on: what
    it learned from, if the checkpoint says so. path: its file.
    """

    name: str
    network: nn.Module | None
    scale: int
    settings: dict[str, Any]
    trained_on: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def label(self) -> str:
        """Its name without folders of this machine."""
        return self.path.name if self.path else self.name

    def record(self) -> dict[str, Any]:
        """What a sidecar says of it."""
        if self.path is None:
            return {"name": self.name}
        about: dict[str, Any] = {"name": self.label}
        if self.path.parent == boxed.FOLDER:
            about["package"] = f"mrsr {__version__}"
        about["sha256"] = sha256(self.path)
        for key in ("degradation", "method", "dataset"):
            if key in self.settings:
                about[key] = self.settings[key]
        return {**about, "trained_on": self.trained_on}


def choose(model: Path | str, scale: int, device: torch.device, *, guided: bool) -> Chosen:
    """The network that `enhance` is asked for; its arguments. guided: there is a second contrast.

    Raises:
        UserError: the checkpoint cannot be used, is of another scale, or a guide is missing.
    """
    if not str(model):
        model = boxed.path(scale)
        say(f"the package's {model.name}, for research only; `mrsr enhance --list-models` says for "
            "which scans")  # fmt: skip
    if str(model) in boxed.UNTRAINED:
        models.check_guide(str(model), guided)
        scale = scale or boxed.USUAL
        return Chosen(str(model), boxed.untrained(str(model), scale).to(device), scale, {})
    saved = checkpoint.load(model, checkpoint.SR)
    models.check_guide(saved.model_name, guided)
    if scale not in (0, saved.scale):
        raise UserError(f"{model} was trained for {saved.scale}x, not {scale}x")
    if (times := saved.settings.get("acceleration", 1)) > 1:
        file = Path(model).name
        say(f"warning: {file} expects a scan undersampled {times}x in k-space, as it learned")
    alone = saved.settings.get("type") == "self"
    network = None if alone else checkpoint.network(model, device)
    known = saved.provenance.get("trained_on") or {}
    return Chosen(str(model), network, saved.scale, saved.settings, known, Path(model))


def ready(
    chosen: Chosen,
    volume: Volume,
    unit: np.float32,
    device: torch.device,
    name: str,
    *,
    guided: bool,
) -> nn.Module:
    """The network as inference takes it: trained on the scan if need be, folded, channels last.

    volume: of a scan called `name`. unit: the intensity that becomes 1.

    Raises:
        UserError: it cannot be trained on this scan.
    """
    network = chosen.network
    if network is None:
        from mrsr.training.one_volume import fit_scan

        threads = torch.get_num_threads()
        network = fit_scan(volume.image / unit, chosen.settings, device, name)
        torch.set_num_threads(threads)  # the training has its own, which its weights need
    if not guided:
        with inference.one_thread():
            linear_tail.fold(network, chosen.scale)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    return network
