"""Sums in enough digits: what autocast left in bf16 goes on in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """bf16 and fp16 as float32; float32 and float64 (`precision: fp64`) as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
