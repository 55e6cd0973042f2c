"""Time a few steps of each network of a plan, on stores of noise, by the trainings' own code.

Each distinct training (`rates.speed`) runs for some steps with the experiment's patch, on slices of
the dataset's size, in a temporary folder; an evaluation rates one volume, then two. The log's lines
are the clock: from line to line a step, behind the last one the validations. A batch that takes
several micro-batches is measured by one of them, and on a CPU by at most MOST images.

On a CPU with one thread the clock counts processor seconds, so that other work on the computer
does not count, and beside it as many neighbours compute as the plan lets jobs run at once: two
trainings side by side share caches and perhaps a core. On a GPU it is the wall clock.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mrsr import batches, evaluate, train_autoencoder, train_self, train_sr, train_vit
from mrsr.errors import UserError
from mrsr.in_force import InForce
from mrsr.log import say
from mrsr.plan import noise, rates
from mrsr.plan.jobs import Job, Place, key_of, settings_of
from mrsr.plan.noise import SLICES
from mrsr.plan.rates import TRAININGS, Rate
from mrsr.plan.sizes import SPLITS
from mrsr.settings import parse

STEPS, WARM = 6, 3  # steps of a measurement; of them with pixel terms alone, where there are such
MOST = 8  # images of a batch on a CPU
PATIENCE = 600  # seconds for one network, then it stays unknown
DELIVERY = 1.5  # seconds to write a run into MLflow's store, measured once beside its import
BUSY = 0.6  # less of a core than this: others were at work
_NEIGHBOUR = """
import torch
torch.set_num_threads(1)
x, w = torch.rand(8, 32, 64, 64), torch.rand(32, 32, 3, 3)
while True:
    torch.nn.functional.conv2d(x, w, padding=1)
"""


class _TooSlow(Exception):
    """A network did not do its few steps in PATIENCE seconds."""


def measure(
    in_force: InForce,
    jobs: list[Job],
    place: Place,
    known: list[Rate],
    neighbours: int | None = None,
) -> list[Rate]:
    """Rates of the jobs that `known` says nothing of on this device; they are kept on disk, too.

    neighbours: processes that compute meanwhile; None: what the plan's cores ask for.

    Raises:
        UserError: the plan is for a device that this computer does not have.
    """
    if place.device not in (rates.cpu_name(), rates.device_for("auto")):
        raise UserError(
            f"--measure times this computer, not '{place.device}'; run it there, or leave it out"
        )
    todo = _unknown(in_force, jobs, place, known)
    if not todo:
        return []
    gpu = rates.is_gpu(place.device)
    if neighbours is None:
        neighbours = 0 if gpu else min(place.cores, os.cpu_count() or 1) - 1
    found: list[Rate] = []
    began, busy = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="mrsr-plan-") as folder, _company(neighbours):
        start = _start_seconds(gpu)
        for number, (job, settings, key) in enumerate(todo, 1):
            what = f"{job.rule} {' '.join(job.wildcards.values())}".strip()
            say(f"measuring {number} of {len(todo)}: {what}")
            own = Path(folder) / str(number)
            try:
                with _limit(PATIENCE), contextlib.redirect_stderr(io.StringIO()):
                    rate = _one(in_force, job, settings, own, gpu)
            except (UserError, _TooSlow, RuntimeError) as error:
                say(f"not measured: {str(error) or f'slower than {PATIENCE} s'}")
                continue
            identity = {"rule": job.rule, "key": key, "device": place.device}
            rate["fixed"] += start
            found.append(Rate(**identity, **rate, origin="measured by a few steps"))
            rates.keep_measured(found[-1:])
    share = (time.process_time() - busy) / (time.perf_counter() - began)
    if not gpu and share < BUSY:
        say(
            f"warning: other work left {100 * share:.0f} % of a core for this; it slows each step "
            "too, so the plan may be up to twice too long; measure again when the computer is free"
        )
    return found


def _unknown(
    in_force: InForce, jobs: list[Job], place: Place, known: list[Rate]
) -> list[tuple[Job, dict[str, Any], str]]:
    """One job for each speed that no rate tells, with its settings and key."""
    todo = {}
    for job in jobs:
        if job.rule not in TRAININGS and job.rule != "evaluate":
            continue
        key = key_of(in_force, job)
        rate = rates.choose(known, job.rule, key, place.device)
        if rate is None or rate.origin.startswith("extrapolated"):
            todo.setdefault((job.rule, key), (job, settings_of(in_force, job), key))
    return list(todo.values())


def _one(
    in_force: InForce, job: Job, settings: dict[str, Any], folder: Path, gpu: bool
) -> dict[str, Any]:
    """`step`, `fixed`, `check`, `checked`, `dataset` of a job's rate."""
    clock = time.perf_counter if gpu or settings["threads"] != 1 else time.process_time
    settings = json.loads(json.dumps({**settings, "tracking": {"enabled": False}}))
    settings["device"] = "cuda" if gpu else "cpu"
    if job.rule == "evaluate":
        return _evaluation(in_force, settings, folder, clock)
    if job.rule.startswith("train_vit"):
        return _vit(in_force, job.rule, settings, folder, clock, gpu)
    return _sr(in_force, job.rule, settings, folder, clock, gpu)


