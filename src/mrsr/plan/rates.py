"""How fast networks train and are measured: from runs on disk, from dry measurements, or scaled.

A `Rate` says what one step (or slice) takes for settings of one `speed` key: model and options,
scale, patch, batch, precision, loss terms; not steps, seeds or learning rates. Rates come from

- trainings and evaluations that ran on this computer: `log.jsonl` and metrics say how fast, and a
  benchmark file of Snakemake, which lies under logs/ and is never copied elsewhere, that it was
  here;
- `mrsr plan --measure` (`measure.py`), kept in logs/plan.json;
- the same on another device, scaled by what the makers print of both, and labelled so.
"""

from __future__ import annotations

import csv
import json
import math
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import write_json
from mrsr.settings import digest

MEASURED = Path("logs/plan.json")
TRAININGS = (
    "train_vit_segmentation",
    "train_vit_pretext",
    "train_autoencoder",
    "train_sr",
    "train_self",
)
# what does not change how long a step takes; `network`, `dataset` and `scale` of the vision
# transformer are handled in `speed`
IDLE = {
    *("experiment", "method", "label", "seed", "steps", "schedule", "clip_gradient", "explode"),
    *("validate_every", "checkpoint_every", "log_every", "validation_slices", "validation_volumes"),
    *("test_curve", "tracking", "normalise", "recipe", "weights_sha256", "full", "bootstrap"),
    *("device", "place", "intensity_range", "encoder_rate", "mask_ratio", "temperature"),
    *("gradient_norms_every", "threads", "phase"),
}
# what its maker prints: (dense TFLOPS in the precision that `auto` takes, GB/s of memory). A
# network needs both; the geometric mean of the two ratios is taken. A CPU is one core of it.
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


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Seconds that work of one `speed` key takes on one device.

    rule: Snakemake's. device: `cpu: NAME` or the GPU's name. step: one step of a training with its
    whole batch, or one slice of an evaluation. check: one validation of all splits on `checked`
    slices or volumes (0: all). fixed: the job's start and end. origin: for people.
    """

    rule: str
    key: str
    device: str
    step: float
    fixed: float
    check: float = 0.0
    checked: int = 0
    dataset: str = ""
    origin: str = ""


def is_gpu(device: str) -> bool:
    """Whether a device's name is a GPU's."""
    return not device.startswith("cpu")


def cpu_name() -> str:
    """`cpu: ` and the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {names[0] if names else platform.machine()}"


def device_for(asked: str) -> str:
    """The full name of `auto`, `cpu`, `cuda`, or of a GPU that is not here.

    Raises:
        UserError: no such device is known.
    """
    if asked == "cpu":
        return cpu_name()
    if asked in ("auto", "cuda"):
        from mrsr import loop

        if loop.device_for(asked).type == "cpu":
            return cpu_name()
        import torch

        return torch.cuda.get_device_name()
    _print_of(asked)
    return asked


def _print_of(device: str) -> tuple[float, float]:
    """What DEVICES has of a device, by the part of its name that stands there."""
    if not is_gpu(device):
        return DEVICES["cpu"]
    for name, printed in DEVICES.items():
        if name.lower() in device.lower():
            return printed
    known = ", ".join(DEVICES)
    raise UserError(f"device '{device}' is not known; choose auto, cpu, cuda or one of: {known}")


def ratio(here: str, there: str) -> float:
    """How many times longer work takes on `there` than on `here`, by what is printed of both."""
    one, two = _print_of(here), _print_of(there)
    return math.sqrt(one[0] / two[0] * one[1] / two[1])


def speed(rule: str, settings: dict[str, Any], network: dict[str, Any] | None = None) -> str:
    """Twelve digits, the same for all settings that take as long per step.

    network: of the vision transformer, for a pre-text's settings, which do not name it.
    """
    kept = {key: value for key, value in settings.items() if key not in IDLE}
    if rule.startswith("train_vit"):
        for name in ("dataset", "scale", "weights"):
            kept.pop(name, None)
        kept["network"] = kept.get("network") or network
    if rule in TRAININGS:
        kept.pop("dataset", None)  # a step takes patches of one size
        kept["losses"] = sorted(settings.get("losses", {}))
        kept["optimizer"] = settings["optimizer"]["name"]
    rival = ("lr", "betas", "weight_decay", "decoupled", "schedule", "warmup")
    for name, parts in (
        ("adversarial", rival),
        ("discriminator", rival),
        ("features", ("random", "gradient_norms_every")),
    ):
        if isinstance(kept.get(name), dict):
            table = {key: value for key, value in kept[name].items() if key not in parts}
            kept[name] = table
    return digest({"rule": rule, **kept})


