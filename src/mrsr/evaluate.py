"""Rate one method on the whole slices of a test store (paper section 4, Tables 1 and 2).

By hand:

    python -m mrsr.evaluate --settings @settings.json --slices test.h5 --checkpoint best.pt \
        --out results/demo/metrics/phantom_t1/x2/srresnet.json

Slices are degraded and super-resolved whole, padded to what scale and network need; the metrics
see the unpadded area only. Averages go from slices (or volumes, by the preset's level) to subjects
to the mean over subjects, so that a subject with many slices weighs no more than another. The
interval is the 95 % percentile bootstrap over subjects, the unit that was sampled.

A guided method also gets `--guide`, the store of its second contrast. A method that learns from the
test volume itself (type self) has a network of its own for every volume in one checkpoint.

Beside `<method>.json`, which carries its own labels, lie `<method>.csv` with the values of every
slice and, where matplotlib is installed, `<method>.png` with an example. The JSON is written last.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mrsr import batches, checkpoint, degrade, enhance, loop, metrics, models, store
from mrsr.checkpoint import Checkpoint
from mrsr.errors import UserError, guarded
from mrsr.files import sha256, write_json, write_text
from mrsr.metrics import METRICS, Preset
from mrsr.settings import digest, job, plain
from mrsr.store import StoredVolume

FORMAT = 1
FEW = 6  # under this many subjects an interval says nothing
TOO_SMALL = "n too small"
BOOTSTRAP = "95 % percentile bootstrap over subjects"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Rated:
    """One volume after the network.

    values: of each slice, by metric, NaN where the reference has no signal.
    whole: of the volume by the preset's definition. seconds: of the forward passes.
    """

    volume: StoredVolume
    values: dict[str, np.ndarray]
    whole: dict[str, float]
    seconds: float


# what a job must be told; `config.py` gives all of it
REQUIRED = (
    *("experiment", "dataset", "scale", "method", "degradation", "model", "preset", "bootstrap"),
    *("batch", "device", "precision", "threads"),
)


def evaluate(
    settings: SimpleNamespace,
    slices: Path,
    out: Path,
    saved: Path | None = None,
    guide: Path | None = None,
) -> dict[str, Any]:
    """Rate a method and write `out` (.json), the values of every slice (.csv) and an example.

    Args:
        settings: experiment, dataset, scale, method, label, degradation, model {name, options},
            preset, bootstrap {samples, seed}, batch, device, precision, threads, tracking; where
            they matter also type, acceleration, recipe, full {options}.
        slices: the test store.
        out: the JSON file.
        saved: `best.pt`; None builds the network that `settings.model` names, untrained.
        guide: the test store of the second contrast.

    Returns:
        What the JSON holds.

    Raises:
        UserError: the checkpoint or the store belongs to another cell of the results, or one of
            them cannot be used.
    """
    out = Path(out)
    preset = metrics.preset(settings.preset)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = loop.device_for(settings.device)
    origin = checkpoint.load(saved) if saved else None
    if origin:
        _check_origin(origin, saved, settings)
    _check_store(slices, settings)
    models.check_guide(settings.model.name, guide is not None)
    own = getattr(settings, "type", "single") == "self"
    network = _network(settings, saved, device)
    pairs = batches.load(
        slices,
        scale=settings.scale,
        degradation=settings.degradation,
        device=device,
        guide=guide,
        acceleration=getattr(settings, "acceleration", 1),
    )
    if own and origin:
        _check_volumes(origin, saved, pairs.volumes)
    example: dict[str, np.ndarray] = {}
    rated = list(_rate(network, pairs, preset, settings, example, origin if own else None))

    record = _record(settings, preset, rated, network, origin)
    if guide:
        record["guide"] = residual(guide)
    record["split"] = str(store.attributes(slices).get("split", ""))
    record["checkpoint_sha256"] = sha256(saved) if saved else None
    record["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    write_text(out.with_suffix(".csv"), _slice_table(rated))
    _draw(example, out.with_suffix(".png"))
    write_json(out, record)
    if settings.tracking.enabled:
        from mrsr import tracking

        tracking.deliver(out, settings)
    return record


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
            name: metrics.mean(
                np.concatenate([item.values[name] for item in own])
                if level == "slice"
                else np.array([item.whole[name] for item in own])
            )
            for name in METRICS
        }
    return result


def _check_origin(origin: Checkpoint, path: Path | None, settings: SimpleNamespace) -> None:
    """A checkpoint of another cell would put a wrong number into the tables."""
    known = {**origin.settings, "scale": origin.scale, "model": origin.model_name}
    asked = {**vars(settings), "model": settings.model.name}
    for key in ("scale", "dataset", "method", "degradation", "model", "type", "acceleration"):
        if key in known and key in asked and known[key] != asked[key]:
            raise UserError(
                f"{path} was trained for {key} {known[key]}, the evaluation asks for "
                f"{asked[key]}; give the checkpoint of this cell"
            )


def _check_volumes(origin: Checkpoint, path: Path | None, volumes: list[StoredVolume]) -> None:
    """Networks of other volumes, of a store that was made anew, would pass unseen."""
    here = {volume.key: volume.path for volume in volumes}
    if origin.provenance.get("volumes", here) != here:
        raise UserError(f"{path} was trained on other volumes than this store's; train it again")


def _check_store(path: Path, settings: SimpleNamespace) -> None:
    found = store.attributes(path).get("dataset")
    if found != settings.dataset:
        raise UserError(
            f"{path} holds slices of {found}, the evaluation asks for {settings.dataset}; "
            "give that dataset's test.h5"
        )


def _network(settings: SimpleNamespace, saved: Path | None, device: torch.device) -> nn.Module:
    own = getattr(settings, "type", "single") == "self"  # its weights come volume by volume
    if saved and not own:
        network = checkpoint.network(saved, device)
    else:
        network = models.build(settings.model.name, settings.scale, settings.model.options)
        if any(True for _ in network.parameters()) and not saved:
            raise UserError(
                f"method '{settings.method}' has weights to train; give its best.pt by --checkpoint"
            )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.to(device).eval()


def _rate(
    network: nn.Module,
    pairs: batches.Slices,
    preset: Preset,
    settings: SimpleNamespace,
    example: dict[str, np.ndarray],
    own: Checkpoint | None = None,
) -> Iterator[Rated]:
    """Volume by volume; the first one's middle slice goes into `example`.

    own: the checkpoint of a method that has weights of its own for every volume.
    """
    pieces = batches.whole(pairs, batch=settings.batch)
    warm: set[tuple[int, ...]] = set()
    with tqdm(total=pairs.count, desc=settings.method, unit="slice", disable=None) as bar:
        for volume, of_volume in itertools.groupby(pieces, key=lambda item: item[0].volume):
            ref, pred, coarse = [], [], []
            seconds = 0.0
            if own:
                checkpoint.adopt_part(network, own, volume.key)
            for piece, lr, hr, *second in of_volume:
                images = batches.seen(pairs, lr, second)
                # the first pass of a shape also plans kernels and allocates
                if lr.shape not in warm:
                    _super_resolve(network, images, settings)
                    warm.add(lr.shape)
                sr, elapsed = _super_resolve(network, images, settings)
                seconds += elapsed
                height, width = piece.size
                pred.append(sr[:, 0, :height, :width].float().cpu().numpy())
                ref.append(hr[:, 0, :height, :width].cpu().numpy())
                coarse.append(lr[:, 0].cpu())
                bar.update(len(lr))
            preds, refs = np.concatenate(pred), np.concatenate(ref)
            if not np.isfinite(preds).all():
                raise UserError(
                    f"method '{settings.method}' gives NaN or infinite values on {volume.path}; "
                    "train it again"
                )
            if not example:
                example |= _example(refs, preds, torch.cat(coarse), settings.scale)
            try:
                yield _rated(volume, preds, refs, preset, seconds)
            except UserError as error:
                raise UserError(f"{volume.path}: {error}") from None


def _rated(
    volume: StoredVolume, pred: np.ndarray, ref: np.ndarray, preset: Preset, seconds: float
) -> Rated:
    values = metrics.per_slice(pred, ref, preset)
    if preset.level == "volume":
        whole = metrics.volume(pred, ref, preset)
    else:
        whole = {name: metrics.mean(value) for name, value in values.items()}
    return Rated(volume=volume, values=values, whole=whole, seconds=seconds)


def residual(guide: Path) -> dict[str, Any]:
    """What a guide's store says of itself: its dataset, and how far off the target it lies."""
    found = store.attributes(guide)
    return {
        "dataset": str(found.get("guide", "")),
        "resampled": bool(found.get("resampled", False)),
        "without_guide": json.loads(str(found.get("without_guide", "{}"))),
        "residual_mm": json.loads(str(found.get("residual_mm", "{}"))),
    }


