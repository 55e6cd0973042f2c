"""The estimate that `mrsr plan` prints.

The jobs are those of Snakemake's own dry run, so what is done already costs nothing
(`jobs.py`, which also schedules them). Seconds of a training or an evaluation come from rates
(`rates.py`), those of small jobs from the constants here; bytes from `sizes.py`. Pauses
of Snakemake, imports and the delivery to MLflow are counted; waiting in a cluster's queue is not.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrsr import config
from mrsr.errors import UserError
from mrsr.in_force import InForce
from mrsr.plan import rates, sizes
from mrsr.plan.jobs import Cost, Job, Place, dry_run, key_of, settings_of
from mrsr.plan.rates import TRAININGS, Rate
from mrsr.plan.sizes import Geometry
from mrsr.plan.text import IN_A_JOB, report

# seconds, measured on one core of an AMD EPYC server where nothing else is said
SMALL = {
    "tracking_store": 7.0,
    "loss_curves": 2.5,
    "write_tables": 3.0,
    "frozen_table": 2.0,
    "probe_autoencoder": 10.0,
}
BRAIN, KNEE, PHANTOM = 1.7, 1.2, 5.0  # core seconds of one simulated subject; of the start
SLICING, MEGAPIXEL = 3.5, 0.07  # of a dataset; of its pixels, before they are shared by workers
GUIDING = 15.0  # of a guide's store, with the residual shifts
BYTES_PER_SECOND = 10e6  # of a download, assumed


def cost(in_force: InForce, job: Job, place: Place, known: list[Rate]) -> Cost:
    """Seconds and bytes of one job."""
    dataset = job.wildcards.get("dataset", "")
    geometry = sizes.geometry(in_force, dataset) if dataset else None
    if job.rule in TRAININGS or job.rule == "evaluate":
        settings = settings_of(in_force, job)
        key = key_of(in_force, job)
        rate = rates.choose(known, job.rule, key, place.device, dataset)
        found = _timed(job.rule, settings, rate, geometry)
        disk, running = _weight(in_force, job, settings, geometry)
        return replace(found, disk=disk, running=running)
    if job.rule == "raw_source":
        return _raw(in_force, job, min(job.threads, place.cores))
    if job.rule in ("slice_dataset", "guide_dataset"):
        start = SLICING if job.rule == "slice_dataset" else GUIDING
        if geometry is None:
            return Cost(None, "not known before slicing")
        pixels = sum(map(geometry.count, sizes.SPLITS)) * geometry.height * geometry.width
        seconds = start + MEGAPIXEL * pixels / 1e6 / min(job.threads, place.cores)
        origin = "stores of this dataset" if geometry.exact else "assumed"
        return Cost(seconds, origin, geometry.bytes())
    kind = {"loss_curves": sizes.FIGURE_BYTES, "write_tables": sizes.TABLE_BYTES}
    return Cost(SMALL.get(job.rule, 3.0), "assumed", kind.get(job.rule, 0.0))


def _timed(
    rule: str, settings: dict[str, Any], rate: Rate | None, geometry: Geometry | None
) -> Cost:
    """Seconds of a training or an evaluation at a rate."""
    if rate is None:
        return Cost(None, "not measured")
    if rule == "evaluate":
        if geometry is None:
            return Cost(None, "not known before slicing")
        return Cost(rate.fixed + rate.step * geometry.count("test"), rate.origin)
    steps, checks = settings["steps"], 0.0
    if rule == "train_self":  # so many for every volume of the test set, and nothing to validate
        if geometry is None:
            return Cost(None, "not known before slicing")
        steps *= geometry.volumes["test"]
    else:
        checks = math.ceil(steps / settings["validate_every"])
        asked = settings.get("validation_slices", settings.get("validation_volumes", 0))
        checks *= asked / rate.checked if asked and rate.checked else 1.0
    return Cost(rate.fixed + steps * rate.step + checks * rate.check, rate.origin)


def _weight(
    in_force: InForce, job: Job, settings: dict[str, Any], geometry: Geometry | None
) -> tuple[float, float]:
    """Bytes that a training or an evaluation leaves, and more while it runs."""
    if job.rule == "evaluate":
        rows = geometry.count("test") if geometry else 0
        return sizes.METRICS_BYTES + sizes.SLICE_ROW_BYTES * rows, 0.0
    network = in_force.vit_settings("segmentation")["network"]
    count = sizes.parameters(job.rule, settings, network)
    if job.rule == "train_self":  # one network for every volume
        volumes = geometry.volumes["test"] if geometry else 1
        return 4.0 * count * volumes, 4.0 * count * (volumes + 6)
    return float(sizes.KEPT * count), float(sizes.RUNNING * count)


def _raw(in_force: InForce, job: Job, threads: int) -> Cost:
    source = job.wildcards["source"]
    size = sizes.raw_bytes(in_force, source)
    if size is None:
        return Cost(None, "not known before reading")
    kept, most = size
    if source == "phantom":
        settings = in_force.source_settings(source)
        brains, knees = sum(settings["subjects"].values()), sum(settings["knee"].values())
        work = BRAIN * brains * settings["slices"] / 32 + KNEE * knees
        return Cost(PHANTOM + work / threads, "assumed", kept)
    origin = f"assumed: {BYTES_PER_SECOND / 1e6:.0f} MB/s"
    return Cost(kept / BYTES_PER_SECOND, origin, kept, most - kept)


def plan(
    target: str,
    in_force: InForce,
    place: Place,
    *,
    fresh: bool = False,
    measured: bool = False,
) -> str:
    """The text that `mrsr plan` prints; see the module's docstring.

    measured: time what no run and no earlier measurement tells, first (`measure.py`).

    Raises:
        UserError: nothing makes the target; measuring another device than this computer's.
    """
    jobs = dry_run(target, in_force.name, place.cores, fresh)
    known = [*rates.read_measured(), *rates.from_runs()]
    if measured:
        from mrsr.plan.measure import measure

        known += measure(in_force, jobs, place, known)
    costs = [cost(in_force, job, place, known) for job in jobs]
    if place.jobs:
        costs = [
            c if c.seconds is None else replace(c, seconds=c.seconds + IN_A_JOB) for c in costs
        ]
    return report(target, in_force, jobs, costs, place)


def run(
    target: str,
    experiment: str | None,
    *,
    device: str = "auto",
    cores: int = 2,
    gpus: int = 1,
    jobs: int = 0,
    fresh: bool = False,
    measure: bool = False,
    file: Path = Path("params.yaml"),
) -> str:
    """`mrsr plan`: read the parameters, then `plan`."""
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile here; run `mrsr plan` in the project's root")
    in_force = config.load(file, experiment)
    place = Place(rates.device_for(device), cores, gpus, jobs)
    return plan(target, in_force, place, fresh=fresh, measured=measure)
