"""Slices too large for memory, in tiles that overlap.

A network of convolutions sees a limited surrounding of each pixel. Tiles that overlap by that much,
of which only the inner part is kept, give the image that the whole slice gives. A network that
looks at the whole slice at once (attention over all pixels, an average over the image) or at a grid
of windows is another one on tiles: its result differs.

How far a network sees is not written down anywhere: `overlap` adds up its convolutions, and tries
on a narrow strip whether anything from further away gets through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mrsr.linear_tail import Tail

BICUBIC = 2  # LR pixels that the skip's interpolation reaches
INEXACT = 32  # LR pixels of overlap for networks that no overlap makes exact
LEAST = 64  # LR pixels, of a tile's side
BUDGET = 1 << 30  # bytes of images inside a network, from where on tiles are cut if they are exact
COPIES = 6  # of the largest layer's output that exist at a time

# modules that treat every place alike and see no further than their kernel
LOCAL = (
    nn.Conv2d, nn.BatchNorm2d, nn.PixelShuffle, nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU,
    nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Dropout,
)  # fmt: skip


def overlap(network: nn.Module, scale: int, guided: bool = False) -> int | None:
    """LR pixels that tiles must overlap by on each side to give the whole slice's result.

    At most: each convolution counts as if it were at LR and in one chain with all others. None if
    no overlap does, or if that is not known.
    """
    reach = BICUBIC
    for layer in network.modules():
        if type(layer).__module__.startswith("torch.nn"):
            container = isinstance(layer, nn.Sequential | nn.ModuleList | nn.ModuleDict)
            if not container and not isinstance(layer, LOCAL):
                return None
        if isinstance(layer, nn.Conv2d):
            if set(layer.stride) != {1}:
                return None  # a coarser grid, on which a tile may begin anywhere
            reach += max(
                int(k) // 2 * int(d) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)
            )
        if isinstance(layer, Tail):
            reach += layer.reach
    return reach if _local(network, scale, reach, guided) else None


@torch.inference_mode()
def _local(network: nn.Module, scale: int, reach: int, guided: bool) -> bool:
    """Whether the output at one end of a strip is the same whatever lies at the other end."""
    multiple = int(getattr(network, "multiple", 1))
    height, width = (-(-size // multiple) * multiple for size in (12, reach + 12))
    like = next(network.parameters(), torch.zeros(()))
    seed = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 1, height, width, generator=seed).to(like)
    guide = [torch.rand(1, 1, height * scale, width * scale, generator=seed).to(like)]
    changed = lr.clone()
    changed[..., reach + 4 :] = 10 - lr[..., reach + 4 :]
    one, two = (network(image, *guide[: int(guided)])[..., : 4 * scale] for image in (lr, changed))
    # the same place in images of the same shape: equal to the bit, but for the order of sums
    return torch.allclose(one, two, rtol=0, atol=1e-6 * float(one.abs().max()))


@torch.inference_mode()
def bytes_per_pixel(network: nn.Module, scale: int, guided: bool = False) -> float:
    """An estimate of the memory that a forward pass takes for each LR pixel."""
    multiple = int(getattr(network, "multiple", 1))
    side = -(-32 // multiple) * multiple
    largest = 4.0 * scale**2

    def measure(module: nn.Module, given: object, out: object) -> None:
        nonlocal largest
        if isinstance(out, Tensor):
            largest = max(largest, out.numel() * out.element_size() / side**2)

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    try:
        like = next(network.parameters(), torch.zeros(()))
        guide = [torch.zeros(1, 1, side * scale, side * scale).to(like)] * guided
        network(torch.zeros(1, 1, side, side).to(like), *guide)
    finally:
        for hook in hooks:
            hook.remove()
    return COPIES * largest


def forward(
    run: Callable[..., Tensor],
    lr: Tensor,
    scale: int,
    *guide: Tensor,
    tile: int,
    overlap: int,
    multiple: int = 1,
) -> Tensor:
    """(n, 1, h, w) -> (n, 1, scale * h, scale * w), in tiles of at most `tile` LR pixels a side.

    run: the network, for images of any size that divides by `multiple`. tile: without the overlap.
    """
    tile, overlap = (-(-size // multiple) * multiple for size in (tile, overlap))
    height, width = lr.shape[-2:]
    sr = lr.new_empty(lr.shape[0], 1, height * scale, width * scale)
    for top, rows, bottom in _pieces(height, tile, overlap):
        for left, columns, right in _pieces(width, tile, overlap):
            there = (slice(top, bottom), slice(left, right))
            seen = [image[(..., *_times(there, factor))]
                    for image, factor in ((lr, 1), *((one, scale) for one in guide))]  # fmt: skip
            part = run(*seen)
            inner = (_moved(rows, top), _moved(columns, left))
            sr[(..., *_times((rows, columns), scale))] = part[(..., *_times(inner, scale))]
    return sr


def _pieces(size: int, tile: int, overlap: int) -> Iterator[tuple[int, slice, int]]:
    """(start, the part to keep, end) of each piece of an axis."""
    for begin in range(0, size, tile):
        end = min(begin + tile, size)
        yield max(begin - overlap, 0), slice(begin, end), min(end + overlap, size)


def _moved(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


def _times(parts: tuple[slice, slice], factor: int) -> tuple[slice, slice]:
    rows, columns = (slice(part.start * factor, part.stop * factor) for part in parts)
    return rows, columns
