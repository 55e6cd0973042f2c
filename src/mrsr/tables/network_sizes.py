"""Parameters, multiply-adds, scales and requirements of every method.

    mrsr methods                        # as params.yaml has them
    mrsr methods --experiment benchmark # at the widths of that experiment

`work` counts the multiply-adds of a training or an evaluation per image, for `mrsr plan`.

Networks are built on torch's meta device, where tensors have shapes but no values: nothing is
computed, so large networks take no longer than small ones. Multiply-adds are those of convolutions
and matrix products for one output image, half of the operations that torch counts.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from torch.utils.flop_counter import FlopCounterMode

from mrsr import models
from mrsr.errors import UserError
from mrsr.method import discriminator
from mrsr.params.declared import model_is_guided, model_scales
from mrsr.params.methods import ResolvedMethod
from mrsr.tables.formats import pipes

OUTPUT = 240  # pixels of the output's sides, the slices of the paper's section 4
PATCH = 96  # pixels of the sides where `work` counts; the paper's patch
# cost of a training step in forward passes: a trained network has a forward and, at twice the cost,
# a backward pass; a frozen one encodes target and output, with a backward pass to the output; a
# discriminator serves the generator's term and learns from true and false images; the terms of the
# auto-encoder take some three passes, forward and backward
LEARNED, FROZEN, DISCRIMINATOR, AUTOENCODER = 3, 3, 8, 10
# model, options as JSON, scale, and the sides in HR pixels of an image (in 3D: volume) to count
Network = tuple[str, str, int, tuple[int, ...]]
# what a type of method needs besides LR and HR slices of training subjects
NEEDS = {"single": "", "guided": "second contrast", "self": "test volume", "joint": ""}


@dataclass(frozen=True)
class Entry:
    """One method. multiply_adds: of an output of OUTPUT x OUTPUT pixels at `scale`."""

    key: str
    label: str
    citation: str
    type: str
    scales: tuple[int, ...]
    scale: int
    parameters: int
    multiply_adds: int


def count(
    model: str, options: dict[str, Any], scale: int, output: int | tuple[int, ...] = OUTPUT
) -> tuple[int, int]:
    """(parameters, multiply-adds of one output image) of a network.

    output: its sides in pixels, one number for a square image.

    Raises:
        UserError: `output` does not divide by the scale, or the model refuses its options.
    """
    shape = (output, output) if isinstance(output, int) else output
    if any(side % scale for side in shape):
        raise UserError(f"an output of {output} pixels does not divide by {scale}")
    return _count(model, json.dumps(options, sort_keys=True), scale, shape)


@functools.cache
def _count(model: str, text: str, scale: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """The same, for options as JSON: many methods share a network."""
    with torch.device("meta"):
        network = build(model, text, scale).eval()
        images = [torch.empty(1, 1, *(side // scale for side in shape))]
        if model_is_guided(model):
            images.append(torch.empty(1, 1, *shape))
        try:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(*images)
        except Exception as error:  # whatever the code of the network raises
            sides = "x".join(map(str, images[0].shape[2:]))
            raise models.failed(model, f"cannot compute an image of {sides}", error) from error
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, counter.get_total_flops() // 2


def build(model: str, options: str, scale: int) -> torch.nn.Module:
    """The network of the first three fields of a `Network`."""
    if model == "discriminator":  # no generator, so not among the models
        return discriminator.build(scale, **json.loads(options))
    return models.build(model, scale, json.loads(options))


def network(rule: str, settings: dict[str, Any], networks: dict[str, Any]) -> Network:
    """The network that a job trains or evaluates; arguments as for `parts`."""
    if rule == "train_autoencoder":
        return _network("autoencoder", {**settings["network"], "start": "random"})
    if rule == "train_vit_pretext":
        options = {**networks["vit"], "classes": 2, "dimensions": 2}
        return _network("unetr", options, 1, options["size"][1:])
    if rule == "train_vit_segmentation":
        options = {**settings["network"], "classes": settings["classes"], "dimensions": 3}
        return _network("unetr", options, 1, options["size"])
    return _network(settings["model"]["name"], settings["model"]["options"], settings["scale"])


def _network(
    model: str, options: dict[str, Any], scale: int = 1, sides: Sequence[int] = (PATCH, PATCH)
) -> Network:
    return model, json.dumps(options, sort_keys=True), scale, tuple(sides)


def per_pixel(network: Network) -> tuple[int, float]:
    """Parameters, and multiply-adds of a forward pass for each HR pixel."""
    model, options, scale, sides = network
    parameters, total = count(model, json.loads(options), scale, sides)
    return parameters, total / math.prod(sides)


def parts(
    rule: str, settings: dict[str, Any], networks: dict[str, Any], pixels: int
) -> list[tuple[Network, float]]:
    """The networks that work on one image of a training's batch, or one slice of an evaluation,
    each with the HR pixels of all its forward passes; a backward pass counts as two.

    Args:
        rule: Snakemake's, such as train_sr or evaluate. settings: what its job is handed.
        networks: options of the frozen networks, `vit` and `autoencoder`.
        pixels: of a whole slice.
    """
    own = network(rule, settings, networks)
    if rule == "evaluate":
        return [(own, pixels)]
    if rule.startswith("train_vit"):
        return [(own, LEARNED * math.prod(own[3]))]
    losses, rival = settings.get("losses", {}), settings.get("discriminator")
    seen = settings["patch"] ** 2 or pixels
    found = [(own, seen * (AUTOENCODER if rule == "train_autoencoder" else LEARNED))]
    if "adversarial" in losses:
        rival = settings["adversarial"]
    if rival:
        options = {name: rival[name] for name in ("base", "pool", "norm")}
        crop = min(rival.get("crop", 0) ** 2 or seen, seen)
        found.append((_network("discriminator", {**options, "size": PATCH}), crop * DISCRIMINATOR))
    if "vit" in losses:
        found.append((network("train_vit_pretext", {}, networks), seen * FROZEN))
    if {"structure", "texture"} & set(losses):
        autoencoder = {"network": networks["autoencoder"]}
        found.append((network("train_autoencoder", autoencoder, networks), seen * FROZEN))
    return found


def work(rule: str, settings: dict[str, Any], networks: dict[str, Any], pixels: int) -> float:
    """Multiply-adds of these parts together; at least 1."""
    found = parts(rule, settings, networks, pixels)
    return max(1.0, sum(per_pixel(part)[1] * seen for part, seen in found))


def entries(methods: list[ResolvedMethod], scale: int) -> list[Entry]:
    """The given methods; one that is not designed for `scale` is counted at its smallest scale."""
    found = []
    for method in methods:
        scales = model_scales(method.model)
        own = scale if scale in scales else min(scales)
        citation = f"[{method.citation}]" if method.citation else ""
        numbers = count(method.model, method.options, own)
        found.append(Entry(method.key, method.label, citation, method.type, scales, own, *numbers))
    return found


def text(found: list[Entry]) -> str:
    """A Markdown table, which also reads well on a terminal."""
    rows = [
        {
            "key": e.key,
            "method": f"{e.label} {e.citation}".strip(),
            "parameters (M)": f"{e.parameters / 1e6:.4g}",
            "multiply-adds (G)": f"{e.multiply_adds / 1e9:.4g}"
            + ("" if e.scale == found[0].scale else f" (at {e.scale}x)"),
            "scales": " ".join(map(str, e.scales)),
            "type": e.type,
            "needs": NEEDS[e.type],
        }
        for e in found
    ]
    return pipes(pandas.DataFrame(rows), "llrrlll")
