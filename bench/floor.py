"""How close each network's training comes to what this machine can do: `python bench/all.py floor`.

Beside the forward and backward pass of each network at its published width stands the same number
of multiply-adds as plain matrix products, in the same precision, and a copy of as many bytes as its
other operations read and write. That is the machine's measured ceiling for this work; the ratio is
the fraction of it that is reached. Above 1: what was counted as going through memory stayed in a
cache, or torch has a faster algorithm than the products (Winograd's).

Multiply-adds and bytes are counted as `mrsr plan` does (`mrsr.ops.plan.networks`): a backward pass
is twice the forward one, and no two operations are fused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from side_by_side import Row, compare
from torch import Tensor

from mrsr import compute, models
from mrsr.method import features, losses
from mrsr.ops.plan import networks
from mrsr.ops.plan.networks import Network, named
from mrsr.params.declared import model_is_guided
from mrsr.params.schema import Features

SCALE, LEARNED, FROZEN = 2, 3, 3  # passes of a trained and of a frozen network in a step
ZOO = ("srcnn", "srresnet", "vdsr", "fb_gacn", "lyu", "seran", "smore", "t2net", "swinir", "csn",
       "rcan", "rdn", "minet", "edsr")  # fmt: skip
SMALL = ("srcnn", "srresnet")
VIT = {"classes": 2, "dimensions": 2, "size": [96, 96, 96]}
SIDE = 1024  # of the matrices
# of the paper, whose experiment has them in params.yaml
TERMS = {"l1": 1e4, "vit": 1.0, "structure": 1.0, "texture": 0.9}
AUTOENCODER = {"channels": [64, 64, 32, 32], "structure_channels": 8, "texture": 256, "size": 0,
               "start": "random"}  # fmt: skip


def rows(small: bool) -> list[Row]:
    """The fraction reached by each network, and by the proposed method's step."""
    device = compute.device_for("auto")
    side, batch = (96, 32) if device.type == "cuda" else (32, 2)
    found = []
    for model in SMALL if small else ZOO:
        network = named(model, {}, SCALE, (side, side))
        found.append(_row(model, [(network, LEARNED)], _step(network, batch, device), batch, small))
    if not small:
        found.append(_proposed(side, batch, device))
    return found


def _row(
    name: str, parts: list[tuple[Network, int]], step: Callable[[], None], batch: int, small: bool
) -> Row:
    counts = [(networks.counts(network), passes * batch) for network, passes in parts]
    products = sum(found.multiply_adds * times for found, times in counts)
    moved = sum(found.moved_else * times for found, times in counts)
    device = compute.device_for("auto")
    kind = torch.bfloat16 if compute.has_bf16(device) else torch.float32
    size = torch.empty((), dtype=kind).element_size()
    sides = "x".join(map(str, parts[0][0][3]))
    return compare(
        f"{name}, {batch} x {sides}: {products / 1e9:.3g} G multiply-adds, "
        f"{moved * size / 1e6:.3g} MB of other operations",
        ("forward and backward", step),
        ("as many multiply-adds in matrix products and bytes in a copy",
         _ceiling(products, moved, device, kind)),
        rounds=1 if small else 5,
    )  # fmt: skip


def _ceiling(
    products: float, moved: float, device: torch.device, kind: torch.dtype
) -> Callable[[], None]:
    """Matrix products with so many multiply-adds, and copies that move so many elements."""
    left, right = (torch.rand(SIDE, SIDE, device=device, dtype=kind) for _ in range(2))
    whole, rest = divmod(products, SIDE**3)
    rows = max(1, round(rest / SIDE**2))
    chunk = max(1, min(round(moved / 2), 2**24))  # a copy reads and writes
    source = torch.zeros(chunk, device=device, dtype=kind)
    target = torch.zeros_like(source)

    def work() -> None:
        for _ in range(int(whole)):
            torch.mm(left, right)
        torch.mm(left[:rows], right)
        for _ in range(max(1, round(moved / 2 / chunk))):
            target.copy_(source)

    return work


def _images(network: Network, batch: int, device: torch.device) -> list[Tensor]:
    model, _, scale, sides = network
    lr, hr = [side // scale for side in sides], list(sides)
    shapes = [lr, hr] if model_is_guided(model) else [lr]
    layout = torch.channels_last
    return [
        torch.rand(batch, 1, *shape, device=device).to(memory_format=layout) for shape in shapes
    ]


def _built(network: Network, device: torch.device) -> torch.nn.Module:
    torch.manual_seed(0)
    built: torch.nn.Module = networks.build(network).to(device)
    return built.to(memory_format=torch.channels_last)


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    bf16 = compute.has_bf16(device)
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def _step(network: Network, batch: int, device: torch.device) -> Callable[[], None]:
    """Forward, loss and backward of a network on noise."""
    built, images = _built(network, device), _images(network, batch, device)

    def step() -> None:
        built.zero_grad(set_to_none=True)
        with _autocast(device):
            sr, _ = models.outputs(built(*images))
        sr.float().square().mean().backward()

    return step


def _proposed(side: int, batch: int, device: torch.device) -> Row:
    """The proposed method's step without its discriminator: random weights cost the same."""
    generator = named("srresnet", {"norm": "none", "skip": "bicubic"}, SCALE, (side, side))
    parts = [(generator, LEARNED), (named("unetr", VIT, 1, (side, side)), FROZEN),
             (named("autoencoder", AUTOENCODER, 1, (side, side)), FROZEN)]  # fmt: skip
    built, images = _built(generator, device), _images(generator, batch, device)
    frozen = features.Frozen(
        Features(),
        {
            name: _built(network, device).eval().requires_grad_(False)
            for name, (network, _) in zip(("vit", "autoencoder"), parts[1:], strict=True)
        },
    )
    hr = torch.rand(batch, 1, side, side, device=device)

    def step() -> None:
        built.zero_grad(set_to_none=True)
        with _autocast(device):
            sr, _ = models.outputs(built(*images))
        sr = sr.to(hr.dtype)
        codes = features.pair(frozen, TERMS, images[0], sr, hr)
        total, _ = losses.weighted(TERMS, sr, hr, losses.Context(lr=images[0], codes=codes))
        total.backward()

    return _row("proposed without its discriminator", parts, step, batch, small=False)
