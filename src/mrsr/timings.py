"""Appendix D's numbers on this computer: parameters, training times, inference times.

    mrsr timings --experiment demo      # its checkpoints and logs -> results/demo/timings.csv, .md
    mrsr timings                        # the paper's sizes, random weights -> results/timings.csv

Training times are what the logs of an experiment say; each other time is measured now, on random
images (no time here depends on what an image shows). The paper names a V100 for its trainings and
no device for the rest, and does not say what its 12.08 s are of: reference [34] prints that number
for segmenting a whole volume, which is what is measured here.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrsr import checkpoint, enhance, loop, models
from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.in_force import InForce
from mrsr.log import say
from mrsr.models.autoencoder import prepare
from mrsr.models.unetr import load_encoder
from mrsr.table_formats import csv_text

SCALE = 2  # of the network that appendix D times
METHOD = "proposed"
COLUMNS = ["quantity", "unit", "measured", "paper", "of", "device", "threads"]


@dataclass(frozen=True)
class Row:
    """A number measured here (None: there is nothing to measure) beside the paper's, and of what.

    unit: M (parameters), h or s.
    """

    quantity: str
    unit: str
    measured: float | None
    paper: float | None
    of: str


@dataclass(frozen=True)
class Sizes:
    """What is timed: a volume to segment, a slice, a super-resolved image; pixels."""

    volume: tuple[int, int, int] = (96, 240, 240)  # IXI's crop, section 4
    image: int = 240
    output: int = 512


@dataclass(frozen=True)
class Part:
    """A trained network: its checkpoint, if an experiment has it, or what builds it."""

    name: str
    path: Path | None
    model: str
    options: dict[str, Any]

    def network(self, device: torch.device) -> nn.Module | None:
        """The network in evaluation mode; None where the experiment has no checkpoint of it."""
        if self.path is None:
            built = models.build(self.model, SCALE, self.options)
            return built.to(device).eval().requires_grad_(False)
        if not self.path.is_file():
            return None
        if self.model == "unetr" and self.options["dimensions"] == 2:
            return load_encoder(self.path, device)
        return checkpoint.network(self.path, device)

    @property
    def origin(self) -> str:
        """What the table says of the weights."""
        if self.path is None:
            return "random weights"
        return "its checkpoint" if self.path.is_file() else f"no checkpoint {self.path.name}"


def parts(in_force: InForce, folder: Path | None) -> dict[str, Part]:
    """The networks of appendix D: `unetr`, `vit`, `autoencoder`, `generator`.

    folder: an experiment's results; None: random weights.

    Raises:
        UserError: the experiment does not have the method at 2x, or none of the checkpoints.
    """
    cells = [cell for cell in in_force.cells if (cell.scale, cell.method) == (SCALE, METHOD)]
    if not cells:
        raise UserError(
            f"experiment '{in_force.name}' has no method {METHOD} at {SCALE}x, which appendix D "
            "times; choose another experiment"
        )
    dataset = cells[0].dataset
    segmentation = in_force.vit_settings("segmentation")
    options = {**segmentation["network"], "classes": segmentation["classes"]}
    row = in_force.rows[METHOD]
    cell = f"{dataset}/x{SCALE}"
    given = {
        "unetr": ("vit/segmentation", "unetr", {**options, "dimensions": 3}),
        "vit": (f"vit/{in_force.params.vit.pretext}", "unetr", {**options, "dimensions": 2}),
        "autoencoder": (
            f"{cell}/autoencoder",
            "autoencoder",
            in_force.autoencoder_settings(dataset, SCALE)["network"],
        ),
        "generator": (f"{cell}/{METHOD}", row.model, row.options),
    }
    found = {
        key: Part(name, folder and folder / "checkpoints" / name / "best.pt", model, options)
        for key, (name, model, options) in given.items()
    }
    if folder is not None and not any(p.path and p.path.is_file() for p in found.values()):
        raise UserError(
            f"{folder} has no checkpoint to time; run "
            f"`snakemake checkpoints --config experiment={in_force.name}` first"
        )
    return found


def measure(
    networks: dict[str, Part],
    sizes: Sizes,
    *,
    device: torch.device,
    repeat: int = 5,
) -> list[Row]:
    """The table's rows. repeat: of each short measurement, of which the median counts."""
    if min(*sizes.volume, sizes.image) < 1 or sizes.output % SCALE or sizes.output < SCALE:
        raise UserError(f"sizes must be positive, and the output a multiple of {SCALE}")
    counts, trainings, times = [], [], []
    z, y, x = sizes.volume
    small, large = f"a {sizes.image}x{sizes.image} slice", f"{sizes.output}x{sizes.output}"
    described = {
        "unetr": ("UNETR", 92.58, "", 12.08, f"segmentation, {z}x{y}x{x} volume", None),
        "vit": ("fine-tuned", 93.4, ", its encoder on slices", 1.3, f"ViT features, {small}", 10),
        "autoencoder": ("auto-encoder", None, "", 0.05, f"disentangled features, {small}", 18),
        "generator": ("generator", None, "", 1.2, f"super-resolution {SCALE}x to {large}", 14),
    }
    for key, (name, size, remark, wait, task, hours) in described.items():
        part = networks[key]
        network = part.network(device)
        count = seconds = None
        if network is not None:
            say(f"timing {task}")
            count = sum(weights.numel() for weights in network.parameters()) / 1e6
            # fp32 means fp32: convolutions on a GPU would take TF32 by default
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
                seconds = _seconds(key, part, network, sizes, device, repeat)
        counts.append(Row(f"parameters, {name}", "M", count, size, f"{part.name}{remark}"))
        trainings.append(Row(f"training, {name}", "h", *_training(part, hours)))
        times.append(Row(f"inference, {task}", "s", seconds, wait, part.origin))
    return [*counts, *trainings, *times]


