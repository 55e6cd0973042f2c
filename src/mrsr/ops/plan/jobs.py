"""The jobs of Snakemake's dry run, and how long they take side by side."""

from __future__ import annotations

import heapq
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
    """The machine to plan for. device: cpu, or a GPU's name. jobs: cluster jobs at a time, without
    a limit of cores and GPUs; 0: this computer."""

    device: str
    cores: int = 1
    gpus: int = 1
    jobs: int = 0

    def on_gpu(self, job: Job) -> bool:
        """Whether a job occupies a GPU."""
        return self.device != "cpu" and job.stage in ("checkpoints", "metrics")


_HEAD = re.compile(r"\s*(?:local)?(?:rule|checkpoint) (\w+):")
_FIELD = re.compile(r"\s+(input|output|wildcards|threads|priority): (.*)")


def parse(text: str) -> list[Job]:
    """The jobs that a dry run lists, in its order, without rules that only collect files."""
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        if head := _HEAD.fullmatch(line):
            found.append({"rule": head[1]})
        elif found and (pair := _FIELD.fullmatch(line)):
            found[-1].setdefault(pair[1], pair[2])
    return [_job(fields) for fields in found if fields.get("output")]


def _job(fields: dict[str, str]) -> Job:
    pairs, inputs, outputs = (
        [part for part in fields.get(name, "").split(", ") if part]
        for name in ("wildcards", "input", "output")
    )
    wildcards = dict(pair.split("=", 1) for pair in pairs)
    numbers = (int(fields.get("threads", 1)), int(fields.get("priority", 0)))
    return Job(fields["rule"], wildcards, tuple(inputs), tuple(outputs), *numbers)


def dry_run(target: str, experiment: str, cores: int, fresh: bool = False) -> list[Job]:
    """The jobs that Snakemake would run for a target; fresh: as if nothing had been run.

    Raises:
        UserError: nothing makes the target, or Snakemake refuses for another reason.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--rerun-incomplete"]
    command += ["--cores", str(cores), *(["--forceall"] if fresh else []), target]
    command += ["--config", f"experiment={experiment}"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UserError(refusal(target, done.stdout + done.stderr))
    return parse(done.stdout)


def refusal(target: str, said: str) -> str:
    """What Snakemake said, as one line."""
    if "No rule to produce" in said:
        known = ", ".join(STAGES)
        return f"nothing makes '{target}'; targets are all, {known}, or a file of the experiment"
    last = (said.strip() or "no reason given").splitlines()[-1].strip()
    return f"snakemake cannot plan '{target}': {last}"


def wall(jobs: Sequence[Job], seconds: Sequence[float], place: Place) -> float:
    """Seconds from the first job's start to the last one's end, by list scheduling: the
    next job is always the one whose inputs and whose core, GPU or place in the queue are ready
    first; of equals, that of the highest priority, then the first in the dry run's order."""
    made = {path for job in jobs for path in job.outputs}
    ends: dict[str, float] = {}
    place = replace(place, device="cpu") if place.jobs else place
    # when each core and each GPU is free again; in a queue all places are alike
    idle = [[0.0] * (place.jobs or place.cores), [0.0] * place.gpus]
    todo = sorted(zip(jobs, seconds, strict=True), key=lambda pair: -pair[0].priority)
    while todo:
        starts = []
        for number, (job, _) in enumerate(todo):
            waits = [ends.get(path, math.inf) for path in job.inputs if path in made]
            starts.append((max([*waits, min(idle[place.on_gpu(job)])]), number))
        start, number = min(starts)
        job, length = todo.pop(number)
        heapq.heapreplace(idle[place.on_gpu(job)], start + length + BETWEEN)
        ends |= dict.fromkeys(job.outputs, start + length + BETWEEN)
    return max(ends.values(), default=0.0)
