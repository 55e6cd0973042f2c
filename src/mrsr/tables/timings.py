"""Appendix D's numbers on this computer: parameters, training times, inference times.

    mrsr timings --experiment demo      # its checkpoints and logs -> results/demo/timings.csv, .md
    mrsr timings                        # the paper's sizes, random weights -> results/timings.csv

Training times come from the logs of an experiment; every other time is measured now, on random
images (no time here depends on the content of an image). The paper names a V100 for its trainings
and no device for the rest, and does not say what takes 12.08 s: reference [34] gives that number
for segmenting a whole volume, so that is measured here.
"""

from __future__ import annotations

import platform
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch
from torch import nn

from mrsr import checkpoint, compute, inference, models
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import read_log, write_text
from mrsr.method.features import load_encoder
from mrsr.models.autoencoder import prepare
from mrsr.params.experiment import Resolved
from mrsr.params.typed import plain
from mrsr.tables.formats import pipes, to_csv

SCALE = 2  # of the network that appendix D times
METHOD = "proposed"
# unit: M (parameters), h or s; measured: NaN where there is nothing to measure
COLUMNS = ["quantity", "unit", "measured", "paper", "of"]


@dataclass(frozen=True)
class Sizes:
    """Sizes in pixels: a volume to segment, a slice, a super-resolved image."""

    volume: tuple[int, int, int] = (96, 240, 240)  # IXI's crop, section 4
    image: int = 240
    output: int = 512


@dataclass(frozen=True)
class Part:
    """A network to time: its checkpoint, if there is an experiment, and its settings."""

    name: str
    path: Path | None
    model: str
    options: dict[str, Any]

    def network(self, device: torch.device) -> nn.Module | None:
        """The network in evaluation mode; None if the experiment has no checkpoint of it."""
        if self.path is None:
            built = models.build(self.model, SCALE, self.options)
            return built.to(device).eval().requires_grad_(False)
        if not self.path.is_file():
            return None
        if self.model == "unetr" and self.options["dimensions"] == 2:
            return load_encoder(self.path, device)
        wanted = checkpoint.KINDS.get(self.model, checkpoint.SR)
        return checkpoint.network(self.path, device, wanted)

    @property
    def origin(self) -> str:
        """The origin of the weights, for the table."""
        if self.path is None:
            return "random weights"
        return "its checkpoint" if self.path.is_file() else f"no checkpoint {self.path.name}"


def parts(resolved: Resolved, folder: Path | None) -> dict[str, Part]:
    """The networks of appendix D: `unetr`, `vit`, `autoencoder`, `generator`.

    folder: an experiment's results; None: random weights.

    Raises:
        UserError: the experiment does not have the method at 2x, or none of the checkpoints.
    """
    cells = [cell for cell in resolved.cells if (cell.scale, cell.method) == (SCALE, METHOD)]
    if not cells:
        raise UserError(
            f"experiment '{resolved.name}' has no method {METHOD} at {SCALE}x, which appendix D "
            "times; choose another experiment"
        )
    dataset = cells[0].dataset
    cell = f"{dataset}/x{SCALE}"
    vit = resolved.params.vit
    unetr = {**plain(vit.network), "classes": vit.classes}
    autoencoder = plain(resolved.params.autoencoder.network)
    method = resolved.methods[METHOD]
    given = {
        "unetr": ("vit/segmentation", "unetr", {**unetr, "dimensions": 3}),
        "vit": (f"vit/{resolved.params.vit.pretext}", "unetr", {**unetr, "dimensions": 2}),
        "autoencoder": (f"{cell}/autoencoder", "autoencoder", autoencoder),
        "generator": (f"{cell}/{METHOD}", method.model, method.options),
    }
    found = {
        key: Part(name, folder and folder / "checkpoints" / name / "best.pt", model, options)
        for key, (name, model, options) in given.items()
    }
    if folder is not None and not any(p.path and p.path.is_file() for p in found.values()):
        raise UserError(
            f"{folder} has no checkpoint to time; run "
            f"`snakemake checkpoints --config experiment={resolved.name}` first"
        )
    return found


