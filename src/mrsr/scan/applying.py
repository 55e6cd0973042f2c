"""A prepared network on the slices of a volume; the result in the scan's own intensities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from mrsr import inference, tiles
from mrsr.errors import UserError
from mrsr.scan import consistency as agreeing
from mrsr.scan import quality
from mrsr.scan.choosing import Chosen
from mrsr.scan.input import check_axis, check_nan
from mrsr.scan.output import check_finite

CHECKED = ("axis", "batch", "tile", "ensemble", "nan", "dtype")


def check_options(
    axis: int | None = None,
    batch: int = 0,
    tile: int = 0,
    ensemble: int = 1,
    nan: str = "refuse",
    dtype: str = "float32",
) -> None:
    """Raise a `UserError` for a value that `enhance` does not take, whatever the scan."""
    check_axis(axis)
    check_nan(nan)
    if batch < 0:
        raise UserError(f"batch is {batch}, it must be 1 or more, or 0 for what is fast")
    if tile and tile < tiles.LEAST:
        raise UserError(f"tile is {tile}, it must be {tiles.LEAST} or more, or 0 for whole slices")
    if ensemble not in (1, 8):
        raise UserError(f"ensemble is {ensemble}, it must be 1 or 8")
    if dtype not in ("float32", "same"):
        raise UserError(f"dtype is {dtype}, it must be float32 or same")


def slabs(
    network: nn.Module,
    image: np.ndarray,
    unit: np.float32,
    chosen: Chosen,
    name: str,
    *,
    ensemble: int,
    consistency: bool,
    label: str,
    **how: Any,
) -> Iterator[np.ndarray]:
    """Slices (some, scale * h, scale * w) float32, in their order, while they are computed.

    Args:
        network: as `choosing.ready` gives it, of the model `chosen`.
        image: (slices, h, w) intensities of the scan `name`; divided by `unit` in place.
        consistency: move each slice to the nearest one that degrades to the input.
        label: in the line of progress. how: device, batch, guide and tile of `inference.slabs`.

    Raises:
        UserError: the network gives NaN or infinite values.
    """
    image /= unit
    found = inference.slabs(network, image, chosen.scale, ensemble=ensemble, label=label, **how)
    if consistency:
        kinds = agreeing.kinds_for(chosen.settings)
        found = agreeing.consistent(found, image, chosen.scale, kinds, name)
    return _checked(found, unit, chosen.name, name)


def disagreement(
    network: nn.Module, image: np.ndarray, unit: np.float32, chosen: Chosen, name: str, **how: Any
) -> Iterator[np.ndarray]:
    """The quality map of the same slices; arguments as for `slabs`."""
    found = quality.maps(network, image / unit, chosen.scale, label="quality", **how)
    return _checked(found, unit, chosen.name, name)


def _checked(
    found: Iterator[tuple[slice, np.ndarray]], unit: np.float32, model: str, name: str
) -> Iterator[np.ndarray]:
    for _, fine in found:
        if not np.isfinite(fine).all():
            raise UserError(f"{model} gives NaN or infinite values on {name}; train it again")
        with np.errstate(over="ignore"):  # told
            fine *= unit
        check_finite(fine, name)
        yield fine
