"""The network to take away, and whether it can be: alone, on images of any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mrsr import checkpoint, models
from mrsr.checkpoint import Checkpoint
from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.scan import boxed

PERCENTILE = 99.9  # as `enhance` takes where a checkpoint has none
GIVE = "give the best.pt of another method, or nothing for the package's network"


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is taken away.

    name: for files and registries, such as `seran_x2`. title: for people. file: the checkpoint;
    digest: its SHA-256. percentile: of a scan's intensities, which becomes 1. boxed: whether it is
    the package's.
    """

    name: str
    title: str
    network: nn.Module
    saved: Checkpoint
    file: Path
    digest: str
    percentile: float
    boxed: bool = False

    @property
    def scale(self) -> int:
        return self.saved.scale


def choose(given: str = "", scale: int = 0) -> Source:
    """A checkpoint's network, or the package's: empty, `x2`, `x4`.

    scale: of the package's network, if `given` is empty.

    Raises:
        UserError: there is no such network, or it cannot be exported; says why.
    """
    path, own = _file(given, scale)
    saved = checkpoint.load(path, checkpoint.SR)
    if given and scale not in (0, saved.scale):
        raise UserError(f"{path} was trained for {saved.scale}x, not {scale}x")
    name = saved.model_name
    if saved.settings.get("type") == "self":
        raise UserError(f"{path} ({name}) is trained on each scan anew, so there is no network to "
                        f"export; {GIVE}")  # fmt: skip
    if getattr(models.module(name), "GUIDED", False):
        raise UserError(f"{path} ({name}) needs a second contrast beside the scan, which no export "
                        f"takes; {GIVE}")  # fmt: skip
    network = checkpoint.network(path)
    window = int(getattr(network, "window", 1))
    if (window := max(window, int(getattr(network, "multiple", 1)))) > 1:
        raise UserError(
            f"{path} ({name}) works in windows of {window} pixels, so one graph does not fit "
            f"every image size; {GIVE}"
        )
    normalise: dict[str, Any] = saved.settings.get("normalise") or {}
    return Source(
        name=f"{name}_x{saved.scale}",
        title=f"mrsr's {name} at {saved.scale}x",
        network=network,
        saved=saved,
        file=path,
        digest=sha256(path),
        percentile=float(normalise.get("percentile", PERCENTILE)),
        boxed=own,
    )


def _file(given: str, scale: int) -> tuple[Path, bool]:
    """The checkpoint's file, and whether it is the package's."""
    if not given:
        return boxed.path(scale), True
    if not Path(given).exists():
        if given in boxed.UNTRAINED:
            raise UserError(f"{given} is no trained network; {GIVE}")
        if given.startswith("x") and given[1:].isdigit():
            return boxed.path(int(given[1:])), True
    return Path(given), False
