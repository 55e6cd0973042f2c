"""Make an output agree with the input: degrading it gives the input back.

The input is what the degradation `D` makes of the truth. An output `x` that does not degrade to the
input `y` is moved to the nearest image that does: `x + D⁺ (y - D x)`, with the pseudo-inverse `D⁺`.
That image is never farther from the truth than `x` was, if the degradation is the right one and the
input has no noise. All our degradations work on rows, columns and slices separately, so `D` and
`D⁺` are small exact matrices, in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mrsr import resampling
from mrsr.console import say
from mrsr.models.pseudo_inverse import NEGLIGIBLE, inverse_matrix
from mrsr.scan.slice_profile import SliceProfile, slice_matrix

KINDS = {"bicubic": "bicubic reduction", "kspace": "truncation of k-space"}


class Residual:
    """How far an output is from degrading to the input, before and after: relative RMS."""

    def __init__(self) -> None:
        self.before = self.after = self.energy = 0.0

    def add(self, wanted: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Count these LR images: the input, the degraded output, the same after the projection."""
        self.before += float(np.square(before - wanted, dtype=np.float64).sum())
        self.after += float(np.square(after - wanted, dtype=np.float64).sum())
        self.energy += float(np.square(wanted, dtype=np.float64).sum())

    @property
    def ratios(self) -> tuple[float, float]:
        """RMS of the residual relative to the input's RMS, before and after."""
        energy = self.energy or 1.0
        return (self.before / energy) ** 0.5, (self.after / energy) ** 0.5

    def tell(self, name: str, what: str) -> None:
        """State it in one line."""
        before, after = self.ratios
        say(
            f"{name}: degraded again ({what}), the output differs from the input by "
            f"{100 * before:.2g} % (RMS) before and {100 * after:.1g} % after the projection"
        )


@functools.lru_cache(maxsize=16)
def forward_matrix(n: int, scale: int, kind: str) -> np.ndarray:
    """(n, scale * n) float64: one dimension of the degradation, to n LR pixels.

    For k-space (2 n, scale * n): the real part, then the imaginary part, which shall be zero.
    """
    if kind == "bicubic":
        return resampling.resize_matrix(scale * n, n)
    cropped = resampling.kspace_matrix(scale * n, scale).numpy()
    return np.concatenate([cropped.real, cropped.imag])


def degraded(fine: np.ndarray, scale: int, kind: str) -> np.ndarray:
    """(n, scale * h, scale * w) -> (n, h, w) float64, as `resampling.degrade` does it."""
    height, width = (size // scale for size in fine.shape[-2:])
    if kind == "bicubic":
        rows, columns = (forward_matrix(size, scale, kind) for size in (height, width))
        return np.asarray(rows @ fine @ columns.T)
    import torch

    whole = torch.from_numpy(fine.astype(np.float64))
    return resampling.kspace_crop(whole, scale).numpy()


def projected(
    fine: np.ndarray, coarse: np.ndarray, scale: int, kind: str, residual: Residual
) -> np.ndarray:
    """The images nearest to `fine` that degrade to `coarse` exactly, float32.

    fine: (n, scale * h, scale * w). coarse: (n, h, w), in the same intensity unit.
    kind: "bicubic" or "kspace".
    """
    rows, columns = (inverse_matrix(size, scale, kind).numpy() for size in coarse.shape[-2:])
    before = degraded(fine, scale, kind)
    exact = (fine + rows @ (coarse - before) @ columns.T).astype(np.float32)
    residual.add(coarse, before, degraded(exact, scale, kind))
    return exact


def kinds_for(settings: dict[str, Any]) -> tuple[str, ...]:
    """The degradations that a network learned to undo; of one without training, bicubic."""
    kind = str(settings.get("degradation", "bicubic"))
    return tuple(KINDS) if kind == "mixed" else (kind,)


def consistent(
    found: Iterator[tuple[slice, np.ndarray]],
    image: np.ndarray,
    scale: int,
    kinds: Sequence[str],
    name: str,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Project slabs of an output on their slices of the input; says at the end what that changed.

    kinds: degradations that it may be. Of several, the one that the first slab agrees with best is
    taken for all, and that is said.
    """
    residual, kind = Residual(), ""
    for part, fine in found:
        kind = kind or _nearest(fine, image[part], scale, kinds, name)
        exact = projected(fine, image[part], scale, kind, residual)
        if part.stop == len(image):  # before the last slab is given: a reader may stop after it
            residual.tell(name, KINDS[kind])
        yield part, exact


def _nearest(
    fine: np.ndarray, coarse: np.ndarray, scale: int, kinds: Sequence[str], name: str
) -> str:
    if len(kinds) == 1:
        return kinds[0]
    errors = {kind: float(np.square(degraded(fine, scale, kind) - coarse).mean()) for kind in kinds}
    nearest = min(kinds, key=lambda kind: errors[kind])
    say(f"{name}: of what the network learned to undo, {KINDS[nearest]} fits the scan best")
    return nearest


def through(
    fine: np.ndarray, slices: np.ndarray, ratio: float, profile: SliceProfile
) -> tuple[np.ndarray, Residual]:
    """The same along the slices: (m, h, w) whose slices of this profile are `slices` (n, h, w).

    ratio: slices' spacing in voxels of `fine`.
    """
    matrix = slice_matrix(len(fine), len(slices), ratio, profile.fwhm / profile.spacing * ratio)
    inverse = np.linalg.pinv(matrix, rcond=NEGLIGIBLE)
    residual, exact = Residual(), np.empty_like(fine, np.float32)
    for row in range(fine.shape[1]):  # row by row: float64 of the whole would be three volumes more
        before = matrix @ fine[:, row]
        exact[:, row] = fine[:, row] + inverse @ (slices[:, row] - before)
        residual.add(slices[:, row], before, matrix @ exact[:, row])
    return exact, residual
