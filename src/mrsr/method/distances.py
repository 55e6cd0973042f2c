"""The cosine distance of codes (Eq. 7, 8), for the losses and for disentangling."""

from __future__ import annotations

from torch import Tensor

from mrsr.models.layers import full

TINY = 1e-8  # a code this short has no direction


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine similarity along the last dimension, in 0...2; (...) of two (..., n).

    Computed as half the squared distance of the unit vectors, which is the same number: 1 - cos
    itself loses all digits if the two are nearly parallel, as they usually are here. In float32
    it is exact to about 1e-14. A vector of zeros has no direction: value and gradient are 0.
    """
    a, b = full(a), full(b)
    long_a, long_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    directed = ((long_a > TINY) & (long_b > TINY)).to(a.dtype)
    difference = a / long_a.clamp_min(TINY) - b / long_b.clamp_min(TINY)
    return 0.5 * (directed * difference).square().sum(dim=-1)
