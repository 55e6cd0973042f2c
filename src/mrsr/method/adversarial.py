"""Adversarial losses on logits, for the super-resolution and the auto-encoder trainings.

The published losses are -log D(G(x)) for the generator (Eq. 4, 5, 21) and the usual cross-entropy
for the discriminator (Goodfellow et al., NeurIPS 2014; not in the paper). With D = sigmoid(logit),
-log D = softplus(-logit): the same value without the logarithm of a number that rounds to zero.

R1 (Mescheder, Geiger, Nowozin, ICML 2018) is an optional penalty on the discriminator's gradient
at real images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mrsr.models.layers import full

TERMS = ("discriminator", "r1", "accuracy_real", "accuracy_fake")


def generator_loss(fake: Tensor) -> Tensor:
    """Mean of -log D(fake). fake: logits, any shape."""
    return F.softplus(-full(fake)).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Mean of -log D(real) plus mean of -log(1 - D(fake)); 2 log 2 when undecided. Logits."""
    return F.softplus(-full(real)).mean() + F.softplus(full(fake)).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean over images of the squared norm of d logit / d image.

    logits: (batch, 1) of `images` (batch, 1, H, W), which required a gradient beforehand. With
    batch norm an image's logit depends on its neighbours, so their share is included.
    """
    (gradient,) = torch.autograd.grad(full(logits).sum(), images, create_graph=True)
    return full(gradient).square().flatten(1).sum(dim=1).mean()


def accuracy(logits: Tensor, *, real: bool) -> Tensor:
    """Share of images that the discriminator classifies correctly; 0.5 means guessing."""
    return ((logits > 0) if real else (logits <= 0)).float().mean()


def discriminator_terms(
    discriminator: nn.Module, real: Tensor, fake: Tensor, r1: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's objective, and its unweighted parts by the names in `TERMS`.

    Args:
        real, fake: images (batch, 1, H, W), batches may differ; the fake ones' graph is not used.
        r1: weight; the objective gets r1 / 2 times the penalty, which is not computed for 0.
    """
    real, fake = real.detach(), fake.detach()
    if r1:
        real = real.requires_grad_(True)
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    terms = {"discriminator": discriminator_loss(real_logits, fake_logits)}
    total = terms["discriminator"]
    terms["r1"] = r1_penalty(real_logits, real) if r1 else torch.zeros_like(total)
    if r1:
        total = total + 0.5 * r1 * terms["r1"]
    terms["accuracy_real"] = accuracy(real_logits, real=True)
    terms["accuracy_fake"] = accuracy(fake_logits, real=False)
    return total, terms


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through `network` to its input without changing the network.

    Its weights get no gradient. Batch norm uses the statistics of the batch, as in any training
    step; its running statistics change in the network's own step only.
    """
    required = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    tracked = [(norm, norm.track_running_stats) for norm in _batch_norms(network)]
    for parameter, _ in required:
        parameter.requires_grad_(False)
    for norm, _ in tracked:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for parameter, before in required:
            parameter.requires_grad_(before)
        for norm, before in tracked:
            norm.track_running_stats = before


@contextlib.contextmanager
def on_batch_statistics(network: nn.Module) -> Iterator[None]:
    """For validation: batch norm uses the statistics of the batch and keeps its running ones.

    Values then compare with those of a training step; with running statistics, which mix true and
    generated images, they would not. One process can do this alone: nothing is synchronised.
    """
    norms = [(norm, norm.running_mean, norm.running_var) for norm in _batch_norms(network)]
    before = network.training
    network.eval()
    for norm, _, _ in norms:  # in evaluation mode, batch norm without them uses the batch's
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, mean, variance in norms:
            norm.running_mean, norm.running_var = mean, variance
        network.train(before)
