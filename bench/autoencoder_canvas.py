"""What zeros around a patch do to the auto-encoder's loss terms, on the phantom or your own slices.

    python bench/autoencoder_canvas.py
    python bench/autoencoder_canvas.py --slices test.h5 --checkpoint .../autoencoder/best.pt

Without a checkpoint the auto-encoder is the full-size one at its linear start, without `--slices`
the images are those of two simulated heads. The LR images are bicubic. The generator's image is
the true one, and the target the LR image, as in Eq. 7: for 96 x 96 patches and for whole slices,
on a canvas of 256 x 256 and on their own size, the script prints the mean over images of

- the structure and the texture term, and of their gradients' norms into the generator's image;
- the share of the structure code's energy that lies outside of the image.

About a minute on one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsr import checkpoint, models
from mrsr.datasets import phantom
from mrsr.method import features, losses
from mrsr.models.autoencoder import prepare
from mrsr.params.schema import Features
from mrsr.resampling import degrade
from mrsr.slices import batches, holding

TERMS = {"structure": 1.0, "texture": 1.0}


def heads(count: int) -> list[Tensor]:
    """T1 slices (1, 1, H, W) of simulated heads, normalised as the slice stores are."""
    found = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        volume = phantom.simulate(rng, 16, 0.005, 4.0)[0]["T1"].astype(np.float32)
        volume = torch.from_numpy(volume / np.percentile(volume, 99.9))
        found += [volume[None, None, ..., n] for n in range(4, 12)]
    return found[:count]


def stored(path: Path, count: int) -> list[Tensor]:
    """HR slices (1, 1, H, W) of a store."""
    held = holding.load(path, scale=2, degradation="bicubic", device=torch.device("cpu"))
    return [hr for _, _, hr in batches.whole(held, batch=1, limit=count) if hr.max() > 0]


def pairs(slices: list[Tensor], patch: int, scale: int) -> list[tuple[Tensor, Tensor]]:
    """(LR, HR) of whole slices, or of one patch with tissue in it from each; 0: whole."""
    rng = np.random.default_rng(0)
    found = []
    for hr in slices:
        height, width = (length // scale * scale for length in hr.shape[-2:])
        hr = hr[..., :height, :width]
        lr = degrade(hr, scale, "bicubic")
        for _ in range(100 if patch else 0):
            top, left = (scale * int(rng.integers((n - patch) // scale + 1)) for n in hr.shape[-2:])
            cut = hr[..., top : top + patch, left : left + patch]
            if (cut > 0.1).float().mean() > 0.5:
                low, size = (top // scale, left // scale), patch // scale
                part = lr[..., low[0] : low[0] + size, low[1] : low[1] + size]
                found.append((part, cut))
                break
        if not patch:
            found.append((lr, hr))
    return found


def measure(
    network: torch.nn.Module, images: list[tuple[Tensor, Tensor]], size: int
) -> list[float]:
    """Terms and norms of their gradients, alternating, then the energy outside; means."""
    frozen = features.Frozen(Features(autoencoder_size=size), {"autoencoder": network})
    rows = []
    for lr, hr in images:
        sr = hr.clone().requires_grad_(True)
        context = losses.Context(codes=features.pair(frozen, TERMS, lr, sr, hr))
        row = []
        for name in TERMS:
            term = losses.LOSSES[name](sr, hr, context)
            (gradient,) = torch.autograd.grad(term, sr, retain_graph=True)
            row += [term.item(), gradient.norm().item()]
        grid = (hr.shape[-2], hr.shape[-1])
        with torch.no_grad():
            inside = prepare(torch.ones_like(hr), grid, size)[..., ::4, ::4]
            energy = network.encode(prepare(hr, grid, size))[0].square()
        rows.append([*row, 1 - ((energy * inside).sum() / energy.sum()).item()])
    return np.mean(rows, axis=0).tolist()


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="What zeros around a patch do to the terms.")
    parser.add_argument("--slices", type=Path, help="slice store; the phantom without it")
    parser.add_argument("--checkpoint", type=Path, help="auto-encoder; the linear start without it")
    parser.add_argument("--count", type=int, default=16, help="slices")
    parser.add_argument("--patch", type=int, default=96, help="HR pixels of a patch")
    parser.add_argument("--scale", type=int, default=2)
    given = parser.parse_args()
    slices = stored(given.slices, given.count) if given.slices else heads(given.count)
    torch.manual_seed(0)
    network = (
        checkpoint.network(given.checkpoint)
        if given.checkpoint
        else models.build("autoencoder", given.scale, {})
    )
    network.eval().requires_grad_(False)
    print(f"{'images':<22}canvas  structure  gradient   texture  gradient  energy outside")
    for patch in (given.patch, 0):
        images = pairs(slices, patch, given.scale)
        shape = f"{patch}x{patch}" if patch else "{}x{}".format(*slices[0].shape[-2:])
        found = [measure(network, images, size) for size in (256, 0)]
        for size, row in zip((256, 0), found, strict=True):
            numbers = "  ".join(f"{value:8.2e}" for value in row[:4])
            print(f"{len(images):>3} of {shape:<14} {size or 'none':>7}   {numbers}  {row[4]:8.3f}")
        ratios = "  ".join(f"{own / wide:8.1f}" for wide, own in zip(*found, strict=True) if wide)
        print(f"{'':<20}none/256   {ratios}")


if __name__ == "__main__":
    main()
