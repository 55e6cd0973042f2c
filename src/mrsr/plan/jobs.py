"""The jobs of a target by Snakemake's dry run, and how long they take on so many cores or GPUs.

What a job is handed, and what decides its speed, are looked up here too.

The wall time is a list scheduling of the jobs' graph: by priority and in the dry run's order, each
job starts when its inputs are there and as many cores (and a GPU, or a place in the queue) as it
needs are free.
"""

from __future__ import annotations

import heapq
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mrsr.errors import UserError
from mrsr.in_force import InForce
from mrsr.plan import rates
from mrsr.plan.rates import TRAININGS

STAGES = ("raw", "slices", "checkpoints", "metrics", "tables")
STAGE_OF = {
    "raw_source": "raw",
    "slice_dataset": "slices",
    "guide_dataset": "slices",
    "tracking_store": "checkpoints",
    **dict.fromkeys(TRAININGS, "checkpoints"),
    "evaluate": "metrics",
    "probe_autoencoder": "metrics",
}
ON_GPU = {*TRAININGS, "evaluate", "probe_autoencoder"}
BETWEEN = 0.3  # seconds from the end of a job to the start of the next, in Snakemake


@dataclass(frozen=True)
class Job:
    """A job of the dry run."""

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    threads: int = 1
    priority: int = 0

    @property
    def stage(self) -> str:
        """One of STAGES."""
        return STAGE_OF.get(self.rule, "tables")


@dataclass(frozen=True)
class Cost:
    """Of one job. seconds: on the threads or the GPU that it takes, None: not known.

    disk: bytes that stay; running: more bytes while it runs. origin: where the seconds are from.
    """

    seconds: float | None
    origin: str = "assumed"
    disk: float = 0.0
    running: float = 0.0


@dataclass(frozen=True)
class Place:
    """What there is to run on. jobs: places in a cluster's queue, where the other two are not
    counted; 0: this computer."""

    device: str
    cores: int = 1
    gpus: int = 1
    jobs: int = 0

    def needs(self, job: Job) -> dict[str, int]:
        """What a job takes while it runs."""
        if self.jobs:
            return {"jobs": 1}
        gpu = {"gpus": 1} if job.rule in ON_GPU and rates.is_gpu(self.device) else {}
        return {"cores": min(job.threads, self.cores), **gpu}


_HEAD = re.compile(r"\s*(?:local)?(?:rule|checkpoint) (\w+):")
_FIELD = re.compile(r"\s+(input|output|wildcards|threads|priority): (.*)")


def parse(text: str) -> list[Job]:
    """The jobs that a dry run lists, in its order; rules that only collect files are left out."""
    jobs: list[Job] = []
    fields: dict[str, str] | None = None
    for line in [*text.splitlines(), "rule end:"]:
        if head := _HEAD.fullmatch(line):
            if fields is not None and fields.get("output"):
                jobs.append(_job(fields))
            fields = {"rule": head[1]}
        elif fields is not None and (found := _FIELD.fullmatch(line)):
            fields.setdefault(found[1], found[2])
    return jobs


def _job(fields: dict[str, str]) -> Job:
    def listed(name: str) -> tuple[str, ...]:
        return tuple(filter(None, fields.get(name, "").split(", ")))

    wildcards = dict(pair.split("=", 1) for pair in listed("wildcards"))
    numbers = {
        "threads": int(fields.get("threads", "1")),
        "priority": int(fields.get("priority", "0")),
    }
    return Job(fields["rule"], wildcards, listed("input"), listed("output"), **numbers)


def dry_run(target: str, experiment: str, cores: int, fresh: bool = False) -> list[Job]:
    """The jobs that Snakemake would run for a target; none when it is all there.

    fresh: as if nothing were there yet.

    Raises:
        UserError: nothing makes the target, or Snakemake refuses for another reason.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--rerun-incomplete"]
    command += ["--cores", str(cores), *(["--forceall"] if fresh else []), target]
    done = subprocess.run(
        [*command, "--config", f"experiment={experiment}"], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise UserError(_refusal(target, done.stdout + done.stderr))
    return parse(done.stdout)


def _refusal(target: str, text: str) -> str:
    if "No rule to produce" in text:
        known = ", ".join(("all", *STAGES))
        return f"nothing makes '{target}'; targets are {known}, or a file of the experiment"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"snakemake cannot plan '{target}': {lines[-1] if lines else 'no reason given'}"


def settings_of(in_force: InForce, job: Job) -> dict[str, Any]:
    """What a training or an evaluation will be handed."""
    given = job.wildcards
    if job.rule == "train_vit_segmentation":
        return in_force.vit_settings("segmentation")
    if job.rule == "train_vit_pretext":
        return in_force.vit_settings("pretext", given["pretext"])
    dataset, scale = given["dataset"], int(given["scale"])
    if job.rule == "train_autoencoder":
        return in_force.autoencoder_settings(dataset, scale)
    if job.rule == "evaluate":
        return in_force.evaluate_settings(dataset, scale, given["method"])
    return in_force.train_settings(dataset, scale, given["method"])


def key_of(in_force: InForce, job: Job) -> str:
    """What decides how fast a training or an evaluation is."""
    settings = settings_of(in_force, job)
    if job.rule == "evaluate":
        return rates.evaluation_key(settings)
    return rates.speed(job.rule, settings, in_force.vit_settings("segmentation")["network"])


def wall(jobs: Sequence[Job], seconds: Sequence[float], place: Place) -> float:
    """Seconds from the first job's start to the last one's end, by list scheduling."""
    made = {path: number for number, job in enumerate(jobs) for path in job.outputs}
    waits = [{made[path] for path in job.inputs if path in made} for job in jobs]
    free = {"cores": place.cores, "gpus": place.gpus, "jobs": place.jobs}
    waiting = sorted(range(len(jobs)), key=lambda number: -jobs[number].priority)
    done, now = set[int](), 0.0
    running: list[tuple[float, int]] = []
    while waiting or running:
        for number in list(waiting):
            needs = place.needs(jobs[number])
            if waits[number] <= done and all(free[name] >= n for name, n in needs.items()):
                waiting.remove(number)
                heapq.heappush(running, (now + seconds[number] + BETWEEN, number))
                for name, n in needs.items():
                    free[name] -= n
        if not running:
            raise UserError("the jobs wait for each other; this is a mistake in the plan")
        now, number = heapq.heappop(running)
        done.add(number)
        for name, n in place.needs(jobs[number]).items():
            free[name] += n
    return now
