"""Time a few steps of each network of a plan, on stores of noise, by the trainings' own code.

Each distinct training (`plan_rates.speed`) runs for some steps with the experiment's patch, on
slices of the dataset's size, in a temporary folder; an evaluation rates two volumes. The log's
lines are the clock: from line to line a step, behind the last one the validations. A batch that
takes several micro-batches is measured by one of them, and on a CPU by at most MOST images.

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

import numpy as np

from mrsr import (
    batches,
    checkpoint,
    evaluate,
    models,
    plan_rates,
    plan_sizes,
    slicing,
    train_autoencoder,
    train_self,
    train_sr,
    train_vit,
)
from mrsr.errors import UserError
from mrsr.in_force import InForce
from mrsr.log import Log, say
from mrsr.plan_jobs import Job, Place
from mrsr.plan_rates import TRAININGS, Rate
from mrsr.plan_sizes import SPLITS, Geometry
from mrsr.settings import parse

STEPS, WARM = 6, 3  # steps of a measurement; of them with pixel terms alone, where there are such
MOST = 8  # images of a batch on a CPU
SLICES = 16  # of a volume of noise; a labelled one has all of its
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
    if place.device not in (plan_rates.cpu_name(), plan_rates.device_for("auto")):
        raise UserError(
            f"--measure times this computer, not '{place.device}'; run it there, or leave it out"
        )
    todo = _unknown(in_force, jobs, place, known)
    if not todo:
        return []
    gpu = plan_rates.is_gpu(place.device)
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
            plan_rates.keep_measured(found[-1:])
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
    from mrsr import plan

    todo = {}
    for job in jobs:
        if job.rule not in TRAININGS and job.rule != "evaluate":
            continue
        key = plan.key_of(in_force, job)
        rate = plan_rates.choose(known, job.rule, key, place.device)
        if rate is None or rate.origin.startswith("extrapolated"):
            todo.setdefault((job.rule, key), (job, plan.settings_of(in_force, job), key))
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
    size = _geometry(in_force, dataset)
    stores = _stores(in_force, folder / dataset, dataset, size)
    short, times, warm = _short(settings, gpu)
    pairs, out = [stores[split] for split in SPLITS], folder / "best.pt"
    load = _loading(settings, stores["test"], clock)
    with _marks(clock) as marks:
        began = clock()
        if rule == "train_self":
            train_self.train(parse(json.dumps(short)), stores["test"], out)
        elif rule == "train_autoencoder":
            train_autoencoder.train(parse(json.dumps(short)), *pairs, out)
        else:
            guide = (
                _guide(in_force, folder, dataset, size) if settings["type"] == "guided" else None
            )
            frozen = _frozen(in_force, settings, folder)
            train_sr.train(parse(json.dumps(short)), *pairs, out, frozen, guide)
        total = clock() - began
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
    every = {
        name: _stores(in_force, folder / name, name, _geometry(in_force, name)) for name in names
    }
    stores = {split: [of[split] for of in every.values()] for split in SPLITS}
    short, times, _ = _short(settings, gpu)
    start = None
    if rule == "train_vit_pretext":
        start = _frozen(in_force, {"losses": {"vit": 1}}, folder)["vit"]
    with _marks(clock) as marks:
        began = clock()
        train_vit.train(parse(json.dumps(short)), stores, start, folder / "best.pt")
        total = clock() - began
    lines = {step: at for step, split, at in marks if split == "train"}
    took = [lines[step] - lines[step - 1] for step in range(3, STEPS + 1)]
    step, check = statistics.median(took), marks[-1][2] - lines[STEPS]
    held = settings["validation_volumes"]
    if not held:
        sizes = [_geometry(in_force, name) for name in names]
        check *= max(sum(s.volumes["validation"] + s.volumes["test"] for s in sizes) / 2, 1.0)
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
    """The second volume's seconds a slice; the rest is the start."""
    dataset = settings["dataset"]
    size = _geometry(in_force, dataset)
    store = _stores(in_force, folder / dataset, dataset, size)["test"]
    row = in_force.rows[settings["method"]]
    guide = _guide(in_force, folder, dataset, size) / "test.h5" if row.type == "guided" else None
    saved = None
    if row.trained:
        saved = folder / "best.pt"
        keys = ("0000", "0001") if row.type == "self" else ()
        _random(saved, row.model, settings["scale"], row.options, keys)
    load = _loading(settings, store, clock)
    at: list[float] = []
    rated = evaluate._rated

    def timed(*given: Any) -> Any:
        result = rated(*given)
        at.append(clock())
        return result

    evaluate._rated = timed
    try:
        began = clock()
        evaluate.evaluate(parse(json.dumps(settings)), store, folder / "m.json", saved, guide)
        total = clock() - began
    finally:
        evaluate._rated = rated
    slices = _depth(size)
    step = (at[1] - at[0]) / slices + load
    return {"step": step, "fixed": max(0.0, total - 2 * slices * step), "dataset": dataset}


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


