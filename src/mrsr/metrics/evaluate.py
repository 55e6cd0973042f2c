"""Evaluate one method on the whole slices of a test store (paper section 4, Tables 1 and 2).

By hand:

    python -m mrsr.metrics.evaluate --settings @settings.json --slices test.h5 --checkpoint best.pt \
        --out results/demo/metrics/phantom_t1/x2/srresnet.json

Slices are degraded and super-resolved whole, padded to what scale and network need; the metrics
use only the unpadded area. `record.py` averages them.

A guided method also gets `--guide`, the store of its second contrast. A method that learns from the
test volume itself (type self) has a network of its own for every volume in one checkpoint.

Beside `<method>.json`, which carries its own labels, lie `<method>.csv` with the values of every
slice and, where matplotlib is installed, `<method>.png` with an example. The JSON is written last.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mrsr import checkpoint, compute, inference, models, resampling
from mrsr.checkpoint import Checkpoint
from mrsr.errors import UserError, guarded
from mrsr.files import sha256, write_json, write_text
from mrsr.metrics import definitions
from mrsr.metrics.definitions import METRICS, Preset
from mrsr.metrics.record import Rated, record, slice_table
from mrsr.params.jobs import Evaluation, read
from mrsr.params.typed import plain
from mrsr.slices import batches, holding, store
from mrsr.slices.store import StoredVolume


def evaluate(
    settings: Evaluation,
    slices: Path,
    out: Path,
    saved: Path | None = None,
    guide: Path | None = None,
) -> dict[str, Any]:
    """Rate a method and write `out` (.json), the values of every slice (.csv) and an example.

    Args:
        settings: of one cell of the results.
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
    preset = settings.preset
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = compute.device_for(settings.device)
    origin = checkpoint.load(saved) if saved else None
    if origin:
        _check_origin(origin, saved, settings)
    _check_store(slices, settings)
    models.check_guide(settings.model.name, guide is not None)
    own = settings.type == "self"
    network = _network(settings, saved, device)
    pairs = holding.load(
        slices,
        scale=settings.scale,
        degradation=settings.degradation,
        device=device,
        guide=guide,
        acceleration=settings.acceleration,
    )
    if own and origin:
        _check_volumes(origin, saved, pairs.volumes)
    example: dict[str, np.ndarray] = {}
    rated = list(_rate(network, pairs, preset, settings, example, origin if own else None))

    found = record(settings, preset, rated, network, origin)
    if guide:
        found["guide"] = residual(guide)
    found["split"] = str(store.attributes(slices).get("split", ""))
    found["checkpoint_sha256"] = sha256(saved) if saved else None
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    write_text(out.with_suffix(".csv"), slice_table(rated))
    _draw(example, out.with_suffix(".png"))
    write_json(out, found)
    if settings.tracking.enabled:
        from mrsr.tracking import delivery

        delivery.deliver(out, settings)
    return found


def _check_origin(origin: Checkpoint, path: Path | None, settings: Evaluation) -> None:
    """Refuse a checkpoint of another cell: it would put a wrong number into the tables."""
    known = {**origin.settings, "scale": origin.scale, "model": origin.model_name}
    asked = {**plain(settings), "model": settings.model.name}
    for key in ("scale", "dataset", "method", "degradation", "model", "type", "acceleration"):
        if key in known and key in asked and known[key] != asked[key]:
            raise UserError(
                f"{path} was trained for {key} {known[key]}, the evaluation asks for "
                f"{asked[key]}; give the checkpoint of this cell"
            )


def _check_volumes(origin: Checkpoint, path: Path | None, volumes: list[StoredVolume]) -> None:
    """Refuse networks trained on other volumes, for instance of a store that was since rebuilt."""
    here = {volume.key: volume.path for volume in volumes}
    if origin.provenance.get("volumes", here) != here:
        raise UserError(f"{path} was trained on other volumes than this store's; train it again")


def _check_store(path: Path, settings: Evaluation) -> None:
    found = store.attributes(path).get("dataset")
    if found != settings.dataset:
        raise UserError(
            f"{path} holds slices of {found}, the evaluation asks for {settings.dataset}; "
            "give that dataset's test.h5"
        )


def _network(settings: Evaluation, saved: Path | None, device: torch.device) -> nn.Module:
    own = settings.type == "self"  # its weights come volume by volume
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
    pairs: holding.Slices,
    preset: Preset,
    settings: Evaluation,
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
    values = definitions.per_slice(pred, ref, preset)
    if preset.level == "volume":
        whole = definitions.volume(pred, ref, preset)
    else:
        whole = {name: definitions.mean(value) for name, value in values.items()}
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
    network: nn.Module, images: tuple[Tensor, ...], settings: Evaluation
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
        sr = inference.forward(network, lr, settings.scale, *guide)
        _wait(lr.device)
        return sr, time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _example(ref: np.ndarray, pred: np.ndarray, lr: Tensor, scale: int) -> dict[str, np.ndarray]:
    """Named images (h, w) of the middle slice."""
    middle = len(ref) // 2
    height, width = ref.shape[1:]
    smooth = resampling.upsample(lr[middle], scale)[:height, :width].numpy()
    return {"high resolution": ref[middle], "bicubic": smooth, "super-resolved": pred[middle]}


def _draw(example: dict[str, np.ndarray], path: Path) -> None:
    """The middle slice; without matplotlib there is no figure, which is no reason to fail."""
    try:
        from mrsr.drawing import comparison

        reference = example.pop("high resolution")
        comparison(example, path, reference)
    except ImportError:
        return


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mrsr.metrics.evaluate", description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON, or @file")
    parser.add_argument("--slices", required=True, type=Path, help="the test store")
    parser.add_argument("--checkpoint", type=Path, help="best.pt; none for untrained methods")
    parser.add_argument("--guide", type=Path, help="the second contrast's test store")
    parser.add_argument("--out", required=True, type=Path, help="the JSON to write")
    given = parser.parse_args(arguments)
    settings = read(Evaluation, given.settings)
    found = evaluate(settings, given.slices, given.out, given.checkpoint, given.guide)
    values = ", ".join(f"{name} {found[name]['mean']:.4f}" for name in METRICS)
    print(
        f"{found['dataset']} x{found['scale']} {found['method']}: {values} "
        f"({found['n_subjects']} subjects, {found['n_slices']} slices)"
    )


if __name__ == "__main__":
    main()
