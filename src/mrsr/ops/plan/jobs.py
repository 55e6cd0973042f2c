"""The jobs that a target needs, from the resolved experiment, and how long they take side by side.

Snakemake answers the same question in half a minute for `paper`. What is here are the inputs and
outputs of its rules (workflow/rules/) once more, without anything else of them; a test compares the
two, job by job, so that they cannot differ unnoticed (tests/ops/test_plan_jobs.py).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mrsr.errors import UserError
from mrsr.params import figures
from mrsr.params.experiment import Resolved
from mrsr.params.repeats import frozen_home, origin
from mrsr.params.schema import SPLITS

STAGES = ("raw", "slices", "checkpoints", "metrics", "tables", "figures", "report")
BETWEEN = 0.3  # seconds from the end of a job to the start of the next, in Snakemake


@dataclass(frozen=True)
class Job:
    """A job of the workflow; paths are relative to the project's root."""

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    threads: int = 1
    priority: int = 0

    @property
    def stage(self) -> str:
        """One of STAGES, by the folder of what it makes."""
        if self.rule == "write_report":
            return "report"
        return next((stage for stage in STAGES if f"/{stage}/" in self.outputs[0]), "tables")


@dataclass(frozen=True)
class Place:
    """The machine to plan for. device: cpu, or a GPU's name. jobs: cluster jobs at a time, without
    a limit of cores and GPUs; 0: this computer. waits: whether a GPU waits for its kernels' starts,
    where that has to be assumed."""

    device: str
    cores: int = 1
    gpus: int = 1
    jobs: int = 0
    waits: bool = True

    def on_gpu(self, job: Job) -> bool:
        """Whether a job occupies a GPU."""
        return self.device != "cpu" and job.stage in ("checkpoints", "metrics")


def every(resolved: Resolved) -> list[Job]:
    """All jobs of an experiment, in the order of the stages."""
    return [*_data(resolved), *_trainings(resolved), *_results(resolved)]


def _stores(folder: str, dataset: str) -> tuple[str, ...]:
    return tuple(f"{folder}/slices/{dataset}/{split}.h5" for split in SPLITS)


def _guided(resolved: Resolved) -> list[str]:
    """Datasets whose guide a training or an evaluation reads."""
    cells = [*resolved.trainings(), *resolved.cells]
    guided = (c.dataset for c in cells if resolved.methods[c.method].type == "guided")
    return list(dict.fromkeys(guided))


def _data(resolved: Resolved) -> Iterator[Job]:
    folder, entries = f"results/{resolved.name}", resolved.params.data.datasets
    for source in resolved.sources:
        yield Job("raw_source", {"source": source}, (), (_manifest(source),), threads=2)
    for dataset in resolved.datasets:
        made = (*_stores(folder, dataset), f"{folder}/slices/{dataset}/skipped.json")
        manifest = (_manifest(entries[dataset].source),)
        yield Job("slice_dataset", {"dataset": dataset}, manifest, made, threads=2)
    for dataset in _guided(resolved):
        read = (_manifest(entries[dataset].source), *_stores(folder, dataset))
        made = _stores(folder, f"{dataset}/guide")
        yield Job("guide_dataset", {"dataset": dataset}, read, made)


def _manifest(source: str) -> str:
    return f"data/raw/{source}/manifest.csv"


def _trainings(resolved: Resolved) -> Iterator[Job]:
    folder, params = f"results/{resolved.name}", resolved.params
    ready = (f"{folder}/tracking.ready",)
    yield Job("tracking_store", {}, (), ready)
    vit = f"{folder}/checkpoints/vit"
    if resolved.pool:
        labelled = [path for name in resolved.labelled for path in _stores(folder, name)]
        pool = [path for name in resolved.pool for path in _stores(folder, name)]
        start, threads = (f"{vit}/segmentation/best.pt",), params.vit.segmentation.threads
        yield Job("train_vit_segmentation", {}, (*labelled, *ready), start, threads, 2)
        for task in resolved.pretexts:
            read, threads = (*pool, *start, *ready), params.vit.finetuning.threads
            made = (f"{vit}/{task}/best.pt",)
            yield Job("train_vit_pretext", {"pretext": task}, read, made, threads, 2)
    for dataset, scale in resolved.autoencoders():
        cell = {"dataset": dataset, "scale": str(scale)}
        read, made = (*_stores(folder, dataset), *ready), (_best(folder, cell, "autoencoder"),)
        yield Job("train_autoencoder", cell, read, made, params.autoencoder.threads, 1)
    for training in resolved.trainings():
        method = resolved.methods[training.method]
        cell = {"dataset": training.dataset, "scale": str(training.scale)}
        wildcards, stores = {**cell, "method": training.method}, _stores(folder, training.dataset)
        made, threads = (_best(folder, cell, training.method),), method.training.threads
        if method.type == "self":
            yield Job("train_self", wildcards, (stores[-1], *ready), made, threads)
            continue
        read = (*stores, *ready)
        if method.type == "guided":
            read += _stores(folder, f"{training.dataset}/guide")
        if "vit" in method.frozen:
            read += (f"{vit}/{params.vit.pretext}/best.pt",)
        if "autoencoder" in method.frozen:
            frozen = {**cell, "dataset": frozen_home(training.dataset)}
            read += (_best(folder, frozen, "autoencoder"),)
        yield Job("train_sr", wildcards, read, made, threads)


