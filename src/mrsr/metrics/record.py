"""From evaluated volumes to the metrics record of a method: averages, intervals, provenance.

Averages go from slices (or volumes, by the preset's level) to subjects to the mean over subjects,
so that a subject with many slices counts no more than another. The interval is the 95 % percentile
bootstrap over subjects, the unit that was sampled.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mrsr import checkpoint, models
from mrsr.checkpoint import Checkpoint
from mrsr.metrics import definitions
from mrsr.metrics.definitions import METRICS, Preset
from mrsr.metrics.intervals import FEW, TOO_SMALL
from mrsr.params.jobs import Evaluation
from mrsr.params.typed import digest, plain
from mrsr.slices.store import StoredVolume, attributes

FORMAT = 1
LABELS = ("experiment", "dataset", "scale", "method", "label", "degradation")
BOOTSTRAP = "95 % percentile bootstrap over subjects"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rated:
    """One volume after the network.

    values: of each slice, by metric; NaN if the reference has no signal.
    whole: of the volume by the preset's definition. seconds: of the forward passes.
    """

    volume: StoredVolume
    values: dict[str, np.ndarray]
    whole: dict[str, float]
    seconds: float


def bootstrap(values: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """2.5 and 97.5 % percentiles of the mean of values (n,), drawn n at a time with repetition."""
    draws = np.random.default_rng(seed).integers(len(values), size=(samples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def by_subject(rated: list[Rated], level: str) -> dict[str, dict[str, float]]:
    """Each subject's metrics: the mean over all its slices, or over its volumes.

    Raises:
        UserError: no slice of a subject has signal.
    """
    result = {}
    for subject in sorted({item.volume.subject for item in rated}):
        own = [item for item in rated if item.volume.subject == subject]
        result[subject] = {
            name: definitions.mean(
                np.concatenate([item.values[name] for item in own])
                if level == "slice"
                else np.array([item.whole[name] for item in own])
            )
            for name in own[0].values
        }
    return result


def record(
    settings: Evaluation,
    preset: Preset,
    rated: list[Rated],
    network: nn.Module,
    origin: Checkpoint | None,
) -> dict[str, Any]:
    """The JSON, except for what comes from files."""
    subjects = by_subject(rated, preset.level)
    enough = len(subjects) >= FEW
    training = origin.settings if origin else {}
    steps, batch = training.get("steps"), training.get("batch")
    provenance = origin.provenance if origin else checkpoint.provenance()
    n_slices = sum(len(item.values["psnr"]) for item in rated)
    blank = sum(int(np.isnan(item.values["psnr"]).sum()) for item in rated)
    left_out = blank if preset.level == "slice" else 0
    found: dict[str, Any] = {
        "format": FORMAT,
        **{name: getattr(settings, name) for name in LABELS},
        "model": plain(settings.model),
        "type": settings.type,
        "acceleration": settings.acceleration,
        "trained_on": settings.trained_on,
        "ensemble": settings.ensemble,
        "recipe": settings.recipe,
        "preset": dataclasses.asdict(preset),
        "conventions": definitions.describe(preset),
        "subjects": list(subjects),
        "n_subjects": len(subjects),
        "n_volumes": len(rated),
        "n_slices": n_slices - left_out,
        "slices_without_signal": blank,
        "more": list(settings.more),
        "interval": BOOTSTRAP if enough else TOO_SMALL,
    }
    for name in (*METRICS, *settings.more):
        values = np.array([subject[name] for subject in subjects.values()])
        low = high = None
        if enough:
            low, high = bootstrap(values, settings.bootstrap.samples, settings.bootstrap.seed)
        found[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return found | {
        "bootstrap": plain(settings.bootstrap),
        "seconds_per_slice": sum(item.seconds for item in rated) / n_slices,
        "parameters": count(network),
        "full_parameters": full_count(settings, network),
        **({"frozen_parameters": fixed} if (fixed := frozen(settings, network)) else {}),
        "losses": training.get("losses", {}),
        "own_losses": settings.own_losses,
        "steps": steps,
        "patches": steps * batch if steps and batch else None,
        "settings_digest": digest(settings),
        "training_digest": digest(training) if origin else None,
        "commit": provenance.get("commit", ""),
        **({"no_commit": provenance["no_commit"]} if "no_commit" in provenance else {}),
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "left_out": f"{left_out} slices without signal are left out" if left_out else "",
        "warnings": provenance.get("warnings", []),
        "per_subject": subjects,
        "per_volume": [
            {"subject": v.volume.subject, "visit": v.volume.visit, "volume": v.volume.path}
            | v.whole
            for v in rated
        ],
    }


def residual(guide: Path) -> dict[str, Any]:
    """The record of a guide's store: its dataset, and its shift against the target."""
    found = attributes(guide)
    return {
        "dataset": str(found.get("guide", "")),
        "resampled": bool(found.get("resampled", False)),
        "without_guide": json.loads(str(found.get("without_guide", "{}"))),
        "residual_mm": json.loads(str(found.get("residual_mm", "{}"))),
    }


def summary(found: dict[str, Any]) -> str:
    """A metrics record in one line."""
    values = ", ".join(f"{name} {found[name]['mean']:.4f}" for name in METRICS)
    return (
        f"{found['dataset']} x{found['scale']} {found['method']}: {values} "
        f"({found['n_subjects']} subjects, {found['n_slices']} slices)"
    )


def count(network: nn.Module) -> int:
    """Parameters of a network."""
    return sum(p.numel() for p in network.parameters())


def frozen(settings: Evaluation, network: nn.Module) -> int:
    """Weights of the networks inside it that its training leaves alone; they are buffers."""
    inside = getattr(models.module(settings.model.name), "FROZEN", ())
    parts = [getattr(network, name) for name in inside if hasattr(network, name)]
    return sum(buffer.numel() for part in parts for buffer in part.buffers())


class _NoDraws(TorchFunctionMode):
    """Leaves out random starting values: torch imports its compiler to draw them on `meta`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]  # torch.nn.init names it
        return func(*args, **kwargs)


def full_count(settings: Evaluation, network: nn.Module) -> int:
    """Parameters of the method at its full width, if the settings have another."""
    if settings.full_options == settings.model.options:
        return count(network)
    with torch.device("meta"), _NoDraws():
        return count(models.build(settings.model.name, settings.scale, settings.full_options))


def slice_table(rated: list[Rated]) -> str:
    """CSV, a row per slice; empty fields if the reference has no signal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rated[0].values)
    writer.writerow(["subject", "visit", "volume", "slice_index", *names])
    for item in rated:
        v = item.volume
        for row, index in enumerate(v.slice_index):
            numbers = [float(item.values[name][row]) for name in names]
            shown = ["" if np.isnan(number) else repr(number) for number in numbers]
            writer.writerow([v.subject, v.visit, v.path, index, *shown])
    return text.getvalue()
