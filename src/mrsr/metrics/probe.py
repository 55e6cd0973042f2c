"""Measure what a trained auto-encoder has learned, on unseen slices; writes a small JSON.

    python -m mrsr.metrics.probe --checkpoint .../autoencoder/best.pt --slices test.h5 \\
        --out probe.json

- `psnr`: of the reconstruction of HR; `psnr_bicubic`: of the upsampled LR image, against the same
  HR; `psnr_without_texture`: with z_tex set to zero. dB, means over slices, the range is the
  slice's maximum.
- `structure_nearer`, `texture_nearer`: how often, after a swap, the result's codes are nearer
  (cosine distance) to their own donor's than to the other's. Every slice is paired with slices
  at a few distances in the list, of its own volume and of others (structure: if the sizes agree);
  0.5 is chance. The JSON also has the same shares by Euclidean distance.

Blank slices, which have no range, are left out. Scale and degradation are those of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrsr import checkpoint, compute, resampling
from mrsr.errors import UserError, guarded
from mrsr.files import write_text
from mrsr.method import disentangling
from mrsr.models.autoencoder import AutoEncoder, prepare, unprepare
from mrsr.slices import batches, holding

STEPS = (1, 5, 11, 23)  # from a slice to its partners, in the list of slices


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """(batch,) dB of images (batch, 1, H, W), range the true slice's (`batches.reach`)."""
    error = (image - truth).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(batches.reach(truth).square() / error)


def euclidean(one: Tensor, two: Tensor) -> Tensor:
    """(batch,) distance of two codes."""
    return (one - two).flatten(1).norm(dim=1)


@torch.no_grad()
def probe(network: AutoEncoder, slices: holding.Slices, limit: int = 64) -> dict[str, Any]:
    """The measures of the module's docstring, over `limit` slices (0: all)."""
    scores: dict[str, list[float]] = {
        name: [] for name in ("psnr", "psnr_bicubic", "psnr_without_texture")
    }
    images: list[Tensor] = []
    for _, lr, hr, *_ in batches.whole(slices, batch=1, limit=limit):
        if not batches.reach(hr).max() > 0:
            continue
        grid = (hr.shape[-2], hr.shape[-1])
        image = prepare(hr, grid, network.size)
        seen = unprepare(image, grid)  # the part of the slice that fits the canvas
        z_str, z_tex = network.encode(image)
        bicubic = prepare(resampling.upsample(lr, slices.scale), grid, network.size)
        rivals = {
            "psnr": network.decode(z_str, z_tex),
            "psnr_bicubic": bicubic,
            "psnr_without_texture": network.decode(z_str, torch.zeros_like(z_tex)),
        }
        for name, rival in rivals.items():
            scores[name] += psnr(unprepare(rival, grid), seen).tolist()
        images.append(image)
    if len(images) < 2:
        raise UserError(f"{slices.path}: fewer than two slices to probe; give more")

    nearer: dict[str, list[float]] = {}
    for first, image in enumerate(images):
        for step in STEPS:
            other = images[(first + step) % len(images)]
            if other is not image:
                for name, value in _swap(network, image, other).items():
                    nearer.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in (scores | nearer).items()}
    return {"slices": len(images), "pairs": len(nearer["texture_nearer"]), **means}


def _swap(network: AutoEncoder, image: Tensor, other: Tensor) -> dict[str, float]:
    """1 where the result of structure of `image`, texture of `other` is nearer to its donor."""
    z_str, z_tex = network.encode(image)
    other_str, other_tex = network.encode(other)
    new_str, new_tex = network.encode(network.decode(z_str, other_tex))
    result = {}
    measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "": disentangling.distance,
        "_euclidean": euclidean,
    }
    for name, measure in measures.items():
        if z_str.shape == other_str.shape:
            near = measure(new_str, z_str) < measure(new_str, other_str)
            result[f"structure_nearer{name}"] = float(near)
        near = measure(new_tex, other_tex) < measure(new_tex, z_tex)
        result[f"texture_nearer{name}"] = float(near)
    return result


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m mrsr.metrics.probe", description="Probe a trained auto-encoder."
    )
    parser.add_argument("--checkpoint", required=True, type=Path, help="of train_autoencoder")
    parser.add_argument("--slices", required=True, type=Path, help="slice store, of test subjects")
    parser.add_argument("--out", required=True, type=Path, help="JSON to write")
    parser.add_argument("--limit", type=int, default=64, help="slices to probe, 0 = all")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    given = parser.parse_args(arguments)
    device = compute.device_for(given.device)
    saved = checkpoint.load(given.checkpoint, checkpoint.AUTOENCODER)
    network: Any = checkpoint.network(given.checkpoint, device)  # an AutoEncoder
    slices = holding.load(
        given.slices,
        scale=saved.scale,
        degradation=saved.settings["degradation"],
        device=device,
    )
    result = {
        "experiment": saved.settings.get("experiment", ""),
        "dataset": saved.settings.get("dataset", ""),
        "scale": saved.scale,
        **probe(network, slices, given.limit),
    }
    write_text(given.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
