"""The type that enhanced values are stored in: float32, or the input's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrsr.console import say
from mrsr.scan.input import Given


@dataclass
class Kind:
    """How values are stored: physical value = stored * slope + intercept."""

    dtype: np.dtype
    slope: float = 1.0
    intercept: float = 0.0
    clipped: int = 0

    @classmethod
    def of(cls, given: Given, dtype: str, *, complex_scan: bool) -> Kind:
        """The input's for "same" (of complex scans, whose magnitude is used, float32)."""
        if dtype != "same" or complex_scan:
            return cls(np.dtype(np.float32))
        own = given.scan.stored.dtype.newbyteorder("=")
        whole = own.kind in "iu"
        return cls(own, given.scan.slope, given.scan.intercept) if whole else cls(own)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Physical values as they are stored; integers rounded, and clipped to the type's range."""
        if self.dtype.kind not in "iu":
            return values.astype(self.dtype, copy=False)
        wide = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        ends = np.iinfo(self.dtype)
        low, high = float(ends.min), np.nextafter(float(ends.max) + 1, 0)  # below, 2^64 is rounded
        self.clipped += int(((wide < low) | (wide > high)).sum())
        return np.clip(wide, low, high).astype(self.dtype)

    def say_clipped(self, name: str) -> None:
        """Say how many values the type does not hold, if any."""
        if self.clipped:
            say(f"{name}: {self.clipped} values beyond the range of {self.dtype.name} were clipped")
