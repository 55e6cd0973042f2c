"""Other libraries' bicubic downsampling of slices (n, H, W), as their documentation shows it.

They blur differently before they sample, so only their time is compared.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import transform
from torch import Tensor
from torch.nn import functional as F


def torch(images: Tensor, scale: int) -> Tensor:
    """torch.nn.functional.interpolate with antialias, all slices at once."""
    size = (images.shape[-2] // scale, images.shape[-1] // scale)
    return F.interpolate(images[:, None], size=size, mode="bicubic", antialias=True)[:, 0]


def skimage(images: np.ndarray, scale: int) -> np.ndarray:
    """skimage.transform.resize with order 3 and anti-aliasing, slice by slice."""
    size = (images.shape[1] // scale, images.shape[2] // scale)
    return np.stack([transform.resize(one, size, order=3, anti_aliasing=True) for one in images])


def scipy(images: np.ndarray, scale: int) -> np.ndarray:
    """scipy.ndimage.zoom with cubic splines, slice by slice; it does not blur at all."""
    return np.stack([ndimage.zoom(one, 1 / scale, order=3) for one in images])
