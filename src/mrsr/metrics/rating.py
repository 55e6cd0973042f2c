"""Super-resolve the whole slices of a test store and measure them, volume by volume."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mrsr import checkpoint, inference, resampling
from mrsr.checkpoint import Checkpoint
from mrsr.errors import UserError
from mrsr.metrics import batched, definitions
from mrsr.metrics.definitions import Preset
from mrsr.metrics.further import Further
from mrsr.metrics.record import Rated
from mrsr.params.jobs import Evaluation
from mrsr.slices import batches, holding
from mrsr.slices.store import StoredVolume


def rate(
    network: nn.Module,
    pairs: holding.Slices,
    preset: Preset,
    settings: Evaluation,
    example: dict[str, np.ndarray],
    further: Further,
    own: Checkpoint | None = None,
) -> Iterator[Rated]:
    """Volume by volume; the first one's middle slice goes into `example`.

    further: measures what `metrics.more` names.
    own: the checkpoint of a method that has weights for every volume.
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
                    super_resolve(network, images, settings)
                    warm.add(lr.shape)
                sr, elapsed = super_resolve(network, images, settings)
                seconds += elapsed
                height, width = piece.size
                pred.append(sr[:, 0, :height, :width].float())
                ref.append(hr[:, 0, :height, :width])
                coarse.append(lr[:, 0].cpu())
                bar.update(len(lr))
            preds, refs = torch.cat(pred), torch.cat(ref)
            if not torch.isfinite(preds).all():
                raise UserError(
                    f"method '{settings.method}' gives NaN or infinite values on {volume.path}; "
                    "train it again"
                )
            if not example:
                example |= _example(refs, preds, torch.cat(coarse), settings.scale)
            try:
                found = further(volume, preds, refs)
                yield _rated(volume, preds, refs, preset, found, seconds)
            except UserError as error:
                raise UserError(f"{volume.path}: {error}") from None


def _rated(
    volume: StoredVolume,
    pred: Tensor,
    ref: Tensor,
    preset: Preset,
    further: dict[str, np.ndarray],
    seconds: float,
) -> Rated:
    """The metrics of a volume (slices, h, w), computed where it is."""
    with torch.inference_mode():
        found = batched.per_slice(pred, ref, preset)
    values = {name: value.cpu().numpy() for name, value in found.items()}
    images = pred.cpu().numpy(), ref.cpu().numpy()
    if preset.level == "volume":
        whole = definitions.volume(*images, preset)
    else:
        whole = {name: definitions.mean(value) for name, value in values.items()}
    values |= further
    whole |= {name: definitions.mean(value) for name, value in further.items()}
    return Rated(volume=volume, values=values, whole=whole, seconds=seconds)


def super_resolve(
    network: nn.Module, images: tuple[Tensor, ...], settings: Evaluation
) -> tuple[Tensor, float]:
    """LR (n, 1, h, w), perhaps a guide -> (n, 1, s*h, s*w), seconds of the forward pass alone."""
    lr, *guide = images
    half = settings.precision == "bf16" and lr.device.type == "cuda"
    with (
        torch.inference_mode(),
        torch.autocast(lr.device.type, torch.bfloat16, enabled=half),
        # fp32 means fp32: convolutions on a GPU would use TF32 by default
        torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=half),
    ):
        _wait(lr.device)
        began = time.perf_counter()
        sr = inference.forward(network, lr, settings.scale, *guide, ensemble=settings.ensemble)
        _wait(lr.device)
        return sr, time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _example(refs: Tensor, preds: Tensor, lr: Tensor, scale: int) -> dict[str, np.ndarray]:
    """Named images (h, w) of the middle slice."""
    middle = len(refs) // 2
    ref, pred = (images[middle].cpu().numpy() for images in (refs, preds))
    height, width = ref.shape
    smooth = resampling.upsample(lr[middle], scale)[:height, :width].numpy()
    return {"high resolution": ref, "bicubic": smooth, "super-resolved": pred}
