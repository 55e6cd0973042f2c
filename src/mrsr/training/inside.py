"""What a generator with networks inside it (`models/fused.py`) gets before its first step.

Those that its `FROZEN` names (`declared.model_frozen`) get the weights of their checkpoints. Each
is a part of the generator by that name, and its shape an option. A generator that standardises what
they see has a method `calibrate`. An interrupted training finds both again in its state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrsr import checkpoint
from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.method import features
from mrsr.params.jobs import SuperResolution
from mrsr.params.typed import plain
from mrsr.slices import batches, holding

PATCHES = 64  # to standardise codes by


def load(
    network: nn.Module, within: Collection[str], paths: features.Paths, options: Mapping[str, Any]
) -> None:
    """Load the weights of the networks inside a generator, in place.

    Args:
        within: their names. paths: their checkpoints. options: the generator's.

    Raises:
        UserError: a checkpoint cannot be read, or is of another network or shape.
    """
    for name in within:
        path = Path(str(paths[name]))
        trained: Any
        with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on this
            if name == "vit":
                trained = features.load_encoder(path)
            else:
                trained = checkpoint.network(path, wanted=checkpoint.AUTOENCODER).encoder
        saved, shape = plain(checkpoint.load(path).options), plain(options.get(name, {}))
        for key in sorted(shape.keys() & saved.keys()):
            if saved[key] != shape[key]:
                raise UserError(
                    f"{path}: its {key} is {saved[key]}, and {name}.{key} of the generator "
                    f"{shape[key]}; train the {name} again, or give that of these settings"
                )
        try:
            getattr(network, name).load_state_dict(trained.state_dict())
        except RuntimeError:
            raise UserError(
                f"{path}: its weights do not fit the {name} inside the generator; train it again"
            ) from None


def calibrate(
    network: nn.Module, slices: holding.Slices, settings: SuperResolution, machine: Machine
) -> None:
    """Let a generator standardise what the networks inside it see, by patches of the training.

    The same patches in every process, whatever their number.
    """
    measure = getattr(network, "calibrate", None)
    if measure is None:
        return
    lr, _, *second = batches.batch(
        slices, 0, batch=PATCHES, patch=settings.patch, seed=settings.seed, augment=settings.augment
    )
    measure(batches.seen(slices, lr, second)[0].to(machine.dtype))
