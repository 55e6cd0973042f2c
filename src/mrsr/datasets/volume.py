"""The volume type of all datasets: slices first, with its position in space."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class VolumeRef:
    """A volume on disk that has not been read yet."""

    path: Path
    subject: str  # splits are by subject; all visits of a person share it
    contrast: str  # "T1", "T2", "PD", "PDFS", ...
    organ: str  # "brain", "knee", ...
    visit: str = ""  # distinguishes several scans of one subject
    split: str = ""  # "train", "validation", "test" if the publisher or a list sets it
    labels: Path | None = None  # tissue labels on the same grid, if there are any
    pair: str = ""  # volumes with the same non-empty `pair` are registered contrasts of one scan


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One volume, lossless.

    stored: (slices, height, width), the file's own integer type, float32 or complex64.
    slope, intercept: physical value = stored * slope + intercept (complex: slope only).
    affine: (4, 4) float64, maps (slice, row, column, 1) to RAS+ millimetres.
    voxel_size: millimetres along (slice, row, column).
    """

    stored: np.ndarray
    affine: np.ndarray
    voxel_size: tuple[float, float, float]
    subject: str
    contrast: str
    organ: str
    visit: str = ""
    slope: float = 1.0
    intercept: float = 0.0
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def image(self) -> np.ndarray:
        """(slices, height, width) float32 physical values; magnitude of complex volumes."""
        if np.iscomplexobj(self.stored):
            return (np.abs(self.stored) * self.slope).astype(np.float32)
        return (self.stored.astype(np.float32) * np.float32(self.slope)) + np.float32(
            self.intercept
        )
