"""How long multiply-adds take: as runs on this computer tell, or a measurement.

A network without a known rate takes the rate of the one whose multiply-adds for an image are
nearest; another device is scaled by the vendors' numbers.
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

import pandas as pd
import torch

from mrsr import compute
from mrsr.errors import UserError
from mrsr.ops.plan import sizes
from mrsr.ops.plan.sizes import Geometry
from mrsr.tables import network_sizes

Options = dict[str, Any]
WINDOWS = 16  # of a volume, about, when the vision transformer is validated
SAME = 0.02  # works that differ by less are the same
GUESSED = ("scaled", "assumed")  # how the origin of a rate of other work starts
# dense TFLOPS in the precision that `auto` takes and GB/s of memory, by the vendor; a network
# needs both, so the geometric mean of their ratios is used
DEVICES = pd.read_csv(Path(__file__).with_name("devices.csv"), index_col=0, usecols=[0, 1, 2])


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


def total(rule: str, settings: Options, networks: Options, size: Geometry | None) -> float:
    """Multiply-adds of a whole job; NaN if they depend on slices that are not known yet.

    size: of the job's dataset, None without one or if unknown; the rest as for `work`.
    """
    image = network_sizes.work(rule, settings, networks, pixels(size))
    if rule == "evaluate":
        return image * size.count("test") if size else math.nan
    images = image * settings["steps"] * settings["batch"]
    if rule == "train_self":  # so many of every test volume, and nothing to validate
        return images * size.volumes["test"] if size else math.nan
    asked = settings.get("validation_slices") or settings.get("validation_volumes") or 100
    own = network_sizes.per_pixel(network_sizes.network(rule, settings, networks))[1]
    whole = own * pixels(size) if size else WINDOWS * image / network_sizes.LEARNED
    checks = 2 * math.ceil(settings["steps"] / settings["validate_every"])  # also of the test split
    return images + checks * asked * whole


def pixels(size: Geometry | None) -> int:
    """Pixels of a slice; those of the paper's if not known."""
    return size.height * size.width if size else 240**2


def choose(known: Iterable[Rate], rule: str, device: str, image: float) -> Rate:
    """The rate for some work, with its origin; of equals, the first known."""

    def away(rate: Rate) -> tuple[bool, bool, float]:
        return rate.device != device, rate.rule != rule, abs(math.log(rate.image / image))

    alike = (rate for rate in known if (rate.rule == "evaluate") == (rule == "evaluate"))
    near = min(alike, key=away, default=ASSUMED)
    same = near is ASSUMED or away(near) < (False, False, SAME)
    origin = near.origin if same else f"scaled from {near.origin} on {near.device}"
    return Rate(rule, device, image, near.pace * ratio(near.device, device), origin)


def device_for(asked: str) -> str:
    """`cpu`, or the full name of a GPU: of `auto`, `cuda`, or one that is not here.

    Raises:
        UserError: no such device is known.
    """
    if asked in ("auto", "cuda"):
        here = compute.device_for(asked).type
        return torch.cuda.get_device_name() if here == "cuda" else here
    if not any(name.lower() in asked.lower() for name in DEVICES.index):
        known = ", ".join(DEVICES.index)
        raise UserError(f"device '{asked}' is not known; choose auto, cuda or one of: {known}")
    return asked


def ratio(here: str, there: str) -> float:
    """How many times longer work takes on `there` than on `here`, by their specifications; a GPU
    that is not in DEVICES counts as an A100."""
    one, two = (
        next((name for name in DEVICES.index if name.lower() in full.lower()), "A100")
        for full in (here, there)
    )
    return float((DEVICES.loc[one] / DEVICES.loc[two]).prod()) ** 0.5


def from_runs(root: Path = Path()) -> list[Rate]:
    """Rates of all trainings and evaluations that ran here; damaged files are skipped."""
    found = []
    for pattern in ("checkpoints/**/log.jsonl", "metrics/*/x*/*.json"):
        for file in sorted(root.glob(f"results/*/{pattern}")):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, StopIteration):
                found.append(_read(root, file))
    return found


def _lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    return [json.loads(text)] if file.suffix == ".json" else [*map(json.loads, text.splitlines())]


def _read(root: Path, file: Path) -> Rate:
    _, experiment, stage, *own = file.relative_to(root).parts
    evaluated = stage == "metrics"
    name = Path(stage, *own).with_suffix("") if evaluated else Path(*own[:-1])
    if not (root / "logs" / experiment / "benchmarks" / f"{name}.tsv").is_file():
        raise ValueError("another computer's: benchmark files stay where a job ran")
    folder, lines = root / "results" / experiment, _lines(file)
    settings = lines[0] if evaluated else lines[0]["settings"]
    rule = "train_self" if settings.get("type") == "self" else "train_sr"
    rule = "train_autoencoder" if settings["method"] == "autoencoder" else rule
    rule = f"train_vit_{settings['phase']}" if "phase" in settings else rule
    rule = "evaluate" if evaluated else rule
    vit = folder / "checkpoints/vit/segmentation/log.jsonl"
    others = {"vit": vit, "autoencoder": file.parent.parent / "autoencoder/log.jsonl"}
    networks = {n: _lines(f)[0]["settings"]["network"] for n, f in others.items() if f.is_file()}
    size = sizes.stored(folder / "slices" / settings["dataset"])
    image = network_sizes.work(rule, settings, networks, pixels(size))
    device = settings["device"] if evaluated else lines[0]["provenance"]["device"]
    if device == "cuda":  # metrics have its name
        names = (_lines(path)[0]["device"] for path in folder.glob("metrics/*/x*/*.json"))
        device = next(name for name in names if name != "cpu")
    told = [line["metrics"] for line in lines if line.get("split") == "train"]
    seconds = settings.get("seconds_per_slice") or statistics.fmean(
        1 / metrics["images_per_second"] for metrics in told if "images_per_second" in metrics
    )
    return Rate(rule, device, image, seconds / image, f"run {experiment}")
