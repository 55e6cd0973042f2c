"""Codes of frozen networks: what Eq. 7 and 8 compare (section 3.3).

Two networks are trained first and then frozen: the vision transformer's encoder in 2D
(`models/unetr.py`) and the disentangling auto-encoder (`models/autoencoder.py`). Both take
images on the HR grid; an LR image is upsampled with the bicubic kernel first. Gradients pass
through them to the generator's image but not into their weights.

The codes of the generator's image are compared with those of the `target`: the LR image ("lr", as
published) or the true image ("hr"). A bicubically upsampled image has the same codes as its LR
image, so with the published target the terms alone demand nothing better: hence the pixel term of
`proposed`.
The target's codes are computed once per image of a batch and without a graph.

Settings are `schema.Features`; docs/replication.md gives the reasons:

- `vit_layers`: which hidden states, counted from 0 or from the end.
- `vit_reduce`: `token` compares token by token; `pooled` the mean token, which barely
  separates a blurred from a sharp image; `centred` token by token, after
  subtracting the target's mean token from both, because what all tokens share hides their
  differences.
- `autoencoder_size`: 0 keeps the image's own size (padded to a multiple of 16; the structure code
  is then a quarter of that in each direction). 256 pads (with zeros) or crops it to
  256x256, the paper's input, and is for training on whole slices: around a patch, the edge to the
  zeros would dominate the structure code of both images of a pair, and make the structure term and
  its gradient several times weaker (bench/autoencoder_canvas.py).
- `random`: networks of the same shape with random weights, for the controls.
- `validation_patches`: how many fixed patches the validation curves of these terms come from.
- `gradient_norms_every`: steps between the logged norms of each term's gradient; 0 never.

Needs torch and numpy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from mrsr.models.autoencoder import prepare
from mrsr.models.unetr import Encoder2d, collapse, encoder_of
from mrsr.params.declared import model_frozen
from mrsr.params.schema import Features
from mrsr.params.typed import plain
from mrsr.resampling import bicubic

# the frozen network that a loss term uses
NETWORKS = {"vit": "vit", "structure": "autoencoder", "texture": "autoencoder"}
Paths = Mapping[str, Path | None]  # checkpoint of each network by its name


@dataclass(frozen=True)
class Codes:
    """Codes of the output (with graph) and of the target (without)."""

    output: dict[str, Any]
    target: dict[str, Any]
    reduce: str  # `vit_reduce` of the settings


@dataclass(frozen=True)
class Frozen:
    """The frozen networks of a method, by name, and how they are used."""

    settings: Features
    networks: dict[str, Any] = field(default_factory=dict)


def needed(terms: dict[str, float]) -> list[str]:
    """The frozen networks that these loss terms use."""
    return list(dict.fromkeys(NETWORKS[name] for name in terms if name in NETWORKS))


def inside(model: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The networks inside a generator that get the weights of checkpoints (`models/fused.py`).

    They are named by the `FROZEN` of its file; each is a part of the generator by that name, and
    its shape an option.
    """
    return model_frozen(model, options)


def fill(
    generator: nn.Module, names: Collection[str], paths: Paths, options: Mapping[str, Any]
) -> None:
    """Load the weights of the networks inside a generator, in place.

    Args:
        names: as `inside` gives them. paths: their checkpoints. options: the generator's.

    Raises:
        UserError: a checkpoint cannot be read, or is of another network or shape.
    """
    for name in names:
        path = Path(str(paths[name]))
        trained: Any
        with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on this
            if name == "vit":
                trained = load_encoder(path)
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
            getattr(generator, name).load_state_dict(trained.state_dict())
        except RuntimeError:
            raise UserError(
                f"{path}: its weights do not fit the {name} inside the generator; train it again"
            ) from None


def digests(terms: dict[str, float], paths: Paths, within: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 of the checkpoints that these terms need; the training depends on them.

    within: names of those that the generator itself has inside, needed as well.

    Raises:
        UserError: one is not given or does not exist.
    """
    result = {}
    for name in dict.fromkeys((*needed(terms), *within)):
        path = paths.get(name)
        if path is None:
            which = ", ".join(term for term in terms if NETWORKS.get(term) == name)
            who = f"losses {which}" if which else f"the generator has the {name} inside"
            raise UserError(f"{who}: give the trained network with --{name} best.pt")
        if not path.is_file():
            raise UserError(f"{path}: no such file; train the {name} first, or check the path")
        result[name] = sha256(path)
    return result


def load(
    terms: dict[str, float],
    settings: Features | None,
    paths: Paths,
    machine: Machine,
    seed: int,
) -> Frozen:
    """The frozen networks that the terms need, in evaluation mode, their weights without gradient.

    Args:
        settings: the table `features`; None for its defaults.
        paths: checkpoint of each network by its name.
        seed: of the weights of the networks in `settings.random`.

    Raises:
        UserError: a setting has an unknown value, or a checkpoint is of another network.
    """
    settings = settings or Features()
    networks: dict[str, Any] = {}
    with torch.random.fork_rng(
        devices=[]
    ):  # networks built later are the same with and without them
        for name in needed(terms):
            random = seed if name in settings.random else None
            network = _read(name, Path(str(paths[name])), machine, random)
            networks[name] = machine.place(network).eval().requires_grad_(False)
    return Frozen(settings, networks)


def _read(name: str, path: Path, machine: Machine, seed: int | None) -> nn.Module:
    """The network of a checkpoint; with a seed, the same network with random weights."""
    network: nn.Module
    also: dict[str, Any]
    if name == "vit":
        network, also = load_encoder(path, machine.device), {"dimensions": 2}
    else:
        network = checkpoint.network(path, machine.device, checkpoint.AUTOENCODER)
        also = {"start": "random"}
    if seed is not None:
        saved = checkpoint.load(path)
        torch.manual_seed(seed)
        network = models.build(saved.model_name, saved.scale, {**saved.options, **also})
    return network


def codes(
    frozen: Frozen, image: Tensor, size: tuple[int, int], terms: dict[str, float]
) -> dict[str, Any]:
    """Codes of images (batch, 1, h, w), upsampled to the HR grid `size`.

    Returns:
        `vit`: the chosen hidden states, each (batch, tokens, hidden); `structure` and `texture`:
        (batch, n), flattened; only those that `terms` need.
    """
    wanted = needed(terms)
    if wanted and image.shape[-2:] != size:
        image = bicubic(image, size)
    found: dict[str, Any] = {}
    if "vit" in wanted:
        found["vit"] = frozen.networks["vit"](image, frozen.settings.vit_layers)
    if "autoencoder" in wanted:
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
    found = checkpoint.load(path, checkpoint.VIT)
    try:
        if found.options.get("dimensions", 3) == 2:
            encoder = encoder_of(found.options)
            encoder.load_state_dict(found.weights)
        else:
            encoder = collapse(found.weights, found.options)
    except (TypeError, ValueError, RuntimeError, KeyError):
        raise UserError(
            f"{path}: its weights do not fit this version's ViT; train it again"
        ) from None
    return encoder.to(device).eval().requires_grad_(False)
