"""Scans for the viewer: each on a grid that overlays the others, and their differences.

The finest of the grids is the common one. A scan whose voxels fill the same box in the world, such
as an enhanced scan and its input, is shown in its own voxels. Any other is interpolated onto the
common grid by the positions in both headers; nothing is registered.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrsr.errors import UserError
from mrsr.scan.input import open_scan, read_scan

SAME = 0.5  # corners within so many of the smaller voxels are the same place


@dataclass(frozen=True)
class Shown:
    """An image on a grid in the world.

    name: for people. image: (i, j, k) float32 in the file's scale. affine: (4, 4), (i, j, k, 1) to
    RAS+ millimetres. note: what was done to it; empty if nothing was.
    """

    name: str
    image: np.ndarray
    affine: np.ndarray
    note: str = ""

    @property
    def voxel(self) -> tuple[float, ...]:
        """Edges of a voxel in millimetres."""
        return tuple(float(edge) for edge in np.linalg.norm(self.affine[:3, :3], axis=0))


@dataclass(frozen=True)
class Difference(Shown):
    """second minus first, both by number. covered: share of the grid that both scans fill."""

    first: int = 0
    second: int = 0
    covered: float = 1.0


def read(paths: Sequence[Path]) -> tuple[list[Shown], list[Difference], int]:
    """Scans as they are shown, the difference of each pair, and the number of the finest scan.

    paths: two or three files; any that `mrsr enhance` takes.

    Raises:
        UserError: not so many, a file that cannot be read, or scans without a common place.
    """
    if len(paths) not in (2, 3):
        raise UserError(f"give two or three scans to see side by side, not {len(paths)}")
    scans = [_read(path, name) for path, name in zip(paths, names(paths), strict=True)]
    finest = min(range(len(scans)), key=lambda number: np.prod(scans[number].voxel))
    common = scans[finest]
    on_common = [onto(scan, common) for scan in scans]
    for scan, (_, inside) in zip(scans, on_common, strict=True):
        if not inside.any():
            raise UserError(
                f"{scan.name} and {common.name} do not overlap; check the positions in their "
                "headers"
            )
    shown = [
        scan
        if same_box(scan, common)
        else Shown(scan.name, image, common.affine, f"interpolated onto the grid of {common.name}")
        for scan, (image, _) in zip(scans, on_common, strict=True)
    ]
    differences = [
        _difference(scans, on_common, first, second, common)
        for first, second in itertools.combinations(range(len(scans)), 2)
    ]
    return shown, differences, finest


def _read(path: Path, name: str) -> Shown:
    import nibabel

    given = open_scan(path)
    if given.scan.volumes > 1:
        raise UserError(
            f"{given.name} has {given.scan.volumes} volumes, and the page shows scans of one; save "
            "the one to see as a file of its own"
        )
    volume = read_scan(given, sliced=False)
    # axes from left to right, back to front, foot to head, as near as turns and flips get to that
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.image, volume.affine))
    return Shown(name, np.asarray(image.dataobj, np.float32), np.asarray(image.affine, float))


def names(paths: Sequence[Path]) -> list[str]:
    """The files' names, with their folder's where two are called the same; never a whole path."""
    short = [path.name for path in paths]
    if len(set(short)) == len(short):
        return short
    longer = [f"{path.resolve().parent.name}/{path.name}" for path in paths]
    if len(set(longer)) == len(longer):
        return longer
    return [f"{number}. {name}" for number, name in enumerate(short, 1)]


def corners(scan: Shown) -> np.ndarray:
    """(8, 3) millimetres: the outer corners of the box that the voxels fill."""
    ends = [(-0.5, size - 0.5) for size in scan.image.shape]
    index = np.array([[*corner, 1.0] for corner in itertools.product(*ends)])
    return (index @ scan.affine.T)[:, :3]


def same_box(one: Shown, other: Shown) -> bool:
    """Whether the voxels of both fill the same box, however its axes are called or turned."""
    apart = np.linalg.norm(corners(one)[:, None] - corners(other)[None], axis=-1)
    return bool(apart.min(axis=1).max() <= SAME * min(*one.voxel, *other.voxel))


def onto(scan: Shown, grid: Shown) -> tuple[np.ndarray, np.ndarray]:
    """A scan on another grid, linearly interpolated, and where the scan has voxels.

    Returns:
        (i, j, k) float32 and bool of the grid's shape; outside of the scan 0 and False.
    """
    from scipy import ndimage

    if scan.image.shape == grid.image.shape and np.allclose(scan.affine, grid.affine):
        return scan.image, np.ones(scan.image.shape, bool)
    index = np.linalg.inv(scan.affine) @ grid.affine
    shape = grid.image.shape
    placed = (index[:3, :3], index[:3, 3])
    # beyond the outermost centres, that is within half a voxel of the edge, the edge's value holds
    image = ndimage.affine_transform(
        scan.image, *placed, output_shape=shape, order=1, mode="nearest"
    )
    inside = ndimage.affine_transform(
        np.ones(scan.image.shape, np.uint8),
        *placed,
        output_shape=shape,
        order=0,
        mode="grid-constant",
    ).astype(bool)
    image[~inside] = 0
    return image, inside


def _difference(
    scans: Sequence[Shown],
    on_common: Sequence[tuple[np.ndarray, np.ndarray]],
    first: int,
    second: int,
    common: Shown,
) -> Difference:
    (one, in_one), (other, in_other) = on_common[first], on_common[second]
    both = in_one & in_other
    image = np.where(both, other - one, np.float32(0)).astype(np.float32)
    grids = {scans[n].name for n in (first, second) if scans[n].image.shape != common.image.shape}
    note = f"on the grid of {common.name}"
    if grids:
        note += f"; {' and '.join(sorted(grids))} interpolated linearly"
    covered = float(both.mean())
    if covered < 1:
        note += f"; 0 outside of the {100 * covered:.0f} % that both scans fill"
    name = f"{scans[second].name} − {scans[first].name}"
    return Difference(name, image, common.affine, note, first, second, covered)
