"""The plan as text: sums by stage, method and origin; GPU-hours of each row, and on other cards."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from mrsr.ops.plan.costs import Cost, costs
from mrsr.ops.plan.jobs import BETWEEN, STAGES, Job, Place, wall
from mrsr.ops.plan.rates import ASSUMED, GUESSED, Rate
from mrsr.params.experiment import Resolved

SNAKEMAKE, IN_A_JOB = 8.0, 20.0  # its start; a cluster's job starts two more (docs/cluster.md)
CARDS = ("V100", "A100", "H100", "H200")
DAY = 24  # hours of one H200 that both tables should take at the common budget
SHARED = {
    "train_vit_segmentation": "vision transformer",
    "train_vit_pretext": "vision transformer",
    "train_autoencoder": "auto-encoder",
    "probe_autoencoder": "auto-encoder",
}


@dataclass(frozen=True)
class Recipe:
    """An experiment's jobs under a name for people."""

    name: str
    resolved: Resolved
    jobs: Sequence[Job]


def stages(
    target: str,
    resolved: Resolved,
    jobs: Sequence[Job],
    found: Sequence[Cost],
    place: Place,
    brief: bool = False,
) -> str:
    """Jobs, hours and disk by stage, by method (or rule) and by where hours come from."""
    title = f"{target} of experiment '{resolved.name}' on {place.device}"
    if not jobs:
        return f"{title}: nothing to do\n"
    labels = {key: method.label for key, method in resolved.methods.items()}
    pause = IN_A_JOB if place.jobs else 0.0
    lengths = [cost.seconds.likely + pause for cost in found]
    console, out = _console()
    console.print(f"{title}: {len(jobs)} jobs\n")
    keys: dict[str, list[str]] = {"stage": [job.stage for job in jobs]}
    if not brief:
        keys["method"] = [labels.get(job.wildcards.get("method", ""), job.rule) for job in jobs]
        keys["origin"] = [cost.origin for cost in found]
    for head, names in keys.items():
        order = [*STAGES, *labels.values()]
        console.print(_sums(head, order, names, jobs, lengths, found, place), "")
    unknown = sum(map(math.isnan, lengths))
    span = SNAKEMAKE + wall(jobs, [0.0 if math.isnan(n) else n for n in lengths], place)
    on_gpu = any(map(place.on_gpu, jobs))
    where = f"{place.cores} cores" + f" and {place.gpus} GPUs" * on_gpu
    where = f"{place.jobs} jobs at a time, not waiting in a queue" if place.jobs else where
    more = f", and {unknown} jobs of a size that only slicing can tell" * bool(unknown)
    disk = sum(cost.disk for cost in found if not math.isnan(cost.disk))
    console.print(
        f"wall time: {_days(span)} on {where}{more}",
        f"disk: {decimal(int(disk))}, without MLflow's copies of the weights",
        f"assumed: {BETWEEN} s between jobs, {SNAKEMAKE:.0f} s for Snakemake's start, no retries; "
        "finished is what the files say",
        sep="\n",
    )
    if any(cost.origin.startswith(GUESSED) for cost in found):
        console.print("scaled and assumed may be off several times; --measure times networks")
    return out.getvalue()


def _days(seconds: float) -> str:
    span = timedelta(seconds=round(seconds))
    clock = timedelta(seconds=span.seconds)
    return f"{span.days} days {str(clock).zfill(8)}"


def _console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=160, highlight=False), out


def _sums(
    head: str,
    order: Sequence[str],
    names: Sequence[str],
    jobs: Sequence[Job],
    seconds: Sequence[float],
    found: Sequence[Cost],
    place: Place,
) -> Table:
    """Sums for each name, those of `order` first, and of all; NaN counts as nothing."""
    gpu = any(map(place.on_gpu, jobs))
    columns = ["jobs", *(["GPU-hours"] if gpu else []), "core-hours", "disk"]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(columns))
    for name, job, length, cost in zip(names, jobs, seconds, found, strict=True):
        on_gpu, threads = place.on_gpu(job), min(job.threads, place.cores)
        hours = [0.0 if on_gpu else length * threads / 3600]
        hours = [length / 3600 if on_gpu else 0.0, *hours] if gpu else hours
        for row in (sums[name], sums["total"]):
            for place_of, value in enumerate([1.0, *hours, cost.disk]):
                row[place_of] += 0.0 if math.isnan(value) else value
    last = sums.pop("total")
    table = Table(head, *(Column(n, justify="right") for n in columns), box=None, pad_edge=False)
    known = [name for name in dict.fromkeys((*order, *sorted(sums))) if name in sums]
    for name, (number, *values, disk) in (*((n, sums[n]) for n in known), ("total", last)):
        table.add_row(name, f"{number:.0f}", *map(_hours, values), decimal(int(disk)))
    return table


