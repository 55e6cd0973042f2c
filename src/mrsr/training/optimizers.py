"""Optimizers and the learning rate's schedule."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import nn

from mrsr.errors import UserError


def optimizer_for(network: nn.Module, settings: SimpleNamespace) -> torch.optim.Optimizer:
    """The optimizer that `optimizer` describes: name, lr, betas, weight_decay, decoupled.

    Names: adam, adamw (adam with decoupled decay), sgd (betas[0] is the momentum, decay coupled),
    rmsprop (betas[1] is its smoothing, decay coupled).
    Decoupled decay shrinks weights by lr * decay (AdamW); coupled decay is added to the gradient,
    the literal reading of "Adam with a weight decay" in section 4.1.
    """
    common = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.name == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=settings.betas[0], **common)
    if settings.name == "rmsprop":
        del common["fused"]  # there is none
        return torch.optim.RMSprop(network.parameters(), alpha=settings.betas[1], **common)
    if settings.name not in ("adam", "adamw"):
        raise UserError(
            f"optimizer.name must be adam, adamw, sgd or rmsprop, not '{settings.name}'"
        )
    kind = torch.optim.AdamW if settings.decoupled or settings.name == "adamw" else torch.optim.Adam
    return kind(network.parameters(), betas=tuple(settings.betas), **common)


def learning_rate(step: int, steps: int, base: float, schedule: SimpleNamespace) -> float:
    """Learning rate of `step` (counted from 0) of `steps`: a pure function, so nothing to resume.

    `warmup` steps rise linearly; then `constant`; or `cosine` down to base * `floor`; or `step`:
    times `factor` every `every` steps.
    """
    warmup = getattr(schedule, "warmup", 0)
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule.kind == "constant":
        return base
    if schedule.kind == "cosine":
        floor = getattr(schedule, "floor", 0.0)
        done = (step - warmup) / max(1, steps - warmup)
        return base * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
    if schedule.kind == "step":
        every = getattr(schedule, "every", 0)
        if every < 1:
            raise UserError("schedule.every must be 1 or more for a step schedule")
        return base * getattr(schedule, "factor", 0.5) ** (step // every)
    raise UserError(f"schedule.kind must be cosine, constant or step, not '{schedule.kind}'")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