def _best(folder: str, cell: dict[str, str], method: str) -> str:
    return f"{folder}/checkpoints/{cell['dataset']}/x{cell['scale']}/{method}/best.pt"


def _results(resolved: Resolved) -> Iterator[Job]:
    folder = f"results/{resolved.name}"
    metrics: list[str] = []
    for cell in resolved.cells:
        method, where = resolved.methods[cell.method], f"{cell.dataset}/x{cell.scale}"
        read = [f"{folder}/slices/{cell.dataset}/test.h5", f"{folder}/tracking.ready"]
        if method.trained:
            dataset, key = method.home(cell.dataset)
            read.append(_best(folder, {"dataset": dataset, "scale": str(cell.scale)}, key))
        if method.type == "guided":
            read.append(f"{folder}/slices/{cell.dataset}/guide/test.h5")
        metrics.append(f"{folder}/metrics/{where}/{cell.method}.json")
        wildcards = {"dataset": cell.dataset, "scale": str(cell.scale), "method": cell.method}
        yield Job("evaluate", wildcards, tuple(read), (metrics[-1],))
    probes, frozen = [], [f"{folder}/checkpoints/vit/{name}" for name in _phases(resolved)]
    for dataset, scale in resolved.autoencoders():
        cell_of = {"dataset": dataset, "scale": str(scale)}
        weights = _best(folder, cell_of, "autoencoder")
        probes.append(f"{folder}/metrics/{dataset}/x{scale}/autoencoder.probe")
        stores = f"{folder}/slices/{dataset}/test.h5"
        yield Job("probe_autoencoder", cell_of, (weights, stores), (probes[-1],))
    kinds = [f"{table}.{kind}" for table in resolved.experiment.tables for kind in KINDS]
    names = ("tables/results.csv", *(f"tables/{name}" for name in kinds))
    rows = [(origin(cell.dataset).dataset, cell.scale, cell.method) for cell in resolved.cells]
    summary = [f"summary/{d}/x{s}/{m}.json" for d, s, m in dict.fromkeys(rows)]
    names = (*names, "tables/differences.csv", "tables/psnr.png", *summary)
    yield Job("write_tables", {}, tuple(metrics), tuple(f"{folder}/{name}" for name in names))
    if frozen or probes:
        table = (f"{folder}/tables/frozen.csv", f"{folder}/tables/frozen.md")
        yield Job("frozen_table", {}, (*(f"{f}/best.pt" for f in frozen), *probes), table)
    for training in [job for job in _trainings(resolved) if job.rule.startswith("train_")]:
        name = training.outputs[0].removeprefix(f"{folder}/checkpoints/").rpartition("/")[0]
        flat = name.replace("/", "_")
        made = (f"{folder}/figures/{flat}.png",)
        yield Job("loss_curves", {"training": flat}, training.outputs, made)
    yield from _pages(resolved, metrics, table if frozen or probes else ())


def _pages(resolved: Resolved, metrics: list[str], frozen: tuple[str, ...]) -> Iterator[Job]:
    """The figures of the paper, what they show, and the page."""
    folder, shown = f"results/{resolved.name}", []
    for column in figures.columns(resolved):
        job = figures.examples(resolved, column)
        name, where = f"{column.name}_x{column.scale}", f"{job.dataset}/x{job.scale}"
        read = [f"{folder}/metrics/{where}/{cell.method}.json" for cell in job.cells]
        read += [f"{folder}/checkpoints/{path}/best.pt" for path in job.trainings.values()]
        read.append(f"{folder}/slices/{job.dataset}/test.h5")
        if any(cell.type == "guided" for cell in job.cells):
            read.append(f"{folder}/slices/{job.dataset}/guide/test.h5")
        shown.append(f"{folder}/figures/examples/{name}.npz")
        yield Job("example_images", {"column": name}, tuple(read), (shown[-1],))
    names = [f"{folder}/figures/{name}" for name in figures.names(resolved)]
    made = tuple(f"{name}.{suffix}" for suffix in figures.FORMATS for name in names)
    logs = [f"{folder}/checkpoints/{name}/best.pt" for name in figures.losses(resolved)]
    yield Job("draw_figures", {}, (*metrics, *shown, *logs), made)
    read = [*metrics, *(f"{name}.png" for name in names), *shown, *frozen[:1]]
    read += [f"{folder}/checkpoints/{name}/best.pt" for name in figures.trainings(resolved)]
    read += [path for name in resolved.datasets for path in _stores(folder, name)]
    yield Job("write_report", {}, tuple(read), (f"{folder}/report.html",))


