"""The network of the package on whole slices, 2x to 512x512: `python bench/all.py inference`.

Against the plain way (one thread, eight slices at a time, as `mrsr enhance` did), against
the unfolded network the same way, and against the processor's own matrix product: that row's ratio
is the rate reached / the rate of a product of two 2048x2048 matrices, in multiply-adds that the
network as it was trained has. Folding does the same with fewer of them, so the ratio may pass 1;
the row after it counts those that are really done.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import torch
from side_by_side import Row, compare
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mrsr import checkpoint, inference, linear_tail
from mrsr.scan import boxed

SCALE = 2


def rows(small: bool) -> list[Row]:
    """Slices of 256x256, or of 64x64 in seconds."""
    size, slices, rounds = (48, 2, 2) if small else (256, 8, 5)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = checkpoint.network(boxed.path(SCALE), device)
    folded = copy.deepcopy(trained)
    linear_tail.fold(folded, SCALE)
    networks: list[Any] = [trained, folded]
    for network in networks:
        network.to(memory_format=torch.channels_last)
    image = np.random.default_rng(0).random((slices, size, size)).astype(np.float32)
    threads = torch.get_num_threads()

    def apply(network: nn.Module, batch: int = 0) -> object:
        return inference.apply(network, image, SCALE, device=device, batch=batch)

    def one_thread() -> object:
        torch.set_num_threads(1)
        try:
            return apply(trained, min(8, slices))
        finally:
            torch.set_num_threads(threads)

    name = f"{slices} slices of {size}x{size} to {SCALE * size}x{SCALE * size}, {device.type}"
    ours = (f"mrsr enhance's way, {threads} threads", lambda: apply(folded))
    compared = [
        compare(name, ours, ("one thread, eight at a time, not folded", one_thread),
                target=2.5, rounds=rounds),
        compare(name, ours, ("not folded", lambda: apply(trained)), rounds=rounds),
    ]  # fmt: skip
    return compared + against_matmul(name, ours, networks, image, device, small)


def against_matmul(
    name: str, ours: Any, networks: list[nn.Module], image: np.ndarray, device: torch.device,
    small: bool,
) -> list[Row]:  # fmt: skip
    """Rates as ratios: the time that products of as many multiply-adds take / ours."""
    side = 512 if small else 2048
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    one = torch.zeros(1, 1, *image.shape[1:], device=device)
    row = compare(name, ours, ("matrix product", lambda: a @ b), rounds=2 if small else 5)
    found = []
    for network, what, target in zip(
        networks, ("of the trained network", "really done"), (0.85, None), strict=True
    ):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(one)
        times = counter.get_total_flops() * len(image) / (2 * side**3)
        found.append(
            dataclasses.replace(
                row, other=f"matrix products of as many multiply-adds, {what}", target=target,
                **{key: getattr(row, key) * times
                   for key in ("ratio", "low", "high", "other_seconds", "other_processor")},
            )
        )  # fmt: skip
    return found