def _hours(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:,.0f}"


def tables(recipes: Sequence[Recipe], place: Place, known: Sequence[Rate], brief: bool) -> str:
    """GPU-hours of each row on the plan's card, and of all rows on each of CARDS."""
    console, out = _console()
    if not brief and place.device != "cpu":
        for recipe in recipes:
            console.print(f"GPU-hours of each row on {place.device}, {recipe.name}:\n")
            console.print(_rows(recipe, place, known), "")
    console.print("GPU-hours of one card for all of it, and their range:\n")
    head = [Column(name, justify="right") for name in CARDS]
    table = Table("", *head, box=None, pad_edge=False)
    for recipe in recipes:
        for waits, name in ((True, recipe.name), (False, f"{recipe.name}, kernels not waited for")):
            sums = [_total(recipe, card, known, waits) for card in CARDS]
            table.add_row(name, *(_range(*hours) for hours in sums))
    console.print(table, "")
    likely, low, high = _total(recipes[0], CARDS[-1], known)
    fits = "fits" if high <= DAY else "does not fit" if low > DAY else "may not fit"
    share = "" if likely <= DAY else f": {DAY / likely:.0%} of its steps would"
    _, best, worst = ASSUMED["gpu"]
    console.print(
        f"{recipes[0].name} on one {CARDS[-1]}: {_range(likely, low, high)} hours; it {fits} "
        f"in {DAY} hours{share}",
        "where nothing was measured, a card is assumed to reach "
        f"{worst.peak:.0%} to {best.peak:.0%} of its peak and {worst.bandwidth:.0%} to "
        f"{best.bandwidth:.0%} of its bandwidth, and to wait {best.start * 1e6:.0f} to "
        f"{worst.start * 1e6:.0f} µs for each kernel's start",
        sep="\n",
    )
    return out.getvalue()


def _range(likely: float, low: float, high: float) -> str:
    return f"{_figure(likely)} ({_figure(low)} to {_figure(high)})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _on_card(
    recipe: Recipe, device: str, known: Sequence[Rate], waits: bool = True
) -> Iterator[tuple[Job, Cost]]:
    """The jobs of a recipe that occupy a card, with their costs there."""
    place = Place(device, cores=2, waits=waits)
    jobs = [job for job in recipe.jobs if place.on_gpu(job) and job.rule != "tracking_store"]
    return zip(jobs, costs(recipe.resolved, jobs, place, known), strict=True)


def _total(
    recipe: Recipe, card: str, known: Sequence[Rate], waits: bool = True
) -> tuple[float, float, float]:
    """Hours of all jobs: likely, lowest, highest. Fractions are off together, so ranges add up."""
    found = [cost.seconds for _, cost in _on_card(recipe, card, known, waits)]
    likely, low, high = (
        sum(value for value in column if not math.isnan(value)) / 3600
        for column in zip(*found, strict=True)
    )
    return likely, low, high


def _rows(recipe: Recipe, place: Place, known: Sequence[Rate]) -> Table:
    """Methods (and frozen networks) by columns of dataset and scale."""
    resolved, hours = recipe.resolved, defaultdict[tuple[str, str], float](float)
    for job, cost in _on_card(recipe, place.device, known):
        method = resolved.methods.get(job.wildcards.get("method", ""))
        row = method.label if method else SHARED.get(job.rule, job.rule)
        where = job.wildcards
        column = f"{where['dataset']} {where['scale']}x" if "dataset" in where else "shared"
        value = cost.seconds.likely / 3600
        hours[row, column] += value
        hours[row, "sum"] += value
        hours["sum", column] += value
        hours["sum", "sum"] += value
    columns = list(dict.fromkeys(column for _, column in hours))
    columns = [*(name for name in columns if name != "sum"), "sum"]
    rows = [method.label for method in resolved.methods.values()]
    rows = [name for name in (*rows, *SHARED.values(), "sum") if (name, "sum") in hours]
    head = (Column(name, justify="right") for name in columns)
    table = Table("method", *head, box=None, pad_edge=False)
    for row in dict.fromkeys(rows):
        table.add_row(row, *(_cell(hours.get((row, column))) for column in columns))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return "?" if math.isnan(value) else f"{value:.2f}" if value < 100 else f"{value:,.0f}"
