"""Loss terms as functions, and their table, in one file.

A term is `loss(sr, hr, context) -> scalar tensor`: the network's output and the true image, both
(batch, 1, H, W) in normalised intensities, and a context with what else a term may look at. Pixel
terms ignore the context, so it may be left out. A mean over the batch is what makes micro-batches
add up: a term must be one.

Adding a loss is one function and one entry in `LOSSES`; params.yaml then gives it a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.method import distances, features
from mrsr.method.adversarial import frozen, generator_loss

Part = TypeVar("Part")


@dataclass(kw_only=True)
class Context:
    """What a term may use besides the output and the true image."""

    lr: Tensor | None = None  # (batch, 1, h, w)
    clean: Tensor | None = None  # the LR image before any undersampling
    guide: Tensor | None = None  # the second contrast, (batch, 1, H, W)
    side_outputs: dict[str, Tensor] = field(default_factory=dict)  # of joint and guided networks
    codes: features.Codes | None = None  # of the frozen networks, for output and target
    discriminator: nn.Module | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext


def _given(part: Part | None) -> Part:
    """A part of the context that a term cannot do without."""
    if part is None:
        raise ValueError("the context lacks what this loss term looks at")
    return part


def l1(sr: Tensor, hr: Tensor, context: Context | None = None) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(sr, hr)


def l2(sr: Tensor, hr: Tensor, context: Context | None = None) -> Tensor:
    """Mean squared error, the loss of SRCNN."""
    return F.mse_loss(sr, hr)


def adversarial(sr: Tensor, hr: Tensor, context: Context) -> Tensor:
    """Mean of -log D(sr) (Eq. 21), through logits; the discriminator gets no gradient from it."""
    network = _given(context.discriminator)
    with frozen(network), context.autocast():
        logits = network(sr)
    return generator_loss(logits)


def vit(sr: Tensor, hr: Tensor, context: Context) -> Tensor:
    """Eq. 8: 1 - cosine similarity of the vision transformer's features of output and target."""
    codes = _given(context.codes)
    return features.token_distance(codes.output["vit"], codes.target["vit"], codes.reduce)


def structure(sr: Tensor, hr: Tensor, context: Context) -> Tensor:
    """Eq. 7, first line: 1 - cosine similarity of the structure codes, each taken as one vector."""
    codes = _given(context.codes)
    return distances.cosine(codes.output["structure"], codes.target["structure"]).mean()


def texture(sr: Tensor, hr: Tensor, context: Context) -> Tensor:
    """Eq. 7, second line: 1 - cosine similarity of the texture codes."""
    codes = _given(context.codes)
    return distances.cosine(codes.output["texture"], codes.target["texture"]).mean()


def reconstruction(sr: Tensor, hr: Tensor, context: Context) -> Tensor:
    """Mean absolute error of the LR image that a joint network restores as a side output."""
    return F.l1_loss(_side_output("reconstruction", context), _given(context.clean))


def guide(sr: Tensor, hr: Tensor, context: Context) -> Tensor:
    """Mean absolute error of the guide that a guided network restores as a side output."""
    return F.l1_loss(_side_output("guide", context), _given(context.guide))


def _side_output(name: str, context: Context) -> Tensor:
    if name not in context.side_outputs:
        raise UserError(f"losses.{name}: the model has no such side output; remove this loss")
    return context.side_outputs[name].to(_given(context.lr).dtype)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": l1,
    "l2": l2,
    "reconstruction": reconstruction,
    "guide": guide,
    "adversarial": adversarial,
    "vit": vit,
    "structure": structure,
    "texture": texture,
}
# these terms use another network; the others compare pixels
LEARNED = ("adversarial", "vit", "structure", "texture")
# these compare side outputs, which a network returns in training mode only
SIDE_OUTPUTS = ("reconstruction", "guide")


def active(weights: dict[str, float]) -> dict[str, float]:
    """The terms of non-zero weight, in the given order.

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
    weights: dict[str, float], sr: Tensor, hr: Tensor, context: Context | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective, and its unweighted terms by name.

    Args:
        weights: as `active` returns them, or a part of it. sr, hr: (batch, 1, H, W).
    """
    terms = {name: LOSSES[name](sr, hr, context) for name in weights}
    total = sum((weights[name] * term for name, term in terms.items()), start=sr.new_zeros(()))
    return total, terms


def pixel(weights: dict[str, float]) -> dict[str, float]:
    """The terms that compare pixels, which are the terms of a warm-up."""
    return {name: weight for name, weight in weights.items() if name not in LEARNED}


def warmup(weights: dict[str, float], steps: int, total: int) -> int:
    """Steps, of those asked for, in which pixel terms act alone; 0 where no other term acts.

    total: steps of the training.

    Raises:
        UserError: there is no pixel term, or the other terms would never act.
    """
    if not learned(weights):
        return 0
    if steps >= total:
        raise UserError(
            f"losses {', '.join(learned(weights))} would never act: adversarial.warmup is {steps}, "
            f"and the training has {total} steps; lower the warm-up, or leave these losses out"
        )
    if steps and not pixel(weights):
        raise UserError("adversarial.warmup needs a pixel loss, such as l1: 1; or set it to 0")
    return steps


def validated(weights: dict[str, float]) -> dict[str, float]:
    """The terms that exist in evaluation mode: all except those of side outputs."""
    return {name: weight for name, weight in weights.items() if name not in SIDE_OUTPUTS}


def learned(weights: dict[str, float]) -> dict[str, float]:
    """The terms that use another network."""
    return {name: weight for name, weight in weights.items() if name in LEARNED}