@torch.inference_mode()
def _seconds(
    key: str, part: Part, network: Any, sizes: Sizes, device: torch.device, repeat: int
) -> float:
    """Seconds of what appendix D times of this network, for one image (or volume)."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, sizes.image, sizes.image, device=device)
    if key == "unetr":
        from monai.inferers import sliding_window_inference

        window = _window(part)
        volume = torch.rand(1, 1, *sizes.volume, device=device)
        network(torch.rand(1, 1, *window, device=device))  # the rest is not worth two passes
        return _clock(
            lambda: sliding_window_inference(volume, window, 4, network, overlap=0.5), device, 1
        )
    if key == "vit":
        run: Callable[[], Any] = lambda: network(image, [-1])  # noqa: E731
    elif key == "autoencoder":
        size = (sizes.image, sizes.image)
        run = lambda: network.encode(prepare(image, size, network.size))  # noqa: E731
    else:
        low = sizes.output // SCALE
        lr = torch.rand(1, 1, low, low, device=device)
        run = lambda: enhance.forward(network, lr, SCALE)  # noqa: E731
    run()
    return _clock(run, device, repeat)


def _window(part: Part) -> list[int]:
    """The volume patch of UNETR, of the checkpoint where there is one."""
    options = part.options if part.path is None else checkpoint.load(part.path).options
    return list(options["size"])


def _clock(run: Callable[[], Any], device: torch.device, repeat: int) -> float:
    found = []
    for _ in range(repeat):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _training(part: Part, hours: float | None) -> tuple[float | None, float | None, str]:
    """Hours of a training by its log, the paper's, and on what and how long it was trained."""
    if part.path is None:
        return None, hours, "not trained"
    log = part.path.with_name("log.jsonl")
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        first, last = lines[0], lines[-1]
        if last.get("event") != "end":
            return None, hours, "not finished"
        settings, origin = first["settings"], first["provenance"]
        effort = f"{settings['steps']:,} steps of {settings['batch']}"
        where = f"{origin['device']}, threads {origin['threads']}, processes {origin['processes']}"
        return float(last["seconds"]) / 3600, hours, f"{effort}, {where}"
    except OSError:
        return None, hours, "no log"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise UserError(f"{log} is damaged; delete it, or train again") from None


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(rows: list[Row], out: Path, *, title: str, device: str, threads: int) -> list[Path]:
    """Write the rows as CSV to `out` and as Markdown beside it; returns both paths."""
    values = [
        {
            **vars(row),
            "measured": _text(row.measured),
            "paper": _text(row.paper),
            "device": device,
            "threads": threads,
        }
        for row in rows
    ]
    lines = [
        f"**{title}**",
        "",
        "| Quantity | Measured | Paper | Of |",
        "| --- | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = (_shown(row.measured, row.unit), _shown(row.paper, row.unit))
        lines.append(f"| {row.quantity} | {' | '.join(cells)} | {row.of} |")
    lines += [
        "",
        f"Inference on {device}, {threads} thread{'s' * (threads != 1)}, fp32, torch "
        f"{torch.__version__}, one image at a time. The paper trained on an NVIDIA Tesla V100; it "
        "names no device for inference.",
    ]
    target = out.with_suffix(".md")
    if target == out:
        raise UserError(f"{out}: give the CSV's name; the Markdown goes beside it")
    write_text(out, csv_text(COLUMNS, values))
    write_text(target, "\n".join(lines) + "\n")
    return [out, target]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _shown(value: float | None, unit: str) -> str:
    """For people: less than an hour in minutes."""
    if value is not None and unit == "h" and value < 1:
        value, unit = 60 * value, "min"
    return "-" if value is None else f"{value:.4g} {unit}"


def run(
    in_force: InForce,
    folder: Path | None,
    out: Path,
    *,
    device: str = "auto",
    threads: int = 1,
    repeat: int = 5,
    sizes: Sizes | None = None,
) -> list[Path]:
    """Measure and write; see the module's docstring. folder: results of the experiment, or None.

    Raises:
        UserError: see `parts`, or a checkpoint or log cannot be read.
    """
    if threads:
        torch.set_num_threads(threads)
    where = loop.device_for(device)
    rows = measure(parts(in_force, folder), sizes or Sizes(), device=where, repeat=repeat)
    of = f"experiment '{in_force.name}'" if folder else "the paper's sizes, random weights"
    return write(
        rows,
        out,
        title=f"Computation time (appendix D), {of}",
        device=device_name(where),
        threads=torch.get_num_threads(),
    )
