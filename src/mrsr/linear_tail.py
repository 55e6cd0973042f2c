"""Upsampling and output convolution as one small convolution, for inference.

Many networks end in `last(enlarge(features))`: convolutions and pixel shuffles without an
activation between them (`models.layers.Upsampler`). Together they are one linear map, and each
output pixel depends on 5x5 LR pixels of the features: one 5x5 convolution to scale**2 maps, then a
pixel shuffle. For 48 maps that is 18 times fewer multiply-adds of the tail at 2x, 22 times at 4x,
which is a fifth and a half of the network in the box.

At the image's edge the two differ: the networks fill up with zeros between their convolutions. So
the outermost pixels come from the original layers, on four narrow strips.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Upsampler

TOLERANCE = 1e-5  # of the largest output, in the check of a folded network
SCALES = (2, 3, 4)  # working the kernel out grows with scale**4: at 8x it takes minutes


class Tail(nn.Module):
    """Features (b, c, h, w) to (b, 1, scale * h, scale * w), as `last(enlarge(features))`."""

    def __init__(self, enlarge: nn.Module, last: nn.Conv2d, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.exact = nn.Sequential(enlarge, last)
        weight, bias = combined(self.exact, scale)
        self.reach = weight.shape[-1] // 2
        self.register_buffer("weight", weight.to(last.weight))
        self.register_buffer("bias", bias.to(last.weight))
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        reach, scale = self.reach, self.scale
        edge, strip = reach * scale, 2 * reach  # HR pixels to replace, LR pixels that they need
        if min(x.shape[-2:]) <= 2 * strip:
            return self.exact(x)
        sr = F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, padding=reach), scale)
        sr[..., :edge, :] = self.exact(x[..., :strip, :])[..., :edge, :]
        sr[..., -edge:, :] = self.exact(x[..., -strip:, :])[..., -edge:, :]
        sr[..., :edge] = self.exact(x[..., :strip])[..., :edge]
        sr[..., -edge:] = self.exact(x[..., -strip:])[..., -edge:]
        return sr


def combined(tail: nn.Module, scale: int) -> tuple[Tensor, Tensor]:
    """Weight (scale**2, c, k, k) and bias (scale**2,) float64 of a linear tail as one convolution.

    A row of the weight is the gradient of one output pixel with respect to the features around it.
    """
    tail = copy.deepcopy(tail).double().cpu().requires_grad_(False)
    layers = [layer for layer in tail.modules() if isinstance(layer, nn.Conv2d)]
    # the first convolution reaches its radius in LR pixels, and all later ones of 3x3 together no
    # further than the neighbouring LR pixel; `fold` checks the whole
    reach = sum(int(layer.kernel_size[0]) // 2 for layer in (layers[0], layers[-1]))
    size, phases = 2 * reach + 1, torch.arange(scale**2)
    x = torch.zeros(scale**2, layers[0].in_channels, size, size, dtype=torch.float64)
    x.requires_grad_()
    # output pixel (i, j) of the middle LR pixel, of image i * scale + j
    rows, columns = reach * scale + phases // scale, reach * scale + phases % scale
    pixels = tail(x)[phases, 0, rows, columns]
    (weight,) = torch.autograd.grad(pixels.sum(), x)
    return weight, pixels.detach()


def fold(network: Any, scale: int) -> bool:
    """Fold the tail of a network in place, where it has one that folds; whether it did.

    A small random image goes through before and after. Where the results differ the network has
    something else between these layers, and keeps them.
    """
    enlarge, last = getattr(network, "enlarge", None), getattr(network, "last", None)
    if not isinstance(enlarge, Upsampler) or not isinstance(last, nn.Conv2d):
        return False
    if scale not in SCALES:
        return False
    lr = torch.rand(1, 1, 20, 24, generator=torch.Generator().manual_seed(0)).to(last.weight)
    with torch.inference_mode():
        before = network(lr)
    network.enlarge, network.last = nn.Identity(), Tail(enlarge, last, scale)
    with torch.inference_mode():
        after = network(lr)
    if torch.allclose(after, before, rtol=0, atol=TOLERANCE * float(before.abs().max())):
        return True
    network.enlarge, network.last = enlarge, last
    return False
