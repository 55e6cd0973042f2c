"""How long work takes on a device: what the device needs at least, over the fraction reached.

The least time of a network is that of its convolutions and matrix products (their multiply-adds at
the vendor's peak, or their bytes at the vendor's bandwidth, whichever is longer) and of what all
other operations read and write at that bandwidth. The fraction of it that is reached is known where
a run or `--measure` tells; from one GPU to another it is taken over. Else it is assumed, likely and
with a range, from these considerations:

- Of a GPU's peak 15 to 45 %, likely 25: convolutions of 64 maps fill half of the 128 columns that a
  tensor core's matrix product works on at a time, so half of the peak is out of reach, and small
  images leave processors idle.
- Of a GPU's bandwidth 50 to 100 %, likely 70: simple operations come close to it, and caches hold
  some of what they read.
- A CPU needs 5 to 15 microseconds, likely 10, to start each kernel of a GPU (there are no CUDA
  graphs), and no step is shorter than that.
- A CPU core reaches 25 to 100 %, likely half.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mrsr.errors import UserError
from mrsr.ops.plan import sizes, work
from mrsr.ops.plan.networks import counts
from mrsr.ops.plan.work import Use

SAME = 0.02  # works that differ by less are the same
GUESSED = ("scaled", "assumed")  # how the origin of a rate of other work starts
SCALED = 2.0  # a rate of another network or GPU is off by so much at most: assumed


class Assumed(NamedTuple):
    """Fractions of peak and bandwidth, and seconds to start a kernel; see above."""

    peak: float
    bandwidth: float
    start: float


# likely, lowest and highest time
ASSUMED = {
    "gpu": (Assumed(0.25, 0.7, 10e-6), Assumed(0.45, 1.0, 5e-6), Assumed(0.15, 0.5, 15e-6)),
    "cpu": (Assumed(0.5, 0.5, 0.0), Assumed(1.0, 1.0, 0.0), Assumed(0.25, 0.25, 0.0)),
}


class Device(NamedTuple):
    """Peak of dense matrix products in the precision that `precision: auto` takes, bandwidth of
    memory, both by the vendor's data sheet, and bytes of an element in that precision."""

    tflops: float
    gigabytes_per_second: float
    bytes: int


def _devices() -> dict[str, Device]:
    with open(Path(__file__).with_name("devices.csv"), encoding="utf-8", newline="") as file:
        return {
            row["name"]: Device(
                float(row["tflops"]), float(row["gigabytes_per_second"]), int(row["bytes"])
            )
            for row in csv.DictReader(file)
        }


DEVICES = _devices()


@dataclass(frozen=True)
class Rate:
    """`fraction`: the least time over the true one (NaN: assumed), in work of a Snakemake rule on a
    device (cpu, or the GPU's name) with `image` multiply-adds for an image or slice. origin: for
    people."""

    rule: str
    device: str
    image: float
    fraction: float
    origin: str


class Seconds(NamedTuple):
    """What work takes, and between what it may lie."""

    likely: float
    low: float
    high: float


def specification(device: str) -> Device:
    """Of a device by its full name; a GPU that is not in DEVICES counts as an A100."""
    name = next((name for name in DEVICES if name.lower() in device.lower()), "A100")
    return DEVICES[name]


def least(uses: Iterable[Use], device: str, of: tuple[float, float] = (1.0, 1.0)) -> float:
    """Seconds that the networks need at least, at these fractions of peak and bandwidth."""
    peak, bandwidth, size = specification(device)
    peak, bandwidth = peak * 1e12 * of[0], bandwidth * 1e9 * of[1]
    seconds = 0.0
    for use in uses:
        found, images = counts(use.network), use.pixels / math.prod(use.network[3])
        products = max(2 * found.multiply_adds / peak, found.moved * size / bandwidth)
        seconds += (products + found.moved_else * size / bandwidth) * images
    return seconds


def seconds(uses: list[Use], device: str, rate: Rate, waits: bool = True) -> Seconds:
    """What the networks of a job take. waits: for the start of kernels, where that is assumed."""
    if rate.origin == "assumed":
        kernels = waits * sum(counts(use.network).calls * use.calls for use in uses)
        return Seconds(
            *(
                max(least(uses, device, case[:2]), kernels * case.start)
                for case in ASSUMED[_kind(device)]
            )
        )
    spread = SCALED if rate.origin.startswith(GUESSED) else 1.0
    likely = least(uses, device) / rate.fraction
    return Seconds(likely, likely / spread, likely * spread)


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "gpu"


def choose(known: Iterable[Rate], rule: str, device: str, image: float) -> Rate:
    """The rate for some work, with its origin; of equals, the first known.

    Of a GPU a CPU tells nothing, nor the other way round: then the rate is the assumed one.
    """

    def away(rate: Rate) -> tuple[bool, bool, float]:
        return rate.device != device, rate.rule != rule, abs(math.log(rate.image / image))

    alike = (
        rate
        for rate in known
        if (rate.rule == "evaluate") == (rule == "evaluate") and _kind(rate.device) == _kind(device)
    )
    near = min(alike, key=away, default=None)
    if near is None:
        return Rate(rule, device, image, math.nan, "assumed")
    same = away(near) < (False, False, SAME)
    origin = near.origin if same else f"scaled from {near.origin} on {near.device}"
    return Rate(rule, device, image, near.fraction, origin)


def device_for(asked: str) -> str:
    """`cpu`, or the full name of a GPU: of `auto`, `cuda`, or one that is not here.

    Asks nvidia-smi, because torch takes seconds to import.

    Raises:
        UserError: no such device is known, or there is no GPU.
    """
    if asked in ("auto", "cuda"):
        if name := _gpu():
            return name
        if asked == "cuda":
            raise UserError("device is cuda but nvidia-smi lists no GPU; name one, such as A100")
        return "cpu"
    if not any(name.lower() in asked.lower() for name in DEVICES):
        known = ", ".join(DEVICES)
        raise UserError(f"device '{asked}' is not known; choose auto, cuda or one of: {known}")
    return asked


def _gpu() -> str:
    """The name of the first GPU here; empty without one."""
    if not (program := shutil.which("nvidia-smi")):
        return ""
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0].strip() if not done.returncode else ""


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
    frozen = {n: _lines(f)[0]["settings"]["network"] for n, f in others.items() if f.is_file()}
    size = sizes.stored(folder / "slices" / settings["dataset"])
    device = settings["device"] if evaluated else lines[0]["provenance"]["device"]
    if device == "cuda":  # metrics have its name
        names = (_lines(path)[0]["device"] for path in folder.glob("metrics/*/x*/*.json"))
        device = next(name for name in names if name != "cpu")
    told = [line["metrics"] for line in lines if line.get("split") == "train"]
    spent = settings.get("seconds_per_slice") or statistics.fmean(
        1 / metrics["images_per_second"] for metrics in told if "images_per_second" in metrics
    )
    parts = work.parts(rule, settings, frozen, work.pixels(size))
    return rate_of(rule, device, parts, spent, f"run {experiment}")


def rate_of(rule: str, device: str, parts: list[work.Part], spent: float, origin: str) -> Rate:
    """The rate of work whose parts took `spent` seconds for an image."""
    uses = [Use(n, passes * pixels, passes) for n, passes, pixels in parts]
    return Rate(rule, device, work.image(parts), least(uses, device) / spent, origin)
