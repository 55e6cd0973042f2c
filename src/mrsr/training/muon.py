"""Muon for the hidden matrices of a network, AdamW for everything else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a
matrix by the nearest orthogonal matrix, so that a step moves all directions alike. A convolution
(out, in, k, k) counts as the matrix (out, in * k * k).

torch.optim.Muon has the same update. It takes only parameters with two dimensions and iterates in
bfloat16, which a CPU without bf16 instructions emulates: 6 ms for a matrix of 48 x 432, 1 ms in
float32 (measured on one core of an AMD EPYC of the Milan generation). A test compares the two.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from mrsr.params.schema import Optimizer

MOMENTUM = 0.95  # Jordan et al.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, by the same
ITERATIONS = 5


def orthogonalised(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> n matrices with the same singular vectors and singular values near 1.

    Five Newton-Schulz iterations in float32 or float64. They are tuned for speed and stop between
    about 0.7 and 1.2 instead of at 1. Zero stays zero.
    """
    x = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for weights (out, ...) of any rank.

    A step changes each entry by about 0.2 * lr (root mean square), whatever the matrix's shape, so
    that rates compare with Adam's (Liu et al. 2025, arXiv:2502.16982): `match_rms_adamw` in torch.
    """

    def __init__(self, weights: list[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every weight that has a gradient. closure: computes the loss again, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    key = weight.flatten(1).shape, weight.dtype
                    alike.setdefault(key, []).append(weight)
            for weights in alike.values():
                self._step(weights, group["lr"], group["weight_decay"])
        return loss

    def _step(self, weights: list[Tensor], lr: float, weight_decay: float) -> None:
        """Update weights that are matrices of one shape, all at once: GPU calls have a price."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        updates = orthogonalised(torch.stack([matrix.flatten(1) for matrix in ahead]))
        length = 0.2 * math.sqrt(max(updates.shape[1:]))
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        shaped = [
            update.reshape(weight.shape).to(weight.dtype)
            for update, weight in zip(updates, weights, strict=True)
        ]
        torch._foreach_add_(weights, shaped, alpha=-lr * length)


class Pair:
    """Two optimizers used as one: what a training calls, calls both."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both; a rate set here is set there."""
        return list(itertools.chain(*(part.param_groups for part in self.parts)))

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Update all parameters."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by number."""
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for number, part in enumerate(self.parts):
            part.load_state_dict(state[str(number)])


def hidden_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of the convolutions and linear layers between the first and the last of them.

    Biases, norms, tables and grouped convolutions are no such matrices.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d) and getattr(layer, "groups", 1) == 1
        if isinstance(layer.weight, nn.Parameter)  # not those of frozen networks inside (fused.py)
    ]
    return [layer.weight for layer in layers[1:-1]]


def pair(network: nn.Module, settings: Optimizer) -> Pair:
    """Muon at `muon_lr` for the hidden matrices, AdamW at `lr` for all other parameters."""
    hidden = hidden_matrices(network)
    known = {id(weight) for weight in hidden}
    rest = [weight for weight in network.parameters() if id(weight) not in known]
    adamw = torch.optim.AdamW(
        rest, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    if not hidden:
        return Pair(adamw)
    matrices = Muon(hidden, settings.muon_lr, settings.weight_decay)
    matrices.param_groups[0]["factor"] = settings.muon_lr / settings.lr  # of the scheduled rate
    return Pair(matrices, adamw)