def _sr(
    in_force: InForce,
    rule: str,
    settings: dict[str, Any],
    folder: Path,
    clock: Callable[[], float],
    gpu: bool,
) -> dict[str, Any]:
    """A training on one dataset: train_sr, train_autoencoder or train_self."""
    dataset = settings["dataset"]
    size = noise.geometry(in_force, dataset)
    stores = noise.stores(in_force, folder / dataset, dataset, size)
    short, times, warm = _short(settings, gpu)
    pairs, out = [stores[split] for split in SPLITS], folder / "best.pt"
    load = _loading(settings, stores["test"], clock)
    guided = settings.get("type") == "guided"
    guide = noise.guide(in_force, folder, dataset, size) if guided else None
    frozen = noise.frozen(in_force, settings, folder) if rule == "train_sr" else {}
    began = clock()
    if rule == "train_self":
        train_self.train(parse(json.dumps(short)), stores["test"], out)
    elif rule == "train_autoencoder":
        train_autoencoder.train(parse(json.dumps(short)), *pairs, out)
    else:
        train_sr.train(parse(json.dumps(short)), *pairs, out, frozen, guide)
    total = clock() - began
    marks = _marks(out, clock)
    if rule == "train_self":  # its log goes on from volume to volume: the first one's steps
        marks = [mark for mark in marks if mark[0] <= STEPS]
    every = range(2, STEPS + 1)
    lines = {step: at for step, split, at in marks if split == "train"}
    took = {step: lines[step] - lines[step - 1] for step in every if step - 1 in lines}
    step = statistics.median(list(took.values())[1:])
    if warm:
        cheap = statistics.median(took[n] for n in range(2, WARM + 1))
        full = statistics.median(took[n] for n in range(WARM + 2, STEPS + 1))
        share = min(1.0, warm / settings["steps"])
        step = share * cheap + (1 - share) * full
    check = marks[-1][2] - lines[STEPS]
    held = settings.get("validation_slices", 0)
    checked = min(short.get("validation_slices", 0) or SLICES, 2 * size.slices)
    if not held:  # all slices are looked at: what a rate of `checked` 0 means
        check *= (size.count("validation") + size.count("test")) / (2 * checked)
    slices = sum(map(size.count, SPLITS)) if rule != "train_self" else size.count("test")
    fixed = total - (marks[-1][2] - marks[0][2]) - step + load * slices
    if rule == "train_self":
        fixed, check = load * slices, 0.0
    return {
        "step": step * times,
        "fixed": max(0.0, fixed),
        "check": max(0.0, check),
        "checked": checked if held else 0,
        "dataset": dataset,
    }


def _vit(
    in_force: InForce,
    rule: str,
    settings: dict[str, Any],
    folder: Path,
    clock: Callable[[], float],
    gpu: bool,
) -> dict[str, Any]:
    """A phase of the vision transformer, on a store of each dataset of its pool."""
    names = in_force.labelled if rule == "train_vit_segmentation" else in_force.pool
    sized = {name: noise.geometry(in_force, name) for name in names}
    every = {n: noise.stores(in_force, folder / n, n, size) for n, size in sized.items()}
    stores = {split: [of[split] for of in every.values()] for split in SPLITS}
    short, times, _ = _short(settings, gpu)
    start = None
    if rule == "train_vit_pretext":
        start = noise.frozen(in_force, {"losses": {"vit": 1}}, folder)["vit"]
    out = folder / "best.pt"
    began = clock()
    train_vit.train(parse(json.dumps(short)), stores, start, out)
    total = clock() - began
    marks = _marks(out, clock)
    lines = {step: at for step, split, at in marks if split == "train"}
    took = [lines[step] - lines[step - 1] for step in range(3, STEPS + 1)]
    step, check = statistics.median(took), marks[-1][2] - lines[STEPS]
    held = settings["validation_volumes"]
    if not held:
        held_out = (s.volumes["validation"] + s.volumes["test"] for s in sized.values())
        check *= max(sum(held_out) / 2, 1.0)
    fixed = total - (marks[-1][2] - marks[0][2]) - step
    return {
        "step": step * times,
        "fixed": max(0.0, fixed),
        "check": check,
        "checked": 1 if held else 0,
        "dataset": "vit",
    }


