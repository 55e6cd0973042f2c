"""The cost of each job: seconds, from what to what, and bytes.

Includes imports and the upload to MLflow, but not waiting in a queue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mrsr.ops.plan import rates, sizes, work
from mrsr.ops.plan.jobs import Job, Place
from mrsr.ops.plan.networks import per_pixel
from mrsr.ops.plan.rates import Rate, Seconds
from mrsr.params.experiment import Resolved

# seconds on one core of an AMD EPYC server, measured: of a rule's job, of others; of a store and of
# a megapixel in it; a job's imports and delivery to MLflow; to degrade and score a megapixel
SMALL, ELSE = {"tracking_store": 7.0, "frozen_table": 2.0, "probe_autoencoder": 10.0}, 3.0
SMALL |= {"example_images": 15.0, "draw_figures": 15.0, "write_report": 10.0}  # guessed
STORE, MEGAPIXEL = {"slice_dataset": 3.5, "guide_dataset": 15.0}, 0.07
START, SCORING = 9.0, 0.2
# bytes that a job writes, and of a parameter in best.pt and last.pt
BYTES, KEPT = {"evaluate": 300e3, "loss_curves": 80e3, "write_tables": 100e3}, 2 * 4
BYTES |= {"example_images": 3e6, "draw_figures": 4e6, "write_report": 10e6}


@dataclass(frozen=True)
class Cost:
    """Of a job; NaN: not known before slicing. disk: bytes."""

    seconds: Seconds
    origin: str = "constants"
    disk: float = 0.0


def cost(resolved: Resolved, job: Job, place: Place, known: Sequence[Rate]) -> Cost:
    """What one job takes and writes."""
    threads, size = min(job.threads, place.cores), work.geometry(resolved, job)
    fixed, disk = SMALL.get(job.rule, ELSE), BYTES.get(job.rule, 0.0)
    if job.rule == "raw_source":
        source = sizes.RAW.get(job.wildcards["source"], {})
        disk = source.get("bytes", math.nan)
        fixed = disk / source.get("bytes_per_second", math.nan) / threads
    elif job.rule in STORE:
        megapixels = size.megapixels() if size else math.nan
        fixed = STORE[job.rule] + MEGAPIXEL * megapixels / threads
        disk = megapixels * 1e6 * (size.pixel_bytes if size else 1)
    elif work.works(job):
        parts, uses = work.load(resolved, job)
        rate = rates.choose(known, job.rule, place.device, work.image(parts))
        fixed = START
        if job.rule == "evaluate":
            fixed += SCORING * (size.megapixels("test") if size else math.nan)
        else:  # SMORE's file has a network for every volume
            each = (size.volumes["test"] / 2 if size else math.nan) if "self" in job.rule else 1
            disk = KEPT * each * per_pixel(uses[0].network)[0]
        found = rates.seconds(uses, place.device, rate, place.waits)
        return Cost(Seconds(*(fixed + value for value in found)), rate.origin, disk)
    return Cost(Seconds(fixed, fixed, fixed), disk=disk)


def costs(resolved: Resolved, of: Iterable[Job], place: Place, known: Sequence[Rate]) -> list[Cost]:
    """Of several jobs."""
    return [cost(resolved, job, place, known) for job in of]
