"""Every method of params.yaml at its full width: parameters, multiply-adds, scales, what it needs.

    mrsr methods                        # as params.yaml has them
    mrsr methods --experiment benchmark # at the widths of that experiment

Networks are built on torch's meta device, where tensors have shapes and no values: nothing is
computed, so the largest takes no longer than the smallest. Multiply-adds are those of convolutions
and matrix products for one output image, half of the operations that torch counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas
import torch
from torch.utils.flop_counter import FlopCounterMode

from mrsr import models
from mrsr.accepts import model_is_guided, model_scales
from mrsr.errors import UserError
from mrsr.rows import Row
from mrsr.table_formats import pipes

OUTPUT = 240  # pixels of the output's sides, the slices of the paper's section 4
# what a type of method needs beside LR and HR slices of training subjects
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


def count(model: str, options: dict[str, Any], scale: int, output: int = OUTPUT) -> tuple[int, int]:
    """(parameters, multiply-adds of one output image) of a network.

    Raises:
        UserError: `output` does not divide by the scale, or the model refuses its options.
    """
    if output % scale:
        raise UserError(f"an output of {output} pixels does not divide by {scale}")
    with torch.device("meta"):
        network = models.build(model, scale, options).eval()
        images = [torch.empty(1, 1, output // scale, output // scale)]
        if model_is_guided(model):
            images.append(torch.empty(1, 1, output, output))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(*images)
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, counter.get_total_flops() // 2


def entries(rows: list[Row], scale: int) -> list[Entry]:
    """The given methods; one that is not designed for `scale` is counted at its smallest."""
    found = []
    for row in rows:
        scales = model_scales(row.model)
        own = scale if scale in scales else min(scales)
        citation = f"[{row.citation}]" if row.citation else ""
        numbers = count(row.model, row.options, own)
        found.append(Entry(row.key, row.label, citation, row.type, scales, own, *numbers))
    return found


def text(found: list[Entry]) -> str:
    """A Markdown table, which a terminal shows well enough too."""
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
