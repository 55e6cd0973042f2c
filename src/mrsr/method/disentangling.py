"""Loss terms of the auto-encoder and distances between codes (section 3.3, Eq. 3 to 6).

Each image of a batch is x1 once, and x2 for the image half a batch away. The terms:

- `reconstruction`: mean |x - G(E(x))| (Eq. 3);
- `adversarial`: -log D(G(E(x1))) (Eq. 4);
- `swap`: -log D(G(z_str of x1, z_tex of x2)) (Eq. 5);
- `patch_swap`: the centre patch, n x n of LR (on the HR grid) and mn x mn of HR. LR structure with
  HR texture should give the LR patch, HR structure with LR texture the HR patch; mean absolute
  errors, averaged. The paper describes the term but gives no weight;
- `consistency` (ours, 0 = as published): the swapped image is encoded again, and its structure code
  should be nearer its structure donor than its texture donor, its texture code the other way. The
  term is the mean of two shares d_own / (d_own + d_other), cosine distances: 0 when a code is its
  own donor's, 0.5 when it is as near to the other's. A share has no unit, so pulling all
  codes together does not lower it.

Eq. 3 has a norm but no unit. A mean over pixels of intensities in 0...1 is about 0.01, and 0.7
times an adversarial loss then has ten times its gradient (measured on real T1W: reconstruction
falls from 34.0 to 30.8 dB in 50 steps); a literal sum over 65,536 pixels would have a thousand
times the adversarial one. `intensity_range` is the unit, 255 (grey levels) by default: it
multiplies the weights of the terms that measure intensities, which are logged in 0...1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.method import adversarial, distances
from mrsr.models.autoencoder import AutoEncoder, prepare

INTENSITIES = ("reconstruction", "patch_swap")
TERMS = ("reconstruction", "adversarial", "swap", "patch_swap", "consistency")
# added to cosine distances before division: texture codes are often only 1e-6 apart, and float32
# resolves 1e-14
ROUNDING = 1e-12


def active(weights: dict[str, float], intensity_range: float = 1.0) -> dict[str, float]:
    """The terms of non-zero weight, with `intensity_range` applied.

    Raises:
        UserError: a name is not in `TERMS`, or there is no reconstruction.
    """
    for name in weights:
        if name not in TERMS:
            raise UserError(f"weights.{name}: no such term; there are: {', '.join(TERMS)}")
    chosen = {name: float(weight) for name, weight in weights.items() if weight}
    if "reconstruction" not in chosen:
        raise UserError("weights.reconstruction must not be 0: without it the codes mean nothing")
    if intensity_range <= 0:
        raise UserError("intensity_range must be above 0: 1, or 255 for grey levels")
    unit = {name: intensity_range if name in INTENSITIES else 1.0 for name in chosen}
    return {name: weight * unit[name] for name, weight in chosen.items()}


def distance(one: Tensor, two: Tensor) -> Tensor:
    """(batch,) cosine distance of two codes, each taken as one vector, as in Eq. 7."""
    return distances.cosine(one.flatten(1), two.flatten(1))


def share(code: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """(batch,) in 0...1: below 0.5 where `code` is nearer to `own` than to `other`."""
    near, far = distance(code, own) + ROUNDING, distance(code, other) + ROUNDING
    return near / (near + far)


def centre(images: Tensor, size: int) -> Tensor:
    """The central size x size of images (..., H, W)."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def centre_patches(lr: Tensor, hr: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """n x n of LR and the mn x mn of HR that show the same region, m = HR / LR."""
    m = hr.shape[-1] // lr.shape[-1]
    n = min(n, *lr.shape[-2:])
    top, left = (lr.shape[-2] - n) // 2, (lr.shape[-1] - n) // 2
    region = hr[..., m * top : m * (top + n), m * left : m * (left + n)]
    return lr[..., top : top + n, left : left + n], region


def patch_swap(network: AutoEncoder, lr: Tensor, hr: Tensor, n: int) -> Tensor:
    """The centre-patch term of section 3.3. lr (batch, 1, h, w), hr (batch, 1, mh, mw)."""
    low, high = centre_patches(lr, hr, n)
    grid = (high.shape[-2], high.shape[-1])
    both = torch.cat([prepare(low, grid, network.size), prepare(high, grid, network.size)])
    z_str, z_tex = network.encode(both)
    swapped = network.decode(z_str, z_tex.roll(len(low), dims=0))
    return F.l1_loss(swapped.to(both.dtype), both)


def terms(
    network: AutoEncoder,
    lr: Tensor,
    hr: Tensor,
    weights: dict[str, float],
    n: int,
    judge: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Unweighted terms of `weights`, and the images: prepared input, reconstruction, swapped.

    Args:
        lr, hr: a batch of two or more different slices, even in number.
        weights: as `active` returns them. n: LR pixels of the centre patch.
        judge: images to logits; without it the adversarial terms are left out (warm-up).
    """
    image = prepare(hr, (hr.shape[-2], hr.shape[-1]), network.size)
    z_str, z_tex = network.encode(image)
    again = network.decode(z_str, z_tex).to(image.dtype)
    losses = {"reconstruction": F.l1_loss(again, image)}
    other = len(image) // 2
    images = [image, again]
    if (judge is not None and "swap" in weights) or "consistency" in weights:
        donor = z_tex.roll(other, dims=0)
        swapped = network.decode(z_str, donor).to(image.dtype)
        images.append(swapped)
    if judge is not None:
        if "adversarial" in weights:
            losses["adversarial"] = adversarial.generator_loss(judge(again))
        if "swap" in weights:
            losses["swap"] = adversarial.generator_loss(judge(swapped))
    if "patch_swap" in weights:
        losses["patch_swap"] = patch_swap(network, lr, hr, n)
    if "consistency" in weights:
        new_str, new_tex = network.encode(swapped)
        structure = share(new_str, z_str, z_str.roll(other, dims=0))
        texture = share(new_tex, donor, z_tex)
        losses["consistency"] = 0.5 * (structure.mean() + texture.mean())
    return losses, images
