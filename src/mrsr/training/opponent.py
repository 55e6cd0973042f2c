"""The discriminator of Fig. 6b with its optimizer (Eq. 21).

Settings: `schema.Adversarial`. It has its own Adam, separate from the generator's: section 4.1 does
not say that the decay of 0.1 is meant for both. `clip_gradient` is the training's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrsr import compute
from mrsr.errors import UserError
from mrsr.method import discriminator
from mrsr.method.adversarial import TERMS, discriminator_terms, frozen
from mrsr.params.jobs import Autoencoder, SuperResolution
from mrsr.params.schema import Adversarial, Optimizer
from mrsr.training import optimizers

DOWN = 16  # pixels of an image to one of the discriminator's last map


@dataclass(frozen=True)
class Opponent:
    """`settings` is the table `adversarial`, complete."""

    discriminator: nn.Module
    optimizer: optimizers.AnyOptimizer
    settings: Adversarial


def build(
    job: SuperResolution | Autoencoder,
    settings: Adversarial,
    machine: compute.Machine,
    validated: int = 0,
) -> Opponent:
    """The opponent of a training.

    Args:
        job: the training's settings. settings: the table `adversarial`, complete.
        validated: images per batch of the discriminator in validation; 0 if there are none.

    Raises:
        UserError: an option is unknown, or batch norm would get a single number.
    """
    images = job.batch // machine.world
    smallest = images % (job.micro_batch or images) or min(job.micro_batch or images, images)
    if settings.norm == "batch" and 1 in (smallest, validated) and 0 < job.patch <= DOWN:
        key = "micro_batch" if smallest == 1 else "features.validation_patches"
        raise UserError(
            f"adversarial.norm batch needs more than one image of {job.patch} pixels at a time; "
            f"set a larger patch or {key}, or norm: none"
        )
    network = discriminator.build(
        job.scale, base=settings.base, pool=settings.pool, norm=settings.norm, size=job.patch
    )
    network = compute.synchronised(machine.place(network), machine)
    adam = Optimizer(
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        decoupled=settings.decoupled,
    )
    return Opponent(network, optimizers.optimizer_for(network, adam), settings)


def judge(
    discriminator: nn.Module, machine: compute.Machine, crop: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Images to logits; gradients reach the images and not the discriminator's weights."""

    def logits(images: Tensor) -> Tensor:
        with frozen(discriminator), machine.autocast():
            return discriminator(crop(images))

    return logits


def update(
    opponent: Opponent,
    step: int,
    real: Tensor,
    fake: Tensor,
    job: SuperResolution | Autoencoder,
    machine: compute.Machine,
) -> Tensor:
    """The discriminator's updates in one step, counted from 1, of the training.

    real, fake: true and generated images, (batch, 1, H, W) each. job: the training's settings, for
    its `schedule`, `steps`, `micro_batch` and `clip_gradient`.

    Returns:
        The terms named in `TERMS`, before the last update, averaged over the processes.
    """
    schedule = opponent.settings.schedule or job.schedule
    rate = optimizers.learning_rate(step - 1, job.steps, opponent.settings.lr, schedule)
    optimizers.set_rate(opponent.optimizer, rate)
    scores = torch.zeros(len(TERMS), dtype=machine.dtype, device=machine.device)
    for _ in range(opponent.settings.updates):
        scores = _update(opponent, real, fake, job, machine)
    return scores


def _update(
    opponent: Opponent,
    real: Tensor,
    fake: Tensor,
    job: SuperResolution | Autoencoder,
    machine: compute.Machine,
) -> Tensor:
    network = opponent.discriminator
    opponent.optimizer.zero_grad()
    scores = torch.zeros(len(TERMS), dtype=machine.dtype, device=machine.device)
    for fake_part, real_part, portion, *_ in compute.micro_batches(fake, real, job.micro_batch):
        with machine.autocast():
            total, terms = discriminator_terms(network, real_part, fake_part, opponent.settings.r1)
        (total * portion).backward()
        scores += torch.stack(list(terms.values())).detach() * portion
    scores = compute.average(network, scores, machine)
    if job.clip_gradient:
        nn.utils.clip_grad_norm_(network.parameters(), job.clip_gradient)
    opponent.optimizer.step()
    return scores
