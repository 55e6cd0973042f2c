"""One training in a given time, and its PSNR: a part of bench/gpu/run.py, in a process of its own.

    python bench/gpu/training.py --pack results/gpu_pack --job srresnet --out FOLDER \\
        --until $(($(date +%s) + 60))

A few steps tell how long a step takes; then the training runs with as many as fit, its schedule
over all of them. FOLDER gets the training's files and, last, `result.json`. Needs what trainings
need: torch, numpy, h5py, tqdm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from mrsr import checkpoint, compute, models
from mrsr.errors import UserError, guarded
from mrsr.files import write_json
from mrsr.models.unetr import encoder_of
from mrsr.params.jobs import Autoencoder, Pretext, SuperResolution
from mrsr.params.typed import build
from mrsr.training import train_autoencoder, train_sr, train_vit, validation

SPLITS = ("train", "validation", "test")
TRIAL = 12  # steps that tell how long one takes; the first few also choose kernels
SLACK = 0.85  # of the time that is left, which the steps should fill
CHECKS = 4  # validations of a training
KINDS = {"sr": SuperResolution, "vit": Pretext, "autoencoder": Autoencoder}


def settings_for(job: dict[str, Any], steps: int, validated: bool) -> Any:
    """The job's settings for this many steps on this machine."""
    every = max(1, steps // CHECKS) if validated else steps
    found = {
        **job["settings"],
        "steps": steps, "validate_every": every, "checkpoint_every": steps,
        "log_every": max(1, min(50, steps // 3)), "device": "auto", "precision": "auto",
        "threads": torch.get_num_threads(), "tracking": {"enabled": False},
    }  # fmt: skip
    if job["kind"] == "sr":
        found["test_curve"] = False
    found["schedule"] = {**found["schedule"], "warmup": min(100, steps // 10)}
    if found.get("adversarial"):
        warmup = steps // 10 if validated else 0  # a trial has all terms from the first step
        found["adversarial"] = {**found["adversarial"], "warmup": warmup}
    return build(KINDS[job["kind"]], found)


def train(job: dict[str, Any], settings: Any, pack: Path, frozen: Path, out: Path) -> None:
    """Run a training of any kind; frozen: the folder with those that others wait for."""
    stores = {split: pack / "stores" / f"{split}.h5" for split in SPLITS}
    if job["kind"] == "sr":
        paths = {name: frozen / name / "best.pt" for name in job.get("needs", [])}
        train_sr.train(settings, stores, out, paths)
    elif job["kind"] == "autoencoder":
        train_autoencoder.train(settings, stores, out)
    else:
        several = {split: [path] for split, path in stores.items()}
        train_vit.train(settings, several, frozen / "vit-start.pt", out)


def write_start(options: dict[str, Any], path: Path) -> None:
    """A 2D encoder with random weights: its 3D pre-training needs MONAI, which is not here."""
    torch.manual_seed(0)
    options = {**options, "dimensions": 2}
    weights = encoder_of(options).state_dict()
    checkpoint.save(path, model_name="unetr", options=options, scale=1, weights=weights,
                    settings={}, provenance={})  # fmt: skip


def quality(settings: SuperResolution, pack: Path, saved: Path) -> dict[str, dict[str, float]]:
    """Mean PSNR in dB over all whole slices of validation and test, beside bicubic's."""
    machine = compute.start(settings)
    stores = {split: pack / "stores" / f"{split}.h5" for split in SPLITS}
    whole = build(SuperResolution, {**vars(settings), "test_curve": True, "validation_slices": 0})
    networks = {
        "network": checkpoint.network(saved, machine.device),
        "bicubic": models.build("bicubic", settings.scale, {}).to(machine.device),
    }
    held = validation.held_out(whole, stores, machine, None)
    return {
        split: {
            name: validation.evaluate(network, slices, machine, whole, {"l1": 1.0})["psnr"]
            for name, network in networks.items()
        }
        for split, slices in held.items()
    }


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--until", type=float, required=True, help="when to end; Unix time")
    parser.add_argument("--steps", type=int, default=10**9, help="at most")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    content = json.loads((given.pack / "jobs.json").read_text(encoding="utf-8"))
    job = next((job for job in content["jobs"] if job["name"] == given.job), None)
    if job is None:
        raise UserError(f"{given.pack}: no job '{given.job}'")
    frozen = given.out.parent
    for name in job.get("needs", []):
        if not (frozen / name / "best.pt").is_file():
            raise UserError(f"'{given.job}' needs the {name}, which was not trained in time")
    if job["kind"] == "vit" and not (frozen / "vit-start.pt").is_file():
        write_start(content["vit"], frozen / "vit-start.pt")
    shutil.rmtree(given.out, ignore_errors=True)

    trial = given.out / "trial"
    began = time.monotonic()
    train(job, settings_for(job, TRIAL, validated=False), given.pack, frozen, trial / "best.pt")
    spent = time.monotonic() - began
    step = _seconds_per_step(trial / "log.jsonl", job["settings"]["batch"])
    aside = spent - TRIAL * step  # loading, one validation; the next one has chosen its kernels
    shutil.rmtree(trial)
    left = given.until - time.time()
    steps = min(given.steps, int((SLACK * left - (1 + CHECKS / 2) * aside) / step))
    if steps < CHECKS:
        raise UserError(
            f"'{given.job}': {left:.0f} s are left and a step takes {step:.2g} s; give it more time"
        )
    settings = settings_for(job, steps, validated=True)
    began = time.monotonic()
    train(job, settings, given.pack, frozen, given.out / "best.pt")
    result: dict[str, Any] = {
        "steps": steps,
        "images": steps * settings.batch,
        "seconds": time.monotonic() - began,
        "step_seconds": step,
        **_about(given.out / "best.pt"),
    }
    if job["kind"] == "sr":
        result["psnr"] = quality(settings, given.pack, given.out / "best.pt")
    write_json(given.out / "result.json", result)


def _seconds_per_step(log: Path, batch: int) -> float:
    """Of the last steps that a log tells: the first ones also plan and allocate."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    told = [line["metrics"] for line in lines if line.get("split") == "train"]
    rates = [metrics["images_per_second"] for metrics in told if "images_per_second" in metrics]
    return batch / rates[-1]


def _about(path: Path) -> dict[str, Any]:
    """Size and precision of a trained network, and the card's memory that it took."""
    saved = checkpoint.load(path)
    found: dict[str, Any] = {
        "parameters": sum(weight.numel() for weight in saved.weights.values()),
        "provenance": {k: v for k, v in saved.provenance.items() if k in ("device", "precision")},
    }
    with contextlib.suppress(RuntimeError, AssertionError):
        if torch.cuda.is_available():
            found["peak_memory"] = torch.cuda.max_memory_allocated()
    return found


if __name__ == "__main__":
    main()
