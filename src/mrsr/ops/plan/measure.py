"""Time forward and backward passes of networks on noise, one by one.

On a CPU processor seconds count, so that other work on the computer does not, and as many networks
are timed side by side as jobs will run: they share caches, and perhaps a core.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mrsr import compute, models
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import write_json
from mrsr.ops.plan import rates
from mrsr.ops.plan.jobs import Place
from mrsr.ops.plan.rates import Rate
from mrsr.tables import network_sizes

MEASURED = Path("logs/plan.json")
PASSES = 4  # the first of them allocates and is not counted
BATCH = {"cpu": 4, "cuda": 16}  # images; of volumes one


def read(path: Path = MEASURED) -> list[Rate]:
    """What was measured before; nothing where the file is missing or of another version."""
    try:
        return [Rate(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def keep(found: list[Rate], path: Path = MEASURED) -> None:
    """Add rates to the file; a newer one of the same work replaces the older."""
    table = {(r.rule, r.device, r.image): r for r in (*read(path), *found)}
    write_json(path, [asdict(rate) for rate in table.values()])


def measure(todo: list[tuple[str, Any, Any, int]], place: Place) -> list[Rate]:
    """Rates of trainings and evaluations, given as the arguments of `methods.parts`.

    Raises:
        UserError: the plan is for a device that this computer does not have.
    """
    if place.device not in ("cpu", rates.device_for("auto")):
        raise UserError(
            f"--measure times this computer, not '{place.device}'; run it there, or leave it out"
        )
    kind, side_by_side = ("cpu", place.cores) if place.device == "cpu" else ("cuda", 1)
    networks = list({part: None for job in todo for part, _ in network_sizes.parts(*job)})
    say(f"timing {len(networks)} networks")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(side_by_side, mp_context=spawn) as pool:
        paces = dict(zip(networks, pool.map(partial(pace, kind=kind), networks), strict=True))
    found = []
    for job in todo:
        image = network_sizes.work(*job)
        parts = [
            (paces[part], network_sizes.per_pixel(part)[1] * n)
            for part, n in network_sizes.parts(*job)
        ]
        mean = sum(each * work for each, work in parts) / image
        found.append(Rate(job[0], place.device, image, mean, "measured"))
    keep(found)
    return found


@dataclass(frozen=True)
class _Wanted:
    device: str
    channels_last: str
    precision: str = "auto"
    threads: int = 1


def pace(network: network_sizes.Network, kind: str) -> float:
    """Seconds of a multiply-add of a network on this computer's `cpu` or `cuda`."""
    import torch

    model, options, scale, sides = network
    layout = "off" if model == "unetr" else "auto"
    machine = compute.start(_Wanted(device=kind, channels_last=layout))
    learner = machine.place(models.build(model, scale, json.loads(options)))
    batch = 1 if len(sides) == 3 else BATCH[kind]
    shapes = [[side // scale for side in sides], sides][: 1 + network_sizes.model_is_guided(model)]
    images = [torch.rand(batch, 1, *shape, device=machine.device) for shape in shapes]
    clock = time.process_time if kind == "cpu" else time.perf_counter
    spent = []
    for _ in range(PASSES):
        began = clock()
        with machine.autocast():
            answer, _ = models.outputs(learner(*images))
        loss = sum(part.float().square().mean() for part in answer)
        if loss.requires_grad:
            loss.backward()
        loss.item()  # waits for a GPU
        spent.append(clock() - began)
    passes = network_sizes.LEARNED if loss.requires_grad else 1
    forward = network_sizes.per_pixel(network)[1] * math.prod(sides) * batch
    return statistics.median(spent[1:]) / (passes * max(forward, 1.0))