def measure(
    networks: dict[str, Part], sizes: Sizes, *, device: torch.device, repeat: int = 5
) -> pandas.DataFrame:
    """Columns `COLUMNS`. repeat: runs of each short measurement; the median is reported."""
    if min(*sizes.volume, sizes.image) < 1 or sizes.output % SCALE or sizes.output < SCALE:
        raise UserError(f"sizes must be positive, and the output a multiple of {SCALE}")
    z, y, x = sizes.volume
    slice_, large = f"a {sizes.image}x{sizes.image} slice", f"{sizes.output}x{sizes.output}"
    # name, parameters (M), of, inference (s) of what, training (h); numbers as published
    published = {
        "unetr": ("UNETR", 92.58, "", 12.08, f"segmentation, {z}x{y}x{x} volume", None),
        "vit": ("fine-tuned", 93.4, ", its encoder on slices", 1.3, f"ViT features, {slice_}", 10),
        "autoencoder": ("auto-encoder", None, "", 0.05, f"disentangled features, {slice_}", 18),
        "generator": ("generator", None, "", 1.2, f"super-resolution {SCALE}x to {large}", 14),
    }
    counts, trainings, times = [], [], []
    for key, (name, size, remark, wait, task, hours) in published.items():
        part = networks[key]
        network = part.network(device)
        count = seconds = None
        if network is not None:
            say(f"timing {task}")
            count = sum(weights.numel() for weights in network.parameters()) / 1e6
            # fp32 means fp32: convolutions on a GPU would use TF32 by default
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
                seconds = _seconds(key, part, network, sizes, device, repeat)
        trained, effort = _training(part)
        counts.append((f"parameters, {name}", "M", count, size, f"{part.name}{remark}"))
        trainings.append((f"training, {name}", "h", trained, hours, effort))
        times.append((f"inference, {task}", "s", seconds, wait, part.origin))
    return pandas.DataFrame([*counts, *trainings, *times], columns=COLUMNS)


@torch.inference_mode()
def _seconds(
    key: str, part: Part, network: Any, sizes: Sizes, device: torch.device, repeat: int
) -> float:
    """Seconds of what appendix D times of this network, for one image (or volume): the median."""
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    shape = {"unetr": sizes.volume, "generator": (sizes.output // SCALE,) * 2}
    image = torch.rand(1, 1, *shape.get(key, (sizes.image, sizes.image)), device=device)
    # the volume patch of UNETR, that of the checkpoint if there is one
    window = (checkpoint.load(part.path).options if part.path else part.options).get("size", ())
    run = {
        "unetr": lambda: sliding_window_inference(image, window, 4, network, overlap=0.5),
        "vit": lambda: network(image, [-1]),
        "autoencoder": lambda: network.encode(prepare(image, (sizes.image,) * 2, network.size)),
        "generator": lambda: inference.forward(network, image, SCALE),
    }[key]
    if key == "unetr":  # one patch is enough to warm up; a second volume would take too long
        network(torch.rand(1, 1, *window, device=device))
        repeat = 1
    else:
        run()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _training(part: Part) -> tuple[float | None, str]:
    """Hours of a training from its log, with its device, steps and batch."""
    if part.path is None:
        return None, "not trained"
    log = part.path.with_name("log.jsonl")
    if not log.is_file():
        return None, "no log"
    events = {line.get("event"): line for line in read_log(log)}
    if "end" not in events:
        return None, "not finished"
    settings, origin = events["start"]["settings"], events["start"]["provenance"]
    effort = f"{settings['steps']:,} steps of {settings['batch']}"
    where = f"{origin['device']}, threads {origin['threads']}, processes {origin['processes']}"
    return events["end"]["seconds"] / 3600, f"{effort}, {where}"


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", info.read_text() if info.is_file() else "", re.M)
    return found[1].strip() if found else platform.machine()


def write(
    frame: pandas.DataFrame, out: Path, *, title: str, device: str, threads: int
) -> list[Path]:
    """Write the measurements as CSV to `out` and as Markdown beside it; returns both paths."""
    target = out.with_suffix(".md")
    if target == out:
        raise UserError(f"{out}: give the CSV's name; the Markdown goes beside it")
    numbers = frame[["measured", "paper"]].map("{:.4g}".format, na_action="ignore")
    write_text(out, to_csv(frame.assign(**numbers, device=device, threads=threads)))
    table = frame.drop(columns="unit")
    for name in numbers:
        table[name] = list(map(_shown, frame[name], frame["unit"]))
    table = table.rename(columns=str.capitalize)
    write_text(
        target,
        f"**{title}**\n\n{pipes(table, 'lrrl')}\nInference on {device}, {threads} "
        f"thread{'s' * (threads != 1)}, fp32, torch {torch.__version__}, one image at a time. The "
        "paper trained on an NVIDIA Tesla V100; it names no device for inference.\n",
    )
    return [out, target]


def _shown(value: float, unit: str) -> str:
    """For people: less than an hour in minutes."""
    if unit == "h" and value < 1:
        value, unit = 60 * value, "min"
    return "-" if pandas.isna(value) else f"{value:.4g} {unit}"


def run(
    resolved: Resolved,
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
    where = compute.device_for(device)
    frame = measure(parts(resolved, folder), sizes or Sizes(), device=where, repeat=repeat)
    of = f"experiment '{resolved.name}'" if folder else "the paper's sizes, random weights"
    return write(
        frame,
        out,
        title=f"Computation time (appendix D), {of}",
        device=device_name(where),
        threads=torch.get_num_threads(),
    )
