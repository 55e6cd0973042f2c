"""The jobs of Snakemake's dry run, and how long they take side by side."""

from __future__ import annotations

import heapq
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from mrsr.errors import UserError

STAGES = ("raw", "slices", "checkpoints", "metrics", "tables")
BETWEEN = 0.3  # seconds from the end of a job to the start of the next, in Snakemake


@dataclass(frozen=True)
class Job:
    """A job of the dry run; paths are relative to the project's root."""

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    threads: int = 1
    priority: int = 0

    @property
    def stage(self) -> str:
        """One of STAGES, by the folder of what it makes."""
        return next((stage for stage in STAGES if f"/{stage}/" in self.outputs[0]), "tables")


@dataclass(frozen=True)
class Place:
    """What there is to run on. device: cpu, or a GPU's name. jobs: how many at a time in a
    cluster's queue, whose cores and GPUs are not counted; 0: this computer."""

    device: str
    cores: int = 1
    gpus: int = 1
    jobs: int = 0

    def on_gpu(self, job: Job) -> bool:
        """Whether a job occupies a GPU."""
        return self.device != "cpu" and job.stage in ("checkpoints", "metrics")

    def needs(self, job: Job) -> dict[str, int]:
        """What a job takes while it runs."""
        if self.jobs:
            return {"jobs": 1}
        return {"cores": min(job.threads, self.cores), "gpus": int(self.on_gpu(job))}


_HEAD = re.compile(r"\s*(?:local)?(?:rule|checkpoint) (\w+):")
_FIELD = re.compile(r"\s+(input|output|wildcards|threads|priority): (.*)")


def parse(text: str) -> list[Job]:
    """The jobs that a dry run lists, in its order; rules that only collect files are left out."""
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            found.append({"rule": head[1]})
        elif found and (pair := _FIELD.fullmatch(line)):
            found[-1].setdefault(pair[1], pair[2])
    return [
        Job(
            rule=job["rule"],
            wildcards=dict(pair.split("=", 1) for pair in _list(job, "wildcards")),
            inputs=_list(job, "input"),
            outputs=_list(job, "output"),
            threads=int(job.get("threads", 1)),
            priority=int(job.get("priority", 0)),
        )
        for job in found
        if job.get("output")
    ]


def _list(job: dict[str, str], field: str) -> tuple[str, ...]:
    return tuple(filter(None, job.get(field, "").split(", ")))


def dry_run(target: str, experiment: str, cores: int, fresh: bool = False) -> list[Job]:
    """The jobs that Snakemake would run for a target; none when it is all there.

    fresh: as if nothing were there yet.

    Raises:
        UserError: nothing makes the target, or Snakemake refuses for another reason.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--rerun-incomplete"]
    command += ["--cores", str(cores), *(["--forceall"] if fresh else []), target]
    command += ["--config", f"experiment={experiment}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(refusal(target, done.stdout + done.stderr))
    return parse(done.stdout)


def refusal(target: str, said: str) -> str:
    """What Snakemake said, as one line."""
    if "No rule to produce" in said:
        known = ", ".join(("all", *STAGES))
        return f"nothing makes '{target}'; targets are {known}, or a file of the experiment"
    lines = said.strip().splitlines() or ["no reason given"]
    return f"snakemake cannot plan '{target}': {lines[-1].strip()}"


def wall(jobs: Sequence[Job], seconds: Sequence[float], place: Place) -> float:
    """Seconds from the first job's start to the last one's end, by list scheduling.

    By priority, then in the dry run's order, each job starts when its inputs are there and the
    cores (and a GPU, or a place in the queue) that it needs are free.
    """
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
        now, number = heapq.heappop(running)
        done.add(number)
        for name, n in place.needs(jobs[number]).items():
            free[name] += n
    return now
