"""Codes of frozen networks: what Eq. 7 and 8 compare (section 3.3).

Two networks are trained beforehand and stay as they are: the vision transformer's encoder in 2D
(`models/unetr.py`) and the disentangling auto-encoder (`models/autoencoder.py`). Both look at an
image on the HR grid, whatever it was before: a LR image is enlarged by the bicubic kernel first.
No gradient goes into their weights; it goes through them to the generator's image.

The codes of the generator's image are compared with those of the `target`: the LR image ("lr", as
printed) or the true image ("hr"). A bicubic enlargement has the very codes of its LR image, so
with the printed target the terms alone ask for nothing better: hence the pixel term of `proposed`.
The target's codes are computed once per image of a batch and without a graph.

Settings are the table `features` (`schema.Features`), argued in docs/replication.md:

- `vit_layers`: which hidden states, counted from 0 or from the end.
- `vit_reduce`: `token` compares token by token; `pooled` the mean token, which hardly notices the
  difference between a blurred and a sharp image; `centred` token by token, after the mean token
  of the target is taken off both: what all tokens of an image share hides their differences.
- `autoencoder_size`: 0 keeps the image's own size (padded to a multiple of 16; the structure code
  is then a quarter of that in each direction). 256 pads or crops it to 256x256 with zeros, the
  paper's input, and is for training on whole slices: a patch's step to the zeros around it would
  be most of its structure code, alike in both images of a pair, and the structure term and its
  gradient several times weaker (bench/autoencoder_canvas.py).
- `random`: networks of the same shape with random weights, the control rows.
- `validation_patches`: how many fixed patches the validation curves of these terms come from.
- `gradient_norms_every`: steps between the logged norms of each term's gradient; 0 never.

Needs torch and numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrsr import checkpoint, models
from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.method import distances
from mrsr.models.unetr import Encoder2d, build, collapse
from mrsr.params.schema import Features
from mrsr.resampling import bicubic

# the frozen network that a loss term looks through
NETWORKS = {"vit": "vit", "structure": "autoencoder", "texture": "autoencoder"}
Paths = Mapping[str, Path | None]  # checkpoint of each network by its name


@dataclass(frozen=True)
class Codes:
    """What the frozen networks see in the output (with graph) and in the target (without)."""

    output: dict[str, Any]
    target: dict[str, Any]
    reduce: str  # `vit_reduce` of the settings


@dataclass(frozen=True)
class Frozen:
    """The networks that the terms of a method need, by name, and how they are used."""

    settings: Features
    networks: dict[str, Any] = field(default_factory=dict)


def needed(terms: dict[str, float]) -> list[str]:
    """The frozen networks that these loss terms look through."""
    return list(dict.fromkeys(NETWORKS[name] for name in terms if name in NETWORKS))


def digests(terms: dict[str, float], paths: Paths) -> dict[str, str]:
    """SHA-256 of the checkpoints that these terms need; the training depends on them.

    Raises:
        UserError: one is not given, or is not there.
    """
    result = {}
    for name in needed(terms):
        path = paths.get(name)
        if path is None:
            which = ", ".join(term for term in terms if NETWORKS.get(term) == name)
            raise UserError(f"losses {which}: give the trained network with --{name} best.pt")
        if not path.is_file():
            raise UserError(f"{path}: no such file; train the {name} first, or check the path")
        result[name] = sha256(path)
    return result


def load(
    terms: dict[str, float],
    settings: Features,
    paths: Paths,
    machine: Machine,
    seed: int,
) -> Frozen:
    """The frozen networks that the terms need, in evaluation mode, their weights without gradient.

    Args:
        settings: the table `features`, complete. paths: checkpoint of each network by its name.
        seed: of the weights of the networks in `settings.random`.

    Raises:
        UserError: a setting has an unknown value, or a checkpoint is not one of that network.
    """
    networks: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):  # what is built after them is the same without them
        for name in needed(terms):
            random = seed if name in settings.random else None
            network = _read(name, Path(str(paths[name])), machine, random)
            networks[name] = machine.place(network).eval().requires_grad_(False)
    return Frozen(settings, networks)


def _read(name: str, path: Path, machine: Machine, seed: int | None) -> nn.Module:
    """A network of a checkpoint; with a seed, its shape alone, and random weights."""
    network: nn.Module
    if name == "vit":
        network, also = load_encoder(path, machine.device), {"dimensions": 2}
    else:
        network, also = checkpoint.network(path, machine.device), {"start": "random"}
        if not hasattr(network, "encode"):
            raise UserError(f"{path} is not an auto-encoder; give one of train_autoencoder")
    if seed is not None:
        saved = checkpoint.load(path)
        torch.manual_seed(seed)
        network = models.build(saved.model_name, saved.scale, {**saved.options, **also})
    return network


def codes(
    frozen: Frozen, image: Tensor, size: tuple[int, int], terms: dict[str, float]
) -> dict[str, Any]:
    """What the frozen networks see in images (batch, 1, h, w), brought to the HR grid `size`.

    Returns:
        `vit`: the chosen hidden states, each (batch, tokens, hidden); `structure` and `texture`:
        (batch, n), flattened; those of `terms` alone.
    """
    wanted = needed(terms)
    if wanted and image.shape[-2:] != size:
        image = bicubic(image, size)
    found: dict[str, Any] = {}
    if "vit" in wanted:
        found["vit"] = frozen.networks["vit"](image, frozen.settings.vit_layers)
    if "autoencoder" in wanted:
        from mrsr.models.autoencoder import prepare

        image = prepare(image, size, frozen.settings.autoencoder_size)
        structure, texture = frozen.networks["autoencoder"].encode(image)
        found |= {"structure": structure.flatten(1), "texture": texture.flatten(1)}
    return found


def pair(frozen: Frozen, terms: dict[str, float], lr: Tensor, sr: Tensor, hr: Tensor) -> Codes:
    """Codes of the generator's images and of the target.

    lr: (batch, 1, h, w). sr, hr: (batch, 1, H, W).
    """
    size = (hr.shape[-2], hr.shape[-1])
    with torch.no_grad():
        target = codes(frozen, lr if frozen.settings.target == "lr" else hr, size, terms)
    return Codes(
        output=codes(frozen, sr, size, terms), target=target, reduce=frozen.settings.vit_reduce
    )


def token_distance(output: list[Tensor], target: list[Tensor], reduce: str) -> Tensor:
    """Eq. 8 over hidden states (batch, tokens, hidden), reduced as `vit_reduce` says; a scalar."""
    values = []
    for seen, wanted in zip(output, target, strict=True):
        if reduce == "pooled":
            seen, wanted = seen.mean(dim=1), wanted.mean(dim=1)
        elif reduce == "centred":
            origin = wanted.mean(dim=1, keepdim=True)
            seen, wanted = seen - origin, wanted - origin
        values.append(distances.cosine(seen, wanted).mean())
    return torch.stack(values).mean()


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> Encoder2d:
    """The feature extractor from a ViT checkpoint: 2D, frozen, in evaluation mode; only torch.

    A segmentation checkpoint is collapsed; one of a pretext task is 2D already. Gradients pass
    through to the image but not into the weights.

    Raises:
        UserError: the file cannot be read, or is not a checkpoint of a ViT.
    """
    from mrsr import checkpoint

    found = checkpoint.load(path)
    if found.model_name != "unetr":
        raise UserError(
            f"{path} contains '{found.model_name}', not a ViT; use the best.pt of train_vit"
        )
    try:
        if found.options.get("dimensions", 3) == 2:
            encoder = build(**found.options)
            encoder.load_state_dict(found.weights)
        else:
            encoder = collapse(found.weights, found.options)
    except (TypeError, ValueError, RuntimeError, KeyError):
        raise UserError(
            f"{path}: its weights do not fit this version's ViT; train it again"
        ) from None
    return encoder.to(device).eval().requires_grad_(False)
