"""Refuses loss terms and weights that are not finite, or explode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mrsr.errors import Diverged

TOTAL = "total"  # the weighted sum, beside the terms of a step


class Watch:
    """Loss terms of the steps since the last look; refuses NaN and explosion.

    The bound `explode` is for unweighted terms. The total is not held to it: a weight of 10,000
    alone would pass it. The total must be finite all the same.

    A CPU looks at every step. A GPU would wait for each number, so its terms are kept there and
    looked at together, before anything is logged, validated or saved.
    """

    def __init__(self, names: list[str], explode: float) -> None:
        self.names = names
        self.explode = explode
        self.unseen: list[tuple[int, Tensor]] = []
        self.window: list[list[float]] = []

    def add(self, step: int, terms: Tensor) -> None:
        """Keep the terms (n,) of a step (counted from 1)."""
        self.unseen.append((step, terms))
        if terms.device.type == "cpu":
            self.look()

    def look(self) -> None:
        """Raise `Diverged` with step and term if a value since the last look is bad."""
        if not self.unseen:
            return
        rows = torch.stack([terms for _, terms in self.unseen]).tolist()
        for (step, _), row in zip(self.unseen, rows, strict=True):
            for name, value in zip(self.names, row, strict=True):
                finite, bound = math.isfinite(value), math.inf if name == TOTAL else self.explode
                if not finite or abs(value) > bound:
                    what = "exploded" if finite else "is not finite"
                    raise Diverged(
                        f"step {step}: loss term '{name}' {what} ({value:g}); nothing was saved "
                        "from there on; lower optimizer.lr or set clip_gradient"
                    )
        self.unseen.clear()
        self.window += rows

    def means(self) -> dict[str, float]:
        """Mean of each term since the last call, unweighted."""
        self.look()
        columns = zip(*self.window, strict=True)
        result = {
            name: math.fsum(column) / len(column)
            for name, column in zip(self.names, columns, strict=False)
        }
        self.window = []
        return result


def check_weights(network: nn.Module, step: int) -> None:
    """Refuse non-finite weights, which a bad gradient can leave although the loss is finite."""
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Diverged(
                f"step {step}: weights of '{name}' are not finite; nothing was saved from there "
                "on; lower optimizer.lr or set clip_gradient"
            )
