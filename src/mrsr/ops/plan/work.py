"""Which networks work in a job, and how much: pixels of their forward passes, number of calls.

A backward pass counts as two forward ones.

    python -m mrsr.ops.plan.work paper paper_published demo    # counts their networks anew
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mrsr.ops.plan import jobs, sizes
from mrsr.ops.plan.jobs import Job
from mrsr.ops.plan.networks import PATCH, SHIPPED, Network, keep, measure, named, per_pixel
from mrsr.ops.plan.sizes import Geometry
from mrsr.params.experiment import Resolved
from mrsr.params.typed import plain

Options = dict[str, Any]
# cost of a training step in forward passes: a trained network has a forward and, at twice the cost,
# a backward pass; a frozen one encodes target and output, with a backward pass to the output; a
# discriminator serves the generator's term and learns from true and false images; the terms of the
# auto-encoder take some three passes, forward and backward
LEARNED, FROZEN, DISCRIMINATOR, AUTOENCODER = 3, 3, 8, 10
WINDOWS = 16  # of a volume, about, when the vision transformer is validated


class Part(NamedTuple):
    """A network at work on one image: passes, each of so many HR pixels."""

    network: Network
    passes: int
    pixels: float


class Use(NamedTuple):
    """A network in a whole job: HR pixels of all its passes, and how often it is called."""

    network: Network
    pixels: float
    calls: float


def settings_of(resolved: Resolved, job: Job) -> Options:
    """The settings of a training or an evaluation."""
    given = job.wildcards
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
    return dict(plain(settings))


class Load(NamedTuple):
    """What a job computes: on one image, and in all."""

    parts: list[Part]
    uses: list[Use]


def load(resolved: Resolved, job: Job) -> Load:
    """The load of a training or an evaluation; counted once, whatever it is planned for."""
    return _load(resolved, job.rule, tuple(job.wildcards.items()))


@functools.cache
def _load(resolved: Resolved, rule: str, wildcards: tuple[tuple[str, str], ...]) -> Load:
    job = Job(rule, dict(wildcards))
    settings, frozen = settings_of(resolved, job), frozen_options(resolved)
    size = geometry(resolved, job)
    found = parts(rule, settings, frozen, pixels(size))
    return Load(found, total(rule, settings, frozen, size))


def frozen_options(resolved: Resolved) -> Options:
    """Options of the frozen networks, `vit` and `autoencoder`."""
    params = resolved.params
    return {"vit": plain(params.vit.network), "autoencoder": plain(params.autoencoder.network)}


def works(job: Job) -> bool:
    """Whether networks work in a job."""
    return job.rule.startswith(("train_", "evaluate"))


def networks(resolved: Resolved) -> Iterator[Network]:
    """Every network of an experiment."""
    frozen = frozen_options(resolved)
    for job in filter(works, jobs.every(resolved)):
        for part in parts(job.rule, settings_of(resolved, job), frozen, pixels(None)):
            yield part.network


def network(rule: str, settings: Options, frozen: Options) -> Network:
    """The network that a job trains or evaluates; arguments as for `parts`."""
    if rule == "train_autoencoder":
        return named("autoencoder", {**settings["network"], "start": "random"})
    if rule == "train_vit_pretext":
        options = {**frozen["vit"], "classes": 2, "dimensions": 2}
        return named("unetr", options, 1, options["size"][1:])
    if rule == "train_vit_segmentation":
        options = {**settings["network"], "classes": settings["classes"], "dimensions": 3}
        return named("unetr", options, 1, options["size"])
    return named(settings["model"]["name"], settings["model"]["options"], settings["scale"])


def pixels(size: Geometry | None) -> int:
    """Pixels of a slice; those of the paper's if not known."""
    return size.height * size.width if size else 240**2


def parts(rule: str, settings: Options, frozen: Options, whole: int) -> list[Part]:
    """The networks that work on one image of a training's batch, or one slice of an evaluation.

    Args:
        rule: Snakemake's, such as train_sr or evaluate. settings: what its job is handed.
        frozen: options of the frozen networks, `vit` and `autoencoder`.
        whole: pixels of a slice.
    """
    own = network(rule, settings, frozen)
    if rule == "evaluate":
        return [Part(own, 1, whole)]
    if rule.startswith("train_vit"):
        return [Part(own, LEARNED, math.prod(own[3]))]
    losses, rival = settings.get("losses", {}), settings.get("discriminator")
    seen = settings["patch"] ** 2 or whole
    if rule == "train_autoencoder":  # images are padded to its canvas
        seen = settings["network"]["size"] ** 2 or seen
    found = [Part(own, AUTOENCODER if rule == "train_autoencoder" else LEARNED, seen)]
    if "adversarial" in losses:
        rival = settings["adversarial"]
    if rival:
        options = {name: rival[name] for name in ("base", "pool", "norm")}
        crop = min(rival.get("crop", 0) ** 2 or seen, seen)
        found.append(Part(named("discriminator", {**options, "size": PATCH}), DISCRIMINATOR, crop))
    if "vit" in losses:
        found.append(Part(network("train_vit_pretext", {}, frozen), FROZEN, seen))
    if {"structure", "texture"} & set(losses):
        autoencoder = {"network": frozen["autoencoder"]}
        found.append(Part(network("train_autoencoder", autoencoder, frozen), FROZEN, seen))
    return found


def image(found: list[Part]) -> float:
    """Multiply-adds of these parts together; at least 1."""
    return max(1.0, sum(per_pixel(p.network)[1] * p.passes * p.pixels for p in found))


def total(rule: str, settings: Options, frozen: Options, size: Geometry | None) -> list[Use]:
    """What a whole job does; NaN if it depends on slices that are not known yet.

    size: of the job's dataset, None without one or if unknown; the rest as for `parts`.
    """
    found = parts(rule, settings, frozen, pixels(size))
    volumes = 1.0
    if rule == "evaluate":
        slices = float(size.count("test")) if size else math.nan
        times = slices * settings.get("ensemble", 1)
        calls = times / settings.get("batch", 1)
        return [Use(part.network, part.pixels * times, calls) for part in found]
    if rule == "train_self":  # so many of every test volume, and nothing to validate
        volumes = size.volumes["test"] if size else math.nan
    steps, batch = settings["steps"] * volumes, settings["batch"]
    forwards = math.ceil(batch / (settings.get("micro_batch") or batch))
    uses = [Use(n, p * seen * steps * batch, p * steps * forwards) for n, p, seen in found]
    if rule != "train_self":
        asked = settings.get("validation_slices") or settings.get("validation_volumes") or 100
        slice_of = pixels(size) if size else WINDOWS * found[0].pixels
        checks = 2 * math.ceil(settings["steps"] / settings["validate_every"])  # and the test split
        uses.append(Use(found[0].network, checks * asked * slice_of, checks * asked))
    return uses


def geometry(resolved: Resolved, job: Job) -> Geometry | None:
    """The size of a job's dataset; None if it has none."""
    dataset = job.wildcards.get("dataset")
    return sizes.geometry(resolved, dataset) if dataset else None


def main(experiments: Sequence[str]) -> None:
    """Count every network of these experiments anew and write networks.json."""
    from mrsr.params import loading

    every = {one: None for name in experiments for one in networks(loading.load(experiment=name))}
    keep({network: measure(network) for network in every}, SHIPPED)
    print(f"{SHIPPED.name}: {len(every)} networks")


if __name__ == "__main__":
    main(sys.argv[1:])
