"""How long multiply-adds take: from runs on this computer, measured, or assumed.

Networks that ran have a known rate. Another network gets the rate of the one whose multiply-adds
for an image are nearest; for another device, rates are scaled by the vendors' specifications.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.ops.plan import sizes
from mrsr.ops.plan.sizes import Geometry
from mrsr.tables import network_sizes

# seconds: a job's imports and upload to MLflow; to degrade and score a megapixel, always on a CPU
START, SCORING = 9.0, 0.2
WINDOWS = 16  # of a volume, roughly, when the vision transformer is validated
SAME = 0.02  # works that differ by less are the same
GUESSED = ("scaled", "assumed")  # how the origin of a rate of other work starts
# dense TFLOPS in the precision of `auto` and GB/s of memory, by the vendor; a network needs both,
# so the geometric mean of their ratios is used. A CPU means one core of it
DEVICES = {
    "H200": (989.0, 4800.0),
    "H100": (989.0, 3350.0),
    "A100": (312.0, 1555.0),
    "L40S": (362.0, 864.0),
    "A40": (150.0, 696.0),
    "A10": (125.0, 600.0),
    "L4": (121.0, 300.0),
    "RTX 4090": (165.0, 1008.0),
    "RTX 3090": (71.0, 936.0),
    "V100": (15.7, 900.0),  # no bf16: fp32
    "T4": (8.1, 320.0),
    "cpu": (0.08, 10.0),
}


@dataclass(frozen=True)
class Rate:
    """`pace`: seconds of one multiply-add, in work of a Snakemake rule on a device (cpu, or the
    GPU's name) that has `image` multiply-adds for an image or slice. origin: for people."""

    rule: str
    device: str
    image: float
    pace: float
    origin: str


ASSUMED = Rate("", "cpu", 1.0, 1 / 20e9, "assumed")  # half of what a core can do at most


def total(
    rule: str, settings: dict[str, Any], networks: dict[str, Any], size: Geometry | None
) -> float:
    """Multiply-adds of a whole job; NaN if they depend on slices that are not known yet.

    The arguments are those of `network_sizes.work`; size: of the job's dataset, None for the vision
    transformer and if it is not known yet.
    """
    image = network_sizes.work(rule, settings, networks, pixels(size))
    if rule == "evaluate":
        return image * size.count("test") if size else math.nan
    images = image * settings["steps"] * settings["batch"]
    if rule == "train_self":  # for every test volume, without validation
        return images * size.volumes["test"] if size else math.nan
    asked = settings.get("validation_slices") or settings.get("validation_volumes")
    whole = WINDOWS * image / network_sizes.LEARNED
    if size:
        whole = network_sizes.per_pixel(network_sizes.network(rule, settings, networks))[
            1
        ] * pixels(size)
    checks = 2 * math.ceil(settings["steps"] / settings["validate_every"])  # also of the test split
    return images + checks * (asked or 100) * whole


def pixels(size: Geometry | None) -> int:
    """Pixels of a slice; those of the paper's if not known."""
    return size.height * size.width if size else 240**2


def overhead(rule: str, size: Geometry | None) -> float:
    """Seconds of a job that are not multiply-adds."""
    return START + (SCORING * size.megapixels("test") if size and rule == "evaluate" else 0.0)


def choose(known: Iterable[Rate], rule: str, device: str, image: float) -> Rate:
    """The rate for some work, with its origin; of equals, the first known."""

    def away(rate: Rate) -> tuple[bool, bool, float]:
        return rate.device != device, rate.rule != rule, abs(math.log(rate.image / image))

    alike = (rate for rate in known if (rate.rule == "evaluate") == (rule == "evaluate"))
    near = min(alike, key=away, default=ASSUMED)
    elsewhere, another, distance = away(near)
    origin = near.origin
    if near is not ASSUMED and (elsewhere or another or distance > SAME):
        origin = f"scaled from {near.origin} on {near.device}"
    return Rate(rule, device, image, near.pace * ratio(near.device, device), origin)


def device_for(asked: str) -> str:
    """`cpu`, or the full name of a GPU: of `auto`, `cuda`, or one that is not here.

    Raises:
        UserError: no such device is known.
    """
    if asked in ("auto", "cuda"):
        import torch

        from mrsr import compute

        here = compute.device_for(asked).type
        return torch.cuda.get_device_name() if here == "cuda" else here
    if not any(name.lower() in asked.lower() for name in DEVICES):
        known = ", ".join(DEVICES)
        raise UserError(f"device '{asked}' is not known; choose auto, cuda or one of: {known}")
    return asked


def ratio(here: str, there: str) -> float:
    """How many times longer work takes on `there` than on `here`, by their specifications; a GPU
    that is not in DEVICES counts as an A100."""
    if here == there:
        return 1.0
    one, two = (
        next((DEVICES[name] for name in DEVICES if name.lower() in full.lower()), DEVICES["A100"])
        for full in (here, there)
    )
    return math.sqrt(one[0] / two[0] * one[1] / two[1])


def from_runs(root: Path = Path()) -> list[Rate]:
    """Rates of all trainings and evaluations under results/ that ran here; damaged files are
    skipped."""
    files = sorted(root.glob("results/*/checkpoints/**/log.jsonl"))
    found = []
    for file in [*files, *sorted(root.glob("results/*/metrics/*/x*/*.json"))]:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, StopIteration):
            found.append(_read(root, file))
    return [rate for rate in found if rate is not None]


def _lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    return [json.loads(text)] if file.suffix == ".json" else [*map(json.loads, text.splitlines())]


def _read(root: Path, file: Path) -> Rate | None:
    _, experiment, stage, *own = file.relative_to(root).parts
    evaluated = stage == "metrics"
    name = Path(stage, *own).with_suffix("") if evaluated else Path(*own[:-1])
    if not (root / "logs" / experiment / "benchmarks" / f"{name}.tsv").is_file():
        return (
            None  # Snakemake's benchmark files stay where a job ran, so this one did not run here
        )
    folder, lines = root / "results" / experiment, _lines(file)
    settings = lines[0] if evaluated else lines[0]["settings"]
    rule = "train_self" if settings.get("type") == "self" else "train_sr"
    rule = "train_autoencoder" if settings["method"] == "autoencoder" else rule
    rule = f"train_vit_{settings['phase']}" if "phase" in settings else rule
    rule = "evaluate" if evaluated else rule
    others = {"vit": folder / "checkpoints/vit/segmentation/log.jsonl"}
    others["autoencoder"] = file.parent.parent / "autoencoder/log.jsonl"
    networks = {n: _lines(f)[0]["settings"]["network"] for n, f in others.items() if f.is_file()}
    size = sizes.stored(folder / "slices" / settings["dataset"])
    image = network_sizes.work(rule, settings, networks, pixels(size))
    device = settings["device"] if evaluated else lines[0]["provenance"]["device"]
    if device == "cuda":  # metrics have its name
        metrics = (_lines(path)[0]["device"] for path in folder.glob("metrics/*/x*/*.json"))
        device = next(name for name in metrics if name != "cpu")
    told = [line["metrics"] for line in lines if line.get("split") == "train"]
    seconds = settings.get("seconds_per_slice") or statistics.fmean(
        1 / metrics["images_per_second"] for metrics in told if "images_per_second" in metrics
    )
    return Rate(rule, device, image, seconds / image, f"run {experiment}")
