"""The cost of each job of a target, and the text that `mrsr plan` prints.

Includes pauses of Snakemake, imports and the upload to MLflow, but not waiting in a queue.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from mrsr.errors import UserError
from mrsr.ops.plan import measure, rates, sizes
from mrsr.ops.plan.jobs import BETWEEN, STAGES, Job, Place, dry_run, wall
from mrsr.ops.plan.rates import GUESSED, Rate
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from mrsr.params.typed import plain
from mrsr.tables import network_sizes

# seconds on one core of an AMD EPYC server, measured: of a rule's job, of others; of a store and of
# a megapixel in it; a job's imports and delivery to MLflow; to degrade and score a megapixel
SMALL, ELSE = {"tracking_store": 7.0, "frozen_table": 2.0, "probe_autoencoder": 10.0}, 3.0
STORE, MEGAPIXEL = {"slice_dataset": 3.5, "guide_dataset": 15.0}, 0.07
START, SCORING = 9.0, 0.2
SNAKEMAKE, IN_A_JOB = 8.0, 20.0  # its start; a cluster's job starts two more (docs/cluster.md)
# bytes that a job writes, and of a parameter in best.pt and last.pt
BYTES, KEPT = {"evaluate": 300e3, "loss_curves": 80e3, "write_tables": 100e3}, 2 * 4


def work_of(resolved: Resolved, job: Job) -> tuple[str, dict[str, Any], dict[str, Any], int]:
    """The arguments of `network_sizes.parts` for a training or an evaluation."""
    given, params = job.wildcards, resolved.params
    dataset, scale = given.get("dataset", ""), int(given.get("scale", 0))
    settings: Any
    if job.rule == "train_vit_segmentation":
        settings = resolved.segmentation()
    elif job.rule == "train_vit_pretext":
        settings = resolved.pretext(given["pretext"])
    elif job.rule == "train_autoencoder":
        settings = resolved.autoencoder(dataset, scale)
    else:
        ask = resolved.evaluation if job.rule == "evaluate" else resolved.super_resolution
        settings = ask(dataset, scale, given["method"])
    networks = {"vit": plain(params.vit.network), "autoencoder": plain(params.autoencoder.network)}
    size = sizes.geometry(resolved, dataset) if dataset else None
    return job.rule, plain(settings), networks, rates.pixels(size)


def cost(resolved: Resolved, job: Job, place: Place, known: list[Rate]) -> dict[str, Any]:
    """`seconds`, their `origin`, and `disk` in bytes of a job; nan: not known before slicing."""
    dataset, threads = job.wildcards.get("dataset"), min(job.threads, place.cores)
    size = sizes.geometry(resolved, dataset) if dataset else None
    seconds, disk, origin = SMALL.get(job.rule, ELSE), BYTES.get(job.rule, 0.0), "constants"
    if job.rule == "raw_source":
        source = sizes.RAW.reindex([job.wildcards["source"]]).iloc[0]
        seconds, disk = source.bytes / source.bytes_per_second / threads, source.bytes
    elif job.rule in STORE:
        megapixels = size.megapixels() if size else math.nan
        seconds = STORE[job.rule] + MEGAPIXEL * megapixels / threads
        disk = megapixels * 1e6 * (size.pixel_bytes if size else 1)
    elif job.rule.startswith(("train_", "evaluate")):
        work = work_of(resolved, job)
        rate = rates.choose(known, job.rule, place.device, network_sizes.work(*work))
        seconds = START + rate.pace * rates.total(*work[:3], size)
        if job.rule == "evaluate":
            seconds += SCORING * (size.megapixels("test") if size else math.nan)
        else:  # SMORE's file has a network for every volume
            each = (size.volumes["test"] / 2 if size else math.nan) if "self" in job.rule else 1
            disk = KEPT * each * network_sizes.per_pixel(network_sizes.network(*work[:3]))[0]
        origin = rate.origin
    return {"seconds": seconds, "origin": origin, "disk": disk}


def plan(
    target: str, experiment: str | None, place: Place, fresh: bool, timed: bool, file: Path
) -> str:
    """The text that `mrsr plan` prints. place: its device may be auto. fresh: as if nothing
    had been run. timed: measure first what would be assumed. file: the parameters.

    Raises:
        UserError: nothing makes the target; measuring another device than this computer's.
    """
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile here; run `mrsr plan` in the project's root")
    resolved = loading.load(file, experiment)
    place = replace(place, device=rates.device_for(place.device))
    with ThreadPoolExecutor() as pool:  # Snakemake takes seconds
        planned = pool.submit(dry_run, target, resolved.name, place.cores, fresh)
        known = [*rates.from_runs(), *measure.read()]
    jobs = planned.result()
    costs = pd.DataFrame([cost(resolved, job, place, known) for job in jobs])
    if timed and jobs:
        todo = [n for n, origin in enumerate(costs["origin"]) if origin.startswith(GUESSED)]
        known += measure.measure([work_of(resolved, jobs[n]) for n in todo], place)
        costs = pd.DataFrame([cost(resolved, job, place, known) for job in jobs])
    return report(target, resolved, jobs, costs, place)


def report(
    target: str, resolved: Resolved, jobs: Sequence[Job], costs: pd.DataFrame, place: Place
) -> str:
    """The plan as text: sums by stage, by method (or rule) and by where hours come from."""
    title = f"{target} of experiment '{resolved.name}' on {place.device}"
    if not jobs:
        return f"{title}: nothing to do\n"
    labels = {key: method.label for key, method in resolved.methods.items()}
    frame = costs.assign(jobs=1, stage=[job.stage for job in jobs])
    frame["method"] = [labels.get(job.wildcards.get("method", ""), job.rule) for job in jobs]
    frame["seconds"] += IN_A_JOB if place.jobs else 0.0
    on_gpu = pd.Series([place.on_gpu(job) for job in jobs])
    threads = pd.Series([min(job.threads, place.cores) for job in jobs])
    if on_gpu.any():
        frame["GPU-hours"] = frame["seconds"].where(on_gpu, 0) / 3600
    frame["core-hours"] = (frame["seconds"] * threads).mask(on_gpu, 0) / 3600
    unknown = int(frame["seconds"].isna().sum())
    span = SNAKEMAKE + wall(jobs, frame["seconds"].fillna(0).tolist(), place)
    where = f"{place.cores} cores" + f" and {place.gpus} GPUs" * bool(on_gpu.any())
    where = f"{place.jobs} jobs at a time, not waiting in a queue" if place.jobs else where
    more = f", and {unknown} jobs of a size that only slicing can tell" * bool(unknown)
    console = Console(file=(out := io.StringIO()), width=120, highlight=False)
    console.print(f"{title}: {len(jobs)} jobs\n")
    for head, order in (("stage", STAGES), ("method", labels.values()), ("origin", ())):
        console.print(_table(frame, head, order), "")
    console.print(
        f"wall time: {pd.Timedelta(seconds=round(span))} on {where}{more}",
        f"disk: {decimal(int(frame['disk'].sum()))}, without MLflow's copies of the weights",
        f"assumed: {BETWEEN} s between jobs, {SNAKEMAKE:.0f} s for Snakemake's start, no retries",
        sep="\n",
    )
    if any(origin.startswith(GUESSED) for origin in frame["origin"]):
        console.print("scaled and assumed may be off several times; --measure times networks")
    return out.getvalue()


def _table(frame: pd.DataFrame, head: str, order: Iterable[str]) -> Table:
    """Sums for each value of a column, those of `order` first, and of all."""
    columns = ["jobs", *(name for name in frame.columns if name.endswith("-hours")), "disk"]
    sums = frame.groupby(head)[columns].sum()
    sums = sums.loc[[name for name in dict.fromkeys((*order, *sums.index)) if name in sums.index]]
    sums.loc["total"] = sums.sum()
    numbers = [Column(name, justify="right") for name in columns]
    table = Table(head, *numbers, box=None, pad_edge=False)
    for name, jobs, *hours, disk in sums.itertuples():
        cells = (f"{value:.3f}" if value < 10 else f"{value:,.0f}" for value in hours)
        table.add_row(name, f"{jobs:.0f}", *cells, decimal(int(disk)))
    return table
