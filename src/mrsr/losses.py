"""Loss terms as functions, and their table, in one file.

A term is `loss(sr, hr, context) -> scalar tensor`: the network's output and the true image, both
(batch, 1, H, W) in normalised intensities, and a context with what else a term may look at
(`lr`, `step`, frozen networks). Pixel terms ignore the context, so it may be left out. A mean over
the batch is what makes micro-batches add up: a term must be one.

Adding a loss is one function and one entry in `LOSSES`; params.yaml then gives it a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mrsr.errors import UserError


def l1(sr: Tensor, hr: Tensor, context: Any = None) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(sr, hr)


def l2(sr: Tensor, hr: Tensor, context: Any = None) -> Tensor:
    """Mean squared error, the loss of SRCNN."""
    return F.mse_loss(sr, hr)


LOSSES: dict[str, Callable[..., Tensor]] = {"l1": l1, "l2": l2}


def active(weights: dict[str, float]) -> dict[str, float]:
    """The terms that act: those of non-zero weight, in the order given.

    Raises:
        UserError: a name is not in `LOSSES`, or no term is left.
    """
    for name in weights:
        if name not in LOSSES:
            raise UserError(f"losses.{name}: no such loss; there are: {', '.join(LOSSES)}")
    terms = {name: float(weight) for name, weight in weights.items() if weight}
    if not terms:
        raise UserError("losses: every weight is zero; give at least one term, such as l1: 1")
    return terms


def weighted(
    weights: dict[str, float], sr: Tensor, hr: Tensor, context: Any = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective, and its unweighted terms by name.

    Args:
        weights: as `active` returns them. sr, hr: (batch, 1, H, W).
    """
    terms = {name: LOSSES[name](sr, hr, context) for name in weights}
    return sum(weights[name] * term for name, term in terms.items()), terms
