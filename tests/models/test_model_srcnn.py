"""SRCNN, SRResNet and bicubic interpolation: `pytest tests/models/test_model_srcnn.py`."""

from __future__ import annotations

from typing import Any

import torch

from mrsr import models
from mrsr.resampling import upsample


def test_published_parameter_counts() -> None:
    def count(name: str, **options: Any) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in models.build(name, 2, options).parameters())

    assert count("srcnn") == 8_129
    assert count("srcnn", kernels=[9, 5, 5]) == 57_281
    assert count("srresnet") == 1_380_993
    assert count("bicubic") == 0


def test_bicubic_is_the_interpolation() -> None:
    lr = torch.rand(2, 1, 5, 6)
    assert torch.equal(models.build("bicubic", 4, {})(lr), upsample(lr, 4))


def test_srcnn_starts_as_the_interpolation() -> None:
    torch.manual_seed(0)
    lr = torch.rand(2, 1, 6, 6)
    sr = models.build("srcnn", 2, {"features": [8, 4]})(lr)
    assert 0 < (sr - upsample(lr, 2)).abs().mean() < 0.15
