"""What each job of a target costs, and the text that `mrsr plan` prints.

Pauses of Snakemake, imports and the delivery to MLflow are counted; waiting in a queue is not.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from mrsr.errors import UserError
from mrsr.ops.plan import measure, rates, sizes, text
from mrsr.ops.plan.jobs import Job, Place, dry_run
from mrsr.ops.plan.rates import GUESSED, Rate
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from mrsr.params.typed import plain
from mrsr.tables import network_sizes

# seconds on one core of an AMD EPYC server, measured; of a store, and of a megapixel in it
SMALL = {"tracking_store": 7.0, "loss_curves": 2.5, "frozen_table": 2.0, "probe_autoencoder": 10.0}
STORE, MEGAPIXEL = {"slice_dataset": 3.5, "guide_dataset": 15.0}, 0.07
# bytes of what a job leaves, and of a parameter in best.pt and last.pt
BYTES = {"evaluate": 300e3, "loss_curves": 80e3, "write_tables": 100e3}
KEPT = 2 * 4
NETWORKS: tuple[str, ...] = ("train_vit_segmentation", "train_vit_pretext", "train_autoencoder")
NETWORKS += ("train_sr", "train_self", "evaluate")


def work_of(resolved: Resolved, job: Job) -> tuple[str, dict[str, Any], dict[str, Any], int]:
    """The arguments of `network_sizes.parts` for a training or an evaluation."""
    given, dataset = job.wildcards, job.wildcards.get("dataset", "")
    settings: Any
    if job.rule == "train_vit_segmentation":
        settings = resolved.segmentation()
    elif job.rule == "train_vit_pretext":
        settings = resolved.pretext(given["pretext"])
    elif job.rule == "train_autoencoder":
        settings = resolved.autoencoder(dataset, int(given["scale"]))
    else:
        ask = resolved.evaluation if job.rule == "evaluate" else resolved.super_resolution
        settings = ask(dataset, int(given["scale"]), given["method"])
    networks = {
        "vit": plain(resolved.params.vit.network),
        "autoencoder": plain(resolved.params.autoencoder.network),
    }
    size = sizes.geometry(resolved, dataset) if dataset else None
    return job.rule, plain(settings), networks, rates.pixels(size)


def cost(resolved: Resolved, job: Job, place: Place, known: list[Rate]) -> dict[str, Any]:
    """`seconds`, their `origin`, and `disk` in bytes of a job; nan: not known before slicing."""
    dataset, threads = job.wildcards.get("dataset"), min(job.threads, place.cores)
    size = sizes.geometry(resolved, dataset) if dataset else None
    found: dict[str, Any] = {
        "seconds": SMALL.get(job.rule, 3.0),
        "disk": BYTES.get(job.rule, 0),
        "origin": "constants",
    }
    if job.rule == "raw_source":
        disk, speed = sizes.RAW.get(job.wildcards["source"], (math.nan, 1.0))
        found |= {"seconds": disk / speed / threads, "disk": disk}
    elif job.rule in STORE:
        megapixels = size.megapixels(*sizes.SPLITS) if size else math.nan
        found["seconds"] = STORE[job.rule] + MEGAPIXEL * megapixels / threads
        found["disk"] = megapixels * 1e6 * (size.pixel_bytes if size else 1)
    elif job.rule in NETWORKS:
        work = work_of(resolved, job)
        rate = rates.choose(known, job.rule, place.device, network_sizes.work(*work))
        found["seconds"] = rate.pace * rates.total(*work[:3], size) + rates.overhead(job.rule, size)
        found["origin"] = rate.origin
        if job.rule != "evaluate":
            found["disk"] = KEPT * network_sizes.per_pixel(network_sizes.network(*work[:3]))[0]
        if job.rule == "train_self":  # one file, with a network for every volume
            found["disk"] *= size.volumes["test"] / 2 if size else math.nan
    return found


def plan(
    target: str,
    experiment: str | None,
    place: dict[str, Any],
    fresh: bool = False,
    timed: bool = False,
    file: Path = Path("params.yaml"),
) -> str:
    """The text that `mrsr plan` prints. place: of a `Place`. fresh: as if nothing were there yet.
    timed: measure first what would be guessed. file: the parameters.

    Raises:
        UserError: nothing makes the target; measuring another device than this computer's.
    """
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile here; run `mrsr plan` in the project's root")
    resolved = loading.load(file, experiment)
    here = Place(**{**place, "device": rates.device_for(place["device"])})
    with ThreadPoolExecutor() as pool:  # Snakemake thinks for seconds
        planned = pool.submit(dry_run, target, resolved.name, here.cores, fresh)
        known = [*rates.from_runs(), *measure.read()]
    jobs = planned.result()
    costs = [cost(resolved, job, here, known) for job in jobs]
    if timed:
        origins = [job_cost["origin"] for job_cost in costs]
        todo = [job for job, how in zip(jobs, origins, strict=True) if how.startswith(GUESSED)]
        known += measure.measure([work_of(resolved, job) for job in todo], here)
        costs = [cost(resolved, job, here, known) for job in jobs]
    return text.report(target, resolved, jobs, pd.DataFrame(costs), here)