def _super_resolve(
    network: nn.Module, images: tuple[Tensor, ...], settings: SimpleNamespace
) -> tuple[Tensor, float]:
    """LR (n, 1, h, w), perhaps a guide -> (n, 1, s*h, s*w), seconds of the forward pass alone."""
    lr, *guide = images
    half = settings.precision == "bf16" and lr.device.type == "cuda"
    with (
        torch.inference_mode(),
        torch.autocast(lr.device.type, torch.bfloat16, enabled=half),
        # fp32 means fp32: convolutions on a GPU would take TF32 by default
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=half),
    ):
        _wait(lr.device)
        began = time.perf_counter()
        sr = enhance.forward(network, lr, settings.scale, *guide)
        _wait(lr.device)
        return sr, time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _record(
    settings: SimpleNamespace,
    preset: Preset,
    rated: list[Rated],
    network: nn.Module,
    origin: Checkpoint | None,
) -> dict[str, Any]:
    """The JSON, but for what only the files know."""
    subjects = by_subject(rated, preset.level)
    enough = len(subjects) >= FEW
    training = origin.settings if origin else {}
    steps, batch = training.get("steps"), training.get("batch")
    provenance = origin.provenance if origin else checkpoint.provenance()
    n_slices = sum(len(item.values["psnr"]) for item in rated)
    blank = sum(int(np.isnan(item.values["psnr"]).sum()) for item in rated)
    left_out = blank if preset.level == "slice" else 0
    record: dict[str, Any] = {
        "format": FORMAT,
        "experiment": settings.experiment,
        "dataset": settings.dataset,
        "scale": settings.scale,
        "method": settings.method,
        "label": settings.label,
        "degradation": settings.degradation,
        "model": plain(settings.model),
        "type": getattr(settings, "type", "single"),
        "acceleration": getattr(settings, "acceleration", 1),
        "recipe": getattr(settings, "recipe", "common"),
        "preset": dataclasses.asdict(preset),
        "conventions": metrics.describe(preset),
        "subjects": list(subjects),
        "n_subjects": len(subjects),
        "n_volumes": len(rated),
        "n_slices": n_slices - left_out,
        "slices_without_signal": blank,
        "interval": BOOTSTRAP if enough else TOO_SMALL,
    }
    for name in METRICS:
        values = np.array([subject[name] for subject in subjects.values()])
        low = high = None
        if enough:
            low, high = bootstrap(values, settings.bootstrap.samples, settings.bootstrap.seed)
        record[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return record | {
        "bootstrap": plain(settings.bootstrap),
        "seconds_per_slice": sum(item.seconds for item in rated) / n_slices,
        "parameters": count(network),
        "full_parameters": _full(settings, network),
        "steps": steps,
        "patches": steps * batch if steps and batch else None,
        "settings_digest": digest(settings),
        "training_digest": digest(training) if origin else None,
        "commit": provenance.get("commit", ""),
        "precision": settings.precision,
        "threads": torch.get_num_threads(),
        "left_out": f"{left_out} slices without signal are left out" if left_out else "",
        "per_subject": subjects,
        "per_volume": [
            {"subject": v.volume.subject, "visit": v.volume.visit, "volume": v.volume.path}
            | v.whole
            for v in rated
        ],
    }


def count(network: nn.Module) -> int:
    """Parameters of a network."""
    return sum(p.numel() for p in network.parameters())


def _full(settings: SimpleNamespace, network: nn.Module) -> int:
    """Parameters that the method has at its full width, where the settings say another."""
    full = getattr(settings, "full", None)
    if full is None or full.options == settings.model.options:
        return count(network)
    with torch.device("meta"):
        return count(models.build(settings.model.name, settings.scale, full.options))


def _slice_table(rated: list[Rated]) -> str:
    """CSV, a row per slice; empty fields where the reference has no signal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "visit", "volume", "slice_index", *METRICS])
    for item in rated:
        v = item.volume
        for row, index in enumerate(v.slice_index):
            numbers = [float(item.values[name][row]) for name in METRICS]
            shown = ["" if np.isnan(number) else repr(number) for number in numbers]
            writer.writerow([v.subject, v.visit, v.path, index, *shown])
    return text.getvalue()


def _example(ref: np.ndarray, pred: np.ndarray, lr: Tensor, scale: int) -> dict[str, np.ndarray]:
    """Named images (h, w) of the middle slice."""
    middle = len(ref) // 2
    height, width = ref.shape[1:]
    smooth = degrade.upsample(lr[middle], scale)[:height, :width].numpy()
    return {"high resolution": ref[middle], "bicubic": smooth, "super-resolved": pred[middle]}


def _draw(example: dict[str, np.ndarray], path: Path) -> None:
    """The middle slice; without matplotlib there is no figure, which is no reason to fail."""
    try:
        from mrsr.figures import comparison

        reference = example.pop("high resolution")
        comparison(example, path, reference)
    except ImportError:
        return


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mrsr.evaluate", description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON, or @file")
    parser.add_argument("--slices", required=True, type=Path, help="the test store")
    parser.add_argument("--checkpoint", type=Path, help="best.pt; none for untrained methods")
    parser.add_argument("--guide", type=Path, help="the second contrast's test store")
    parser.add_argument("--out", required=True, type=Path, help="the JSON to write")
    given = parser.parse_args(arguments)
    settings = job(given.settings, REQUIRED)
    record = evaluate(settings, given.slices, given.out, given.checkpoint, given.guide)
    values = ", ".join(f"{name} {record[name]['mean']:.4f}" for name in METRICS)
    print(
        f"{record['dataset']} x{record['scale']} {record['method']}: {values} "
        f"({record['n_subjects']} subjects, {record['n_slices']} slices)"
    )


if __name__ == "__main__":
    main()
