"""Settings that would change nothing are refused: an experiment must be what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mrsr.params.declared import at, learned_losses
from mrsr.params.experiment import Resolved
from mrsr.params.methods import ResolvedMethod
from mrsr.params.schema import Params


def check_acting(resolved: Resolved) -> None:
    """Check that every loss of the experiment acts in some step, and that controls control.

    Raises:
        ValueError: as 'dotted.path: what'.
    """
    for method in resolved.methods.values():
        _check_method(method)
    recipes = {method.recipe for method in resolved.methods.values()}
    if resolved.experiment.recipe == "published" and recipes == {"common"}:
        raise at("recipe", "no method of the grid has a published recipe; leave it out")
    if resolved.autoencoders():
        coder = resolved.params.autoencoder
        judged = [name for name in ("adversarial", "swap") if getattr(coder.weights, name)]
        if judged and coder.discriminator.warmup >= coder.steps:
            raise at(
                "autoencoder.discriminator.warmup",
                f"the terms {' and '.join(judged)} never act: it is {coder.discriminator.warmup}, "
                f"and the training has {coder.steps} steps; lower it, or set their weights to 0",
            )


def _check_method(method: ResolvedMethod) -> None:
    learned = [name for name in method.losses if name in learned_losses()]
    warmup, steps = method.training.adversarial.warmup, method.training.steps
    if learned and warmup >= steps:
        raise at(
            f"methods.{method.key}",
            f"its losses {', '.join(learned)} never act: adversarial.warmup is {warmup}, and the "
            f"training has {steps} steps; lower adversarial.warmup (under sr, or the method's own "
            "train), or set their weights to 0",
        )
    unused = [name for name in method.training.features.random if name not in method.compared]
    if unused:
        raise at(
            f"methods.{method.key}.train.features.random",
            f"no loss of weight above 0 uses '{unused[0]}'; remove it, or use another method",
        )


def check_size(
    resolved: Resolved, changes: Mapping[str, Any], full: Params, sizes: Iterable[str]
) -> None:
    """Refuse short trainings whose frozen networks would be trained at the paper's full size.

    An experiment that picks a `size` knows; one that sets `sr.steps` alone may not.

    Args:
        changes: the experiment's `set:`, those that it follows included. full: params.yaml.
        sizes: the names to pick from.

    Raises:
        ValueError: as 'dotted.path: what'.
    """
    shortened = "steps" in (changes.get("sr") or {})
    if resolved.experiment.size is not None or not shortened:
        return
    now, long = resolved.params, []
    if resolved.pool and now.vit.segmentation.steps == full.vit.segmentation.steps > 0:
        long.append(f"the vision transformer {now.vit.segmentation.steps:,} steps in 3D")
    if resolved.pool and now.vit.finetuning.steps == full.vit.finetuning.steps:
        long.append(f"its encoder {now.vit.finetuning.steps:,}")
    if resolved.autoencoders() and now.autoencoder.steps == full.autoencoder.steps:
        long.append(f"each auto-encoder {now.autoencoder.steps:,}")
    if long:
        raise at(
            "size",
            f"set.sr.steps is {now.sr.steps:,}, but {', '.join(long)} would be trained; pick one "
            f"of {', '.join(sorted(sizes))}",
        )
