"""Undersampled LR input: which lines are taken, and what their lack does to an image.

Run: pytest tests/test_undersample.py
"""

from __future__ import annotations

import math

import pytest
import torch

from mrsr.resampling import sampled_lines, undersample


def shifted(width: int, acceleration: int) -> list[int]:
    """The sampled frequencies, in rising order."""
    lines = sampled_lines(width, acceleration)
    frequency = [k if k < (width + 1) // 2 else k - width for k in range(width)]
    return sorted(f for f, taken in zip(frequency, lines.tolist(), strict=True) if taken)


def test_known_lines() -> None:
    assert shifted(16, 4) == [-8, -4, 0, 4]  # a centre of one line, the mean
    assert shifted(32, 4) == [-16, -12, -8, -4, -1, 0, 1, 4, 8, 12]  # a centre of three
    assert shifted(9, 2) == [-4, -2, 0, 2, 4]
    assert shifted(7, 1) == [-3, -2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize(("width", "acceleration"), [(100, 4), (120, 4), (131, 4), (112, 8)])
def test_the_centre_is_whole_and_of_its_size(width: int, acceleration: int) -> None:
    taken = set(shifted(width, acceleration))
    centre = round(0.32 / acceleration * width)
    inside = range(-(centre // 2), centre - centre // 2)
    assert len(inside) == centre and taken >= set(inside)
    outside = taken - set(inside)
    assert all(frequency % acceleration == 0 for frequency in outside)
    every = [f for f in range(-(width // 2), (width + 1) // 2) if f % acceleration == 0]
    assert taken == set(inside) | set(every)


def wave(frequency: int, height: int = 6, width: int = 32) -> torch.Tensor:
    """3 + a cosine along the columns' direction, constant over rows."""
    x = torch.arange(width) / width
    return (3 + torch.cos(2 * math.pi * frequency * x)).expand(height, width)


def test_sampled_frequencies_stay_and_others_vanish() -> None:
    for frequency in (1, 4, 8, 12):  # the centre is -1, 0, 1
        assert torch.allclose(undersample(wave(frequency), 4), wave(frequency), atol=1e-5)
    for frequency in (3, 5, 6, 15):
        assert torch.allclose(undersample(wave(frequency), 4), torch.tensor(3.0), atol=1e-5)
    rows = wave(5).mT  # lines are columns of the transform: this direction is whole
    assert torch.allclose(undersample(rows, 4), rows, atol=1e-5)


def test_images_of_a_stack_are_alone() -> None:
    stack = torch.rand(3, 2, 10, 31, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.stack([torch.stack([undersample(x, 4) for x in pair]) for pair in stack])
    assert torch.allclose(undersample(stack, 4), one_by_one, atol=1e-6)
    assert (undersample(stack, 4) - stack).abs().max() > 0.05


def test_type_and_no_acceleration() -> None:
    image = torch.rand(8, 24)
    assert undersample(image, 1) is image
    assert undersample(image.half(), 4).dtype == torch.float16
    assert undersample(image, 4).dtype == torch.float32
    assert torch.isfinite(undersample(torch.zeros(8, 24), 4)).all()
