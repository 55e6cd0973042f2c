"""The norm of each loss term's gradient into the generator.

A weight alone says little if terms differ by orders of magnitude. The unweighted norms, and their
ratio to the pixel term's, show the effect of a weight of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from mrsr.compute import Machine, meeting
from mrsr.method.losses import LEARNED


def due(step: int, every: int) -> bool:
    """Whether to measure norms at this step; every: 0 never."""
    return bool(every) and step % every == 0


def of_terms(each: dict[str, Tensor], network: nn.Module) -> Tensor:
    """(terms, weights): the gradient of every term with respect to the network's weights.

    The graph is kept for the training's own backward pass, and no `.grad` changes. The gradient is
    zero for weights that a term does not depend on.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    rows = []
    for term in each.values():
        parts = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(weight) if part is None else part).flatten()
                    for weight, part in zip(weights, parts, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def norms(rows: Tensor, names: list[str], machine: Machine) -> dict[str, float]:
    """The logged values of the gradients (terms, weights) of a whole batch.

    `gradient/<term>` is the norm; `gradient_ratio/<term>` its ratio to the first pixel term's,
    if the method has a pixel term. All processes call this: their shares are averaged.
    """
    if machine.world > 1:
        with meeting():
            distributed.all_reduce(rows)
        rows = rows / machine.world
    values = dict(zip(names, rows.norm(dim=1).tolist(), strict=True))
    result = {f"gradient/{name}": value for name, value in values.items()}
    pixel = next((name for name in names if name not in LEARNED), None)
    if pixel is not None and values[pixel] > 0:
        for name in names:
            if name != pixel:
                result[f"gradient_ratio/{name}"] = values[name] / values[pixel]
    return result
