"""The file of example images, as `examples.py` makes it.

It is numpy's npz: `about`, a JSON text, and arrays `<number of the slice>/<method>` (height, width)
float32, with `reference` (the original) and `plain` (bicubic, from the same LR).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError
from mrsr.files import atomic

REFERENCE, PLAIN = "reference", "plain"


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """An example file. slices: volume, index, subject, why, mm (height and width of a pixel), psnr
    by method. spectra: see `spectrum.py`."""

    dataset: str
    scale: int
    decides: str
    labels: dict[str, str]
    slices: list[dict[str, Any]]
    spectra: dict[str, Any]
    images: dict[str, np.ndarray]

    def image(self, number: int, method: str) -> np.ndarray:
        """(height, width) float32."""
        return self.images[f"{number}/{method}"]


def write(out: Path, about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file: `about` has the fields of `Loaded` but `images`, and `arrays` those."""
    content = io.BytesIO()
    # savez stamps its members with 1980, so equal contents are equal files
    members: dict[str, Any] = {"about": np.array(json.dumps(about)), **arrays}
    np.savez_compressed(content, **members)
    with atomic(out) as temporary:
        temporary.write_bytes(content.getvalue())


def read(path: Path) -> Loaded:
    """An example file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return Loaded(**json.loads(str(arrays.pop("about"))), images=arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of example images ({error}); make it again") from None
