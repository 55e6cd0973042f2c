"""Slices as people look at them: superior or anterior up, the patient's right at the left."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrsr.slices.store import StoredVolume


def geometry(volume: StoredVolume) -> tuple[tuple[bool, bool, bool], dict[str, Any]]:
    """Whether to transpose, and to flip rows and columns; the pixel's mm and the sides' letters.

    mm: height and width of a pixel. top, left: R, L, A, P, S or I, empty where it is not known.
    """
    import nibabel

    codes = nibabel.orientations.aff2axcodes(volume.affine)
    (row, column), mm = codes[1:], list(volume.voxel_size[1:])
    # up: superior where a side of the slice is, else anterior
    up = "SI" if {row, column} & {"S", "I"} else "AP"
    turn = column in tuple(up)
    if turn:
        row, column, mm = column, row, mm[::-1]
    flips = row in ("S", "A"), column in ("R", "A")
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    top = row if flips[0] else opposite.get(row or "", "")
    left = column if flips[1] else opposite.get(column or "", "")
    return (turn, *flips), {"mm": mm, "top": top, "left": left}


def turned(image: np.ndarray, volume: StoredVolume) -> np.ndarray:
    """An image (h, w) as people look at it, float32."""
    turn, rows, columns = geometry(volume)[0]
    image = image.T if turn else image
    image = image[::-1] if rows else image
    return np.ascontiguousarray(image[:, ::-1] if columns else image, dtype=np.float32)
