"""Random smooth fields and soft edges, to vary and draw simulated anatomy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing: Sequence[float], scale: float
) -> np.ndarray:
    """A random field without detail finer than about `scale` mm.

    Cubic B-splines over a coarse grid of normal numbers, one knot per `scale` mm.

    shape: voxels per axis; spacing: millimetres per voxel.
    Returns: `shape` float32, mean about 0, standard deviation about 1.
    """
    bases = [_spline_basis(n, scale / step) for n, step in zip(shape, spacing, strict=True)]
    field = rng.standard_normal([basis.shape[1] for basis in bases]).astype(np.float32)
    for basis in bases:  # each pass moves its axis to the end
        field = np.tensordot(field, basis, axes=(0, 1))
    # a B-spline averages its knots: on average the squared weights sum to 0.48 per axis
    return field / np.float32(0.479 ** (len(bases) / 2))


def edge(distance: np.ndarray, width: float) -> np.ndarray:
    """0 for `distance` well below 0, 1 well above; rises over about `width` (same unit)."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def _spline_basis(count: int, knot: float) -> np.ndarray:
    """(count, knots) float32: weight of each knot at each voxel; rows sum to 1."""
    at = np.arange(count) / knot + 1
    knots = int(np.floor(at[-1])) + 3
    distance = np.abs(at[:, None] - np.arange(knots)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)
