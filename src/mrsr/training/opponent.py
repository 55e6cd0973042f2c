"""The generator's opponent: the discriminator of Fig. 6b with its optimizer (Eq. 21).

Settings are the table `adversarial` (`DEFAULTS`), none of it printed in the paper but the figure's
64 base maps; `clip_gradient` is the training's:

- `base`, `pool`, `norm`: of `models/discriminator.py`; 64, no pooling, batch norm are as drawn.
- `lr`, `betas`, `weight_decay`, `decoupled`: of its Adam (`loop.optimizer_for`), which shares
  nothing with the generator's: section 4.1 does not say that its decay of 0.1 is meant for both.
- `schedule`: of its learning rate (`loop.learning_rate`), counted in steps of the training; null
  follows the generator's, so that the two rates keep their ratio.
- `r1`: weight of the penalty on its gradient at true images, 0 without.
- `updates`: of the discriminator per step of the generator, on the images of that step.
- `warmup`: steps in which pixel terms act alone and the discriminator is not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from mrsr import compute
from mrsr.errors import UserError
from mrsr.method import discriminator
from mrsr.method.adversarial import TERMS, discriminator_terms
from mrsr.params.settings import namespace
from mrsr.training import optimizers

DEFAULTS: dict[str, Any] = {
    "base": 64,
    "pool": True,
    "norm": "batch",
    "lr": 1e-4,
    "betas": [0.9, 0.999],
    "weight_decay": 0.0,
    "decoupled": True,
    "schedule": None,
    "r1": 0.0,
    "updates": 1,
    "warmup": 0,
}
DOWN = 16  # pixels of an image to one of the discriminator's last map


@dataclass(frozen=True)
class Opponent:
    """`settings` is the table `adversarial`, complete."""

    discriminator: nn.Module
    optimizer: torch.optim.Optimizer
    settings: SimpleNamespace


def build(
    job: SimpleNamespace, settings: SimpleNamespace, machine: compute.Machine, validated: int = 0
) -> Opponent:
    """The opponent of a training.

    Args:
        job: the training's settings. settings: the table `adversarial`, complete.
        validated: images that the discriminator sees at once in validation; 0 if it sees none.

    Raises:
        UserError: an option is unknown, or batch norm would see a single number.
    """
    images = job.batch // machine.world
    smallest = images % (job.micro_batch or images) or min(job.micro_batch or images, images)
    if settings.norm == "batch" and 1 in (smallest, validated) and 0 < job.patch <= DOWN:
        key = "micro_batch" if smallest == 1 else "features.validation_patches"
        raise UserError(
            f"adversarial.norm batch needs more than one image of {job.patch} pixels at a time; "
            f"set a larger patch or {key}, or norm: none"
        )
    if settings.updates < 1 or settings.lr <= 0 or settings.r1 < 0 or settings.weight_decay < 0:
        raise UserError(
            "adversarial: updates must be 1 or more, lr above 0, r1 and weight_decay 0 or more"
        )
    options = {"base": settings.base, "pool": settings.pool, "norm": settings.norm}
    network = discriminator.build(job.scale, **options, size=job.patch)
    network = compute.synchronised(machine.place(network), machine)
    described = SimpleNamespace(name="adam", **vars(settings))
    opponent = Opponent(network, optimizers.optimizer_for(network, described), settings)
    set_rate(opponent, job, job.steps)  # a wrong schedule is told now, not after the warm-up
    return opponent


def set_rate(opponent: Opponent, job: SimpleNamespace, step: int) -> None:
    """Give the discriminator its learning rate of a step (counted from 1) of the training."""
    own = opponent.settings.schedule
    schedule = job.schedule if own is None else namespace(own)
    rate = optimizers.learning_rate(step - 1, job.steps, opponent.settings.lr, schedule)
    optimizers.set_rate(opponent.optimizer, rate)


def update(
    opponent: Opponent, real: Tensor, fake: Tensor, job: SimpleNamespace, machine: compute.Machine
) -> Tensor:
    """One step of the discriminator on true and generated images, (batch, 1, H, W) each.

    job: the training's settings, for its `micro_batch` and `clip_gradient`.

    Returns:
        The terms named in `TERMS`, before the step, averaged over the processes.
    """
    network = opponent.discriminator
    opponent.optimizer.zero_grad()
    scores = torch.zeros(len(TERMS), dtype=machine.dtype, device=machine.device)
    for fake_part, real_part, portion in compute.micro_batches(fake, real, job.micro_batch):
        with machine.autocast():
            total, terms = discriminator_terms(network, real_part, fake_part, opponent.settings.r1)
        (total * portion).backward()
        scores += torch.stack(list(terms.values())).detach() * portion
    scores = compute.average(network, scores, machine)
    if job.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), job.clip_gradient)
    opponent.optimizer.step()
    return scores
