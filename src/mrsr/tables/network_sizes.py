"""Parameters, multiply-adds, scales and requirements of every method.

    mrsr methods                        # as params.yaml has them
    mrsr methods --experiment benchmark # at the widths of that experiment

Networks are built on torch's meta device, where tensors have shapes but no values: nothing is
computed, so large networks take no longer than small ones. Multiply-adds are those of convolutions
and matrix products for one output image, half of the operations that torch counts.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from torch.utils.flop_counter import FlopCounterMode

from mrsr import models
from mrsr.errors import UserError
from mrsr.params.declared import model_is_guided, model_scales
from mrsr.params.methods import ResolvedMethod
from mrsr.tables.formats import pipes

OUTPUT = 240  # pixels of the output's sides, the slices of the paper's section 4
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
        network = models.build(model, scale, json.loads(text)).eval()
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
