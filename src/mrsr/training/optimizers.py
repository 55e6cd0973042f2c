"""Optimizers and the learning rate's schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mrsr.params.schema import Loop, Optimizer, Schedule
from mrsr.training import muon

AnyOptimizer = torch.optim.Optimizer | muon.Pair


def optimizer_for(network: nn.Module, settings: Optimizer) -> AnyOptimizer:
    """The optimizer that `optimizer` describes: name, lr, betas, weight_decay, decoupled.

    Names: adam, adamw (adam with decoupled decay), sgd (betas[0] is the momentum, decay coupled),
    rmsprop (betas[1] is its smoothing, decay coupled), muon (`training/muon.py`: the hidden
    matrices at `muon_lr`, everything else by AdamW at `lr`).
    Decoupled decay shrinks weights by lr * decay (AdamW); coupled decay is added to the gradient,
    the literal reading of "Adam with a weight decay" in section 4.1.
    """
    common: dict[str, Any] = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.name == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=settings.betas[0], **common)
    if settings.name == "muon":
        return muon.pair(network, settings)
    if settings.name == "rmsprop":
        del common["fused"]  # there is none
        return torch.optim.RMSprop(network.parameters(), alpha=settings.betas[1], **common)
    kind = torch.optim.AdamW if settings.decoupled or settings.name == "adamw" else torch.optim.Adam
    return kind(network.parameters(), betas=settings.betas, **common)


def learning_rate(step: int, steps: int, base: float, schedule: Schedule) -> float:
    """Learning rate at `step` (from 0) of `steps`: a pure function, so there is nothing to resume.

    It rises linearly for `warmup` steps; then it is `constant`, follows a `cosine` down to
    base * `floor`, or (`step`) is multiplied by `factor` every `every` steps.
    """
    warmup = schedule.warmup
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule.kind == "constant":
        return base
    if schedule.kind == "cosine":
        floor = schedule.floor
        done = (step - warmup) / max(1, steps - warmup)
        return base * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
    return base * schedule.factor ** (step // schedule.every)


def set_rate(optimizer: AnyOptimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, times the group's `factor` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


def set_scheduled_rate(optimizer: AnyOptimizer, settings: Loop, step: int) -> float:
    """Set the optimizer's rate for a step of the training, counted from 1; returns it."""
    rate = learning_rate(step - 1, settings.steps, settings.optimizer.lr, settings.schedule)
    set_rate(optimizer, rate)
    return rate