def _geometry(in_force: InForce, dataset: str) -> Geometry:
    size = plan_sizes.geometry(in_force, dataset)
    if size is None:
        raise UserError(f"the slices' size of {dataset} is not known; run `snakemake slices` first")
    return size


def _depth(size: Geometry) -> int:
    """Slices of a volume of noise; a 3D network needs all."""
    return size.slices if size.labels else min(size.slices, SLICES)


def _stores(in_force: InForce, folder: Path, dataset: str, size: Geometry) -> dict[str, Path]:
    """Stores of two volumes of noise each, by split."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (_depth(size), size.height, size.width)
    paths = {split: folder / f"{split}.h5" for split in SPLITS}
    for seed, (split, path) in enumerate(paths.items()):
        rng = np.random.default_rng(seed)
        with slicing.new_store(path) as file:
            organ = in_force.params.data.datasets[dataset].organ
            described = {"format": slicing.FORMAT, "dataset": dataset, "organ": organ}
            described |= {"contrast": "", "split": split, "settings": "{}", "digest": split}
            file.attrs.update(described)
            file.create_group("volumes")
            for number in range(2):
                data = rng.integers(1, 1000, shape).astype(np.int16)
                labels = (data % 5).astype(np.uint8) if size.labels else None
                noise = slicing.Sliced(
                    data=data.astype(np.complex64) if size.is_complex else data,
                    **{"scale": 1000.0, "slope": 1.0, "intercept": 0.0, "affine": np.eye(4)},
                    slice_index=list(range(shape[0])),
                    voxel_size=(1.0, 1.0, 1.0),
                    labels=labels,
                )
                about = {"subject": f"s{seed}{number}", "visit": "", "path": f"{number}"}
                slicing.write_volume(file, number, noise, **about)
    return paths


def _guide(in_force: InForce, folder: Path, dataset: str, size: Geometry) -> Path:
    return _stores(in_force, folder / "guide", dataset, size)["test"].parent


def _frozen(in_force: InForce, settings: dict[str, Any], folder: Path) -> dict[str, Path | None]:
    """Checkpoints, of random weights, of the networks that the losses look through."""
    paths: dict[str, Path | None] = {"vit": None, "autoencoder": None}
    losses = settings["losses"]
    if "vit" in losses:
        vit = in_force.vit_settings("segmentation")
        paths["vit"] = folder / "vit.pt"
        options = {**vit["network"], "classes": vit["classes"], "dimensions": 3}
        _random(paths["vit"], "unetr", 1, options)
    if {"structure", "texture"} & set(losses):
        own = in_force.autoencoder_settings(settings["dataset"], settings["scale"])["network"]
        paths["autoencoder"] = folder / "autoencoder.pt"
        _random(paths["autoencoder"], "autoencoder", settings["scale"], own)
    return paths


def _random(
    path: Path, model: str, scale: int, options: dict[str, Any], keys: tuple[str, ...] = ()
) -> None:
    """A checkpoint of an untrained network; for each of `keys`, where there are any."""
    own = models.build(model, scale, options).state_dict()
    parts = [checkpoint.part_of(key, own) for key in keys]
    weights = {name: value for part in parts for name, value in part.items()} or own
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"model_name": model, "options": options, "scale": scale, "weights": weights}
    checkpoint.save(path, **given, settings={}, provenance={})


@contextlib.contextmanager
def _marks(clock: Callable[[], float]) -> Iterator[list[tuple[int, str, float]]]:
    """(step, split, clock) of each line that a training logs."""
    found: list[tuple[int, str, float]] = []
    original = Log.metrics

    def metrics(self: Log, step: int, split: str, values: dict[str, float]) -> None:
        original(self, step, split, values)
        found.append((step, split, clock()))

    Log.metrics = metrics  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Log.metrics = original  # type: ignore[method-assign]


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