def from_runs(results: Path = Path("results"), logs: Path = Path("logs")) -> list[Rate]:
    """Rates of every training and evaluation on disk; damaged files are passed over."""
    found = []
    for log in sorted(results.glob("*/checkpoints/**/log.jsonl")):
        try:
            found.append(_of_training(log, results, logs))
        except (OSError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
            continue
    for file in sorted(results.glob("*/metrics/*/x*/*.json")):
        try:
            found.append(_of_evaluation(file, results, logs))
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            continue
    return [rate for rate in found if rate is not None]


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _of_training(log: Path, results: Path, logs: Path) -> Rate | None:
    lines = _lines(log)
    first, last = lines[0], lines[-1]
    if last.get("event") != "end":
        return None
    settings = first["settings"]
    rule = _rule(settings)
    experiment, _, *training = log.parent.relative_to(results).parts
    seconds = float(last["seconds"])
    rates = [
        line["metrics"]["images_per_second"]
        for line in lines
        if line.get("split") == "train" and "images_per_second" in line["metrics"]
    ]
    # of one step: the mean over the log's windows, which are of equally many steps
    step = settings["batch"] * sum(1 / rate for rate in rates) / len(rates)
    steps = max(line["step"] for line in lines if "step" in line)
    checks = math.ceil(settings["steps"] / settings["validate_every"])
    spent = _benchmark(logs / experiment / "benchmarks" / Path(*training))
    network = None
    if rule == "train_vit_pretext":
        network = _lines(log.parent.parent / "segmentation" / "log.jsonl")[0]["settings"]["network"]
    return Rate(
        rule=rule,
        key=speed(rule, settings, network),
        device=_device(first["provenance"]["device"], log, results, spent is not None),
        step=step,
        fixed=max(0.0, spent - seconds) if spent else START,
        check=max(0.0, seconds - steps * step) / checks,
        checked=settings.get("validation_slices", settings.get("validation_volumes", 0)),
        dataset=settings["dataset"],
        origin=f"run {experiment}",
    )


def _rule(settings: dict[str, Any]) -> str:
    if settings["dataset"] == "vit":
        phase = settings["phase"]
        return "train_vit_segmentation" if phase == "segmentation" else "train_vit_pretext"
    if settings["method"] == "autoencoder":
        return "train_autoencoder"
    return "train_self" if settings.get("type") == "self" else "train_sr"


START = 9.0  # seconds of a job's imports and delivery to MLflow, where nothing tells


def _of_evaluation(file: Path, results: Path, logs: Path) -> Rate | None:
    record = json.loads(file.read_text(encoding="utf-8"))
    experiment = file.relative_to(results).parts[0]
    own = file.relative_to(results / experiment).with_suffix("")
    spent = _benchmark(logs / experiment / "benchmarks" / own)
    if spent is None:
        return None  # the forward passes alone are the smaller part
    slices = record["n_slices"] + record.get("slices_without_signal", 0)
    return Rate(
        rule="evaluate",
        key=evaluation_key(record),
        device=_device(record["device"], file, results, True),
        step=max(0.0, spent - START) / slices,
        fixed=min(START, spent),
        dataset=record["dataset"],
        origin=f"run {experiment}",
    )


def evaluation_key(record: dict[str, Any]) -> str:
    """Of a metrics record, or of an evaluation's settings."""
    parts = {key: record[key] for key in ("dataset", "scale", "model", "precision")}
    parts["preset"] = record["preset"]["name"]
    return digest({"rule": "evaluate", **parts})


def _benchmark(stem: Path) -> float | None:
    """Seconds that Snakemake's benchmark file says of a job; None without one."""
    try:
        with open(stem.with_name(f"{stem.name}.tsv"), encoding="utf-8") as file:
            return float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, ValueError, KeyError, StopIteration, TypeError):
        return None


def _device(said: str, file: Path, results: Path, here: bool) -> str:
    """The device's name. Logs say `cpu` or `cuda`; metrics name the GPU; nothing names a CPU."""
    if said == "cpu":
        return cpu_name() if here else "cpu: of another computer"
    if said != "cuda":
        return said
    folder = results / file.relative_to(results).parts[0] / "metrics"
    for path in sorted(folder.glob("*/x*/*.json")):
        name = json.loads(path.read_text(encoding="utf-8")).get("device", "cpu")
        if name != "cpu":
            return str(name)
    raise ValueError("a GPU whose name is not known")


def read_measured(path: Path = MEASURED) -> list[Rate]:
    """What `mrsr plan --measure` kept; nothing where the file is missing or of another version."""
    try:
        return [Rate(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def keep_measured(rates: Iterable[Rate], path: Path = MEASURED) -> None:
    """Add rates to the file; a newer one of the same work replaces the older."""
    table = {(r.rule, r.key, r.device, r.dataset): r for r in (*read_measured(path), *rates)}
    write_json(path, [asdict(rate) for rate in table.values()])


def choose(
    rates: Iterable[Rate], rule: str, key: str, device: str, dataset: str = ""
) -> Rate | None:
    """The best rate for some work: of this device, of this dataset; else scaled; else None."""
    fitting = [rate for rate in rates if (rate.rule, rate.key) == (rule, key)]
    same = [rate for rate in fitting if rate.device == device]
    if same:
        # the last of equals is the newest measurement; a run tells more than a few steps
        return max(reversed(same), key=lambda r: (r.origin.startswith("run"), r.dataset == dataset))
    for rate in _usable(fitting):
        return scaled(rate, device)
    return None


def _usable(rates: list[Rate]) -> Iterator[Rate]:
    """Those of a device of which something is printed, GPUs first."""
    for rate in sorted(rates, key=lambda rate: not is_gpu(rate.device)):
        try:
            _print_of(rate.device)
        except UserError:
            continue
        yield rate


def scaled(rate: Rate, device: str) -> Rate:
    """A rate of another device, as it would be on `device`; starting a job is not scaled."""
    factor = ratio(rate.device, device)
    return replace(
        rate,
        device=device,
        step=rate.step * factor,
        check=rate.check * factor,
        origin=f"extrapolated from {rate.device}",
    )