KINDS = ("csv", "tex", "md")


def _phases(resolved: Resolved) -> tuple[str, ...]:
    return ("segmentation", *resolved.pretexts) if resolved.pool else ()


def needed(
    jobs: Sequence[Job], target: str, changed: Iterable[str] = (), fresh: bool = False
) -> list[Job]:
    """Those of all `jobs` that a run for the target would start, in their order.

    Args:
        target: all, a stage, a rule, or a file that one of them makes.
        changed: files that were made with other settings. fresh: as if nothing had been run.

    Raises:
        UserError: nothing makes the target.
    """
    maker = {path: job for job in jobs for path in job.outputs}
    ends = [job for job in jobs if _reached(job, target)]
    if not ends:
        known = ", ".join(STAGES)
        raise UserError(
            f"nothing makes '{target}'; targets are all, {known}, or a file of the experiment"
        )
    changed, missing, updated = set(changed), set(), set()
    for job in jobs:  # what they read comes before them
        times = [Path(path).stat().st_mtime for path in job.outputs if Path(path).exists()]
        read = [path for path in job.inputs if not path.endswith("/tracking.ready")]  # ancient
        newest = max((Path(p).stat().st_mtime for p in read if Path(p).exists()), default=0.0)
        if len(times) < len(job.outputs):
            missing.add(id(job))
        elif changed & {*job.outputs} or newest > min(times):
            updated.add(id(job))
        if any(path in maker and id(maker[path]) in updated for path in read):
            updated.add(id(job))
    chosen: set[int] = set()
    while ends:  # what lies there and is as it should be needs none of what it was made from
        job = ends.pop()
        if id(job) not in chosen and (fresh or id(job) in missing | updated):
            chosen.add(id(job))
            ends += [maker[path] for path in job.inputs if path in maker]
    return [job for job in jobs if id(job) in chosen]


def _reached(job: Job, target: str) -> bool:
    """Whether a job makes what a target asks for."""
    ends = {
        "tables": ("write_tables", "frozen_table"),
        "figures": ("loss_curves", "draw_figures"),
        "report": ("write_report",),
    }
    if target == "all":
        return any(job.rule in rules for rules in ends.values())
    if target in ends:
        return job.rule in ends[target]
    if target in STAGES:
        return job.stage == target and job.rule != "tracking_store"
    return target in job.outputs or (target == job.rule and not job.wildcards)


def wall(jobs: Sequence[Job], seconds: Sequence[float], place: Place) -> float:
    """Seconds from the first job's start to the last one's end, by list scheduling: the
    next job is always the one whose inputs and whose core, GPU or place in the queue are ready
    first; of equals, that of the highest priority, then the first in their order."""
    made = {path for job in jobs for path in job.outputs}
    ends: dict[str, float] = {}
    place = replace(place, device="cpu") if place.jobs else place
    # when each core and each GPU is free again; in a queue all places are alike
    idle = [[0.0] * (place.jobs or place.cores), [0.0] * place.gpus]
    order = sorted(zip(jobs, seconds, strict=True), key=lambda pair: -pair[0].priority)
    waiting = [
        (job, length, place.on_gpu(job), [path for path in job.inputs if path in made])
        for job, length in order
    ]
    while waiting:
        free, starts = [min(kind) for kind in idle], []
        for number, (_, _, on_gpu, paths) in enumerate(waiting):
            start = max((ends.get(path, math.inf) for path in paths), default=0.0)
            starts.append((max(start, free[on_gpu]), number))
        start, number = min(starts)
        job, length, on_gpu, _ = waiting.pop(number)
        heapq.heapreplace(idle[on_gpu], start + length + BETWEEN)
        ends |= dict.fromkeys(job.outputs, start + length + BETWEEN)
    return max(ends.values(), default=0.0)