def _evaluation(
    in_force: InForce, settings: dict[str, Any], folder: Path, clock: Callable[[], float]
) -> dict[str, Any]:
    """What a second volume adds, by its slices; the rest is the start."""
    dataset = settings["dataset"]
    size = noise.geometry(in_force, dataset)
    row = in_force.rows[settings["method"]]
    saved = None
    if row.trained:
        saved = folder / "best.pt"
        keys = ("0000", "0001") if row.type == "self" else ()
        noise.untrained(saved, row.model, settings["scale"], row.options, keys)
    spent = []
    for volumes in (1, 2):
        own = folder / str(volumes)
        store = noise.stores(in_force, own / dataset, dataset, size, volumes)["test"]
        guide = None
        if row.type == "guided":
            guide = noise.guide(in_force, own, dataset, size, volumes) / "test.h5"
        began = clock()
        evaluate.evaluate(parse(json.dumps(settings)), store, own / "m.json", saved, guide)
        spent.append(clock() - began)
    added = max(0.0, spent[1] - spent[0])
    step = added / noise.depth(size)
    return {"step": step, "fixed": max(0.0, spent[0] - added), "dataset": dataset}


def _short(settings: dict[str, Any], gpu: bool) -> tuple[dict[str, Any], float, int]:
    """Settings of the measurement, how many times a whole batch takes longer, and the steps of
    pixel terms alone that the training begins with."""
    short = dict(settings, steps=STEPS, log_every=1, validate_every=STEPS, checkpoint_every=STEPS)
    batch = min(settings["batch"], settings["micro_batch"] or settings["batch"])
    # an auto-encoder takes no slice twice in a batch: not more than the noise has
    batch = min(batch, 2 * SLICES) if gpu else min(batch, MOST)
    short.update(batch=batch, micro_batch=0, schedule={"kind": "constant", "warmup": 0})
    short["explode"] = 1e30  # noise is not what is to be learned
    if "validation_slices" in short:
        short["validation_slices"] = min(settings["validation_slices"] or SLICES, SLICES)
    if "validation_volumes" in short:
        short["validation_volumes"] = 1
    warm = 0
    if isinstance(short.get("features"), dict):
        short["features"] = {**short["features"], "gradient_norms_every": 0}
    if "gradient_norms_every" in short:
        short["gradient_norms_every"] = 0
    if isinstance(short.get("adversarial"), dict):
        warm = settings["adversarial"]["warmup"]
        short["adversarial"] = {**short["adversarial"], "warmup": WARM if warm else 0}
    return short, settings["batch"] / batch, warm


def _loading(settings: dict[str, Any], store: Path, clock: Callable[[], float]) -> float:
    """Seconds to read and degrade one slice."""
    given = {key: settings[key] for key in ("scale", "degradation", "device")}
    began = clock()
    slices = batches.load(store, **given)
    return (clock() - began) / slices.count


def _marks(out: Path, clock: Callable[[], float]) -> list[tuple[int, str, float]]:
    """(step, split, seconds of that clock) of each line that a training logged."""
    field = "cpu" if clock is time.process_time else "time"
    text = (out.parent / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [(line["step"], line["split"], line[field]) for line in lines if "step" in line]


def _start_seconds(gpu: bool) -> float:
    """Seconds of a job's imports and its delivery to MLflow."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import mrsr.train_sr, mlflow"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (time.perf_counter() - began if gpu else busy) + DELIVERY


@contextlib.contextmanager
def _company(count: int) -> Iterator[None]:
    """So many processes that compute, until the block ends."""
    running = [subprocess.Popen([sys.executable, "-c", _NEIGHBOUR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise `_TooSlow` in the block after so many seconds."""

    def ring(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
