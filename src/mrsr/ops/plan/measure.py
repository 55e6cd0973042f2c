"""Time forward and backward passes of networks on noise; on a CPU in processor seconds, and as many
side by side as jobs will run: they share caches, and perhaps a core."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from pathlib import Path

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import write_json
from mrsr.ops.plan import rates, work
from mrsr.ops.plan.jobs import Place
from mrsr.ops.plan.networks import Network, build, per_pixel
from mrsr.ops.plan.rates import Rate
from mrsr.params.declared import model_is_guided

MEASURED = Path("logs/plan.json")
PASSES = 4  # the first one allocates and is not counted
BATCH, VOLUMES = {"cpu": 4, "cuda": 16}, 2  # images; torch is slow with a single volume on a CPU


def read(path: Path = MEASURED) -> list[Rate]:
    """Earlier measurements; empty if the file is missing or of another version."""
    try:
        return [Rate(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def keep(found: list[Rate], path: Path = MEASURED) -> None:
    """Add rates to the file; a new rate of the same work replaces the old one."""
    table = {(r.rule, r.device, r.image): r for r in (*read(path), *found)}
    write_json(path, [asdict(rate) for rate in table.values()])


def measure(todo: list[tuple[str, list[work.Part]]], place: Place) -> list[Rate]:
    """Rates of trainings and evaluations, each a rule and its `work.parts`.

    Raises:
        UserError: the plan is for a device that this computer does not have.
    """
    if place.device not in ("cpu", rates.device_for("auto")):
        raise UserError(
            f"--measure times this computer, not '{place.device}'; run it there, or leave it out"
        )
    kind, side_by_side = ("cpu", place.cores) if place.device == "cpu" else ("cuda", 1)
    networks = list({part.network: None for _, parts in todo for part in parts})
    say(f"timing {len(networks)} networks")
    for name in ("MMAP", "TRIM"):  # as jobs have it (Snakefile); read when a process starts
        os.environ.setdefault(f"MALLOC_{name}_THRESHOLD_", str(2**30))
    with ProcessPoolExecutor(side_by_side, multiprocessing.get_context("spawn")) as pool:
        paces = dict(zip(networks, pool.map(pace, networks, repeat(kind)), strict=True))
    found = []
    for rule, parts in todo:
        spent = sum(paces[n] * per_pixel(n)[1] * passes * pixels for n, passes, pixels in parts)
        found.append(rates.rate_of(rule, place.device, parts, spent, "measured"))
    keep(found)
    return found


def pace(network: Network, kind: str) -> float:
    """Seconds of a multiply-add of a network on this computer's `cpu` or `cuda`."""
    import torch

    from mrsr import models

    torch.set_num_threads(1)
    model, _, scale, sides = network
    flat = len(sides) == 2
    layout = torch.channels_last if flat else torch.contiguous_format
    learner = build(network).to(kind)
    learner.to(memory_format=layout)
    batch = BATCH[kind] if flat else VOLUMES
    shapes = [[side // scale for side in sides], sides][: 1 + model_is_guided(model)]
    images = [torch.rand(batch, 1, *shape, device=kind) for shape in shapes]
    clock = time.process_time if kind == "cpu" else time.perf_counter
    spent = []
    for _ in range(PASSES):
        began = clock()
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            answer, _ = models.outputs(learner(*images))
        loss = sum(part.float().square().mean() for part in answer)
        if loss.requires_grad:
            loss.backward()
        loss.item()  # waits for a GPU
        spent.append(clock() - began)
    passes = work.LEARNED if loss.requires_grad else 1
    forward = per_pixel(network)[1] * math.prod(sides) * batch
    return statistics.median(spent[1:]) / (passes * max(forward, 1.0))
