"""The degradation of HR slices to LR beside other libraries' bicubic downsampling."""

from __future__ import annotations

import torch
from peers import bicubic
from side_by_side import Row, compare

from mrsr.resampling import degrade


def rows(small: bool) -> list[Row]:
    """Whole slices at 2x and 4x, one thread."""
    images = torch.rand(4 if small else 48, 240, 240)
    array = images.numpy()
    found = []
    for scale in (2, 4):
        what = f"{len(images)} slices of 240x240, {scale}x smaller"
        ours = ("mrsr", lambda scale=scale: degrade(images, scale, "bicubic"))
        for name, peer, given in (
            ("torch, antialias", bicubic.torch, images),
            ("scikit-image, anti_aliasing", bicubic.skimage, array),
            ("scipy.ndimage.zoom", bicubic.scipy, array),
        ):
            other = (name, lambda peer=peer, given=given, scale=scale: peer(given, scale))
            found.append(compare(what, ours, other, threads=1))
    return found
