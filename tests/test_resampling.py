"""Degradation against an independent imresize, known values and properties.

Run: pytest tests/test_resampling.py
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsr import resampling
from mrsr.errors import UserError
from project import ROOT

KNOWN = json.loads((ROOT / "tests" / "data" / "imresize_known.json").read_text())["cases"]
SCALES = (2, 3, 4, 8)
fast = settings(max_examples=20, deadline=None)


def imresize_weights(n_in: int, n_out: int) -> list[list[float]]:
    """MATLAB's contributions() in scalar loops, one-based as there, as a dense matrix."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    scale = n_out / n_in
    width = 4 / scale if scale < 1 else 4.0
    mirror = [*range(1, n_in + 1), *range(n_in, 0, -1)]
    dense = []
    for x in range(1, n_out + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        taps = []
        for p in range(math.ceil(width) + 2):
            distance = u - (left + p)
            w = scale * kernel(scale * distance) if scale < 1 else kernel(distance)
            taps.append((mirror[(left + p - 1) % len(mirror)], w))
        total = sum(w for _, w in taps)
        row = [0.0] * n_in
        for index, w in taps:
            row[index - 1] += w / total
        dense.append(row)
    return dense


def imresize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = np.array(imresize_weights(image.shape[0], size[0]))
    columns = np.array(imresize_weights(image.shape[1], size[1]))
    return np.einsum("hH,HW,wW->hw", rows, image, columns)


def images(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).to(dtype)


def smallest_odd(scale: int, low: int) -> int:
    """The smallest odd number of LR pixels that makes at least `low` HR pixels, in HR pixels."""
    lr = -(-low // scale)
    return scale * (lr + 1 - lr % 2)


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case["name"])
def test_bicubic_known_values(case: dict) -> None:
    found = resampling.bicubic(torch.tensor(case["input"]).double(), tuple(case["size"]))
    np.testing.assert_allclose(found.numpy(), case["output"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(24, 48), (9 * 8, 5 * 24), (24, 24 * 5)])
def test_bicubic_is_imresize(scale: int, dtype: torch.dtype, size: tuple[int, int]) -> None:
    """Whole image, borders included, down and up, in a batch."""
    x = images(scale, 2, 1, *size, dtype=dtype)
    small = (size[0] // scale, size[1] // scale)
    down = resampling.bicubic(x, small)
    up = resampling.upsample(down, scale)
    assert down.dtype == up.dtype == dtype
    assert up.shape == x.shape
    for i in range(2):
        np.testing.assert_allclose(down[i, 0], imresize(x[i, 0].numpy(), small), atol=1e-6)
        np.testing.assert_allclose(up[i, 0], imresize(down[i, 0].numpy(), size), atol=1e-6)


@pytest.mark.parametrize("n_in,n_out", [(7, 3), (5, 13), (1, 4), (9, 1), (11, 11), (3, 2)])
def test_matrix_of_any_size(n_in: int, n_out: int) -> None:
    matrix = resampling.resize_matrix(n_in, n_out)
    np.testing.assert_allclose(matrix, imresize_weights(n_in, n_out), atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


@fast
@given(
    scale=st.sampled_from(SCALES),
    kind=st.sampled_from(resampling.KINDS),
    value=st.floats(-100, 100),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
)
def test_constant_stays_constant(scale: int, kind: str, value: float, h: int, w: int) -> None:
    value = abs(value) if kind == "kspace" else value  # a magnitude has no sign
    found = resampling.degrade(torch.full((2, h * scale, w * scale), value), scale, kind)
    assert found.shape == (2, h, w)
    torch.testing.assert_close(found, torch.full_like(found, value))


@fast
@given(
    scale=st.sampled_from(SCALES), a=st.floats(-3, 3), b=st.floats(-3, 3), seed=st.integers(0, 99)
)
def test_linear(scale: int, a: float, b: float, seed: int) -> None:
    x, y = images(seed, 2, 3 * scale, 4 * scale)
    for linear in (
        lambda z: resampling.bicubic(z, (3, 4)),
        lambda z: resampling.kspace_crop(z.to(torch.complex128), scale),
    ):
        torch.testing.assert_close(linear(a * x + b * y), a * linear(x) + b * linear(y))


@fast
@given(
    scale=st.sampled_from(SCALES),
    kind=st.sampled_from(resampling.KINDS),
    dims=st.sampled_from([(-1,), (-2,), (-2, -1)]),
    seed=st.integers(0, 99),
)
def test_flips_commute(scale: int, kind: str, dims: tuple[int, ...], seed: int) -> None:
    """So flipping an LR and HR patch together keeps them a pair.

    Odd LR sizes: an even number of frequencies has one with no opposite, as in an acquisition.
    """
    x = images(seed, smallest_odd(scale, 9), smallest_odd(scale, 17), dtype=torch.float32)
    torch.testing.assert_close(
        resampling.degrade(x.flip(dims), scale, kind), resampling.degrade(x, scale, kind).flip(dims)
    )


@pytest.mark.parametrize("scale", SCALES)
def test_kspace_even_flip_of_both_axes(scale: int) -> None:
    x = images(5, 4 * scale, 6 * scale)
    found = resampling.kspace_crop(x.flip(-2, -1), scale)
    torch.testing.assert_close(found, resampling.kspace_crop(x, scale).flip(-2, -1))


@fast
@given(scale=st.sampled_from(SCALES), seed=st.integers(0, 99))
def test_kspace_keeps_the_mean(scale: int, seed: int) -> None:
    x = torch.complex(*images(seed, 2, 2 * scale, 5 * scale))
    found = resampling.kspace_crop(x, scale)
    assert found.is_complex()
    torch.testing.assert_close(found.mean(), x.mean())


@pytest.mark.parametrize("scale", SCALES)
def test_kspace_is_the_central_part(scale: int) -> None:
    """Against numpy's shifted transform: same moduli of k-space as a plain crop, centred pixels."""
    h, w = 6, 5
    x = torch.complex(*images(scale, 2, h * scale, w * scale))
    found = resampling.kspace_crop(x, scale).numpy()
    full = np.fft.fftshift(np.fft.fft2(x.numpy()))
    top, left = h * scale // 2 - h // 2, w * scale // 2 - w // 2
    plain = full[top : top + h, left : left + w] / scale**2
    np.testing.assert_allclose(np.abs(np.fft.fftshift(np.fft.fft2(found))), np.abs(plain))
    # sample (p, q) of the trigonometric series, at the centre of its HR pixels
    ky, kx = np.arange(h) - h // 2, np.arange(w) - w // 2
    for p, q in ((0, 0), (2, 3), (5, 4)):
        y, z = scale * p + (scale - 1) / 2, scale * q + (scale - 1) / 2
        wave = np.exp(2j * np.pi * (ky[:, None] * y / (h * scale) + kx * z / (w * scale)))
        np.testing.assert_allclose(found[p, q], (plain * wave).sum() / (h * w))


def test_both_kinds_show_the_same_place() -> None:
    """A blob's centre of mass, in HR pixels, stays where it is."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    blob = torch.exp(-((y - 20.3) ** 2 + (x - 33.8) ** 2) / 60)
    for kind in resampling.KINDS:
        for scale in (2, 4):
            lr = resampling.degrade(blob, scale, kind)
            rows = torch.arange(lr.shape[0]) * scale + (scale - 1) / 2
            columns = torch.arange(lr.shape[1]) * scale + (scale - 1) / 2
            assert abs((lr.sum(1) * rows).sum() / lr.sum() - 20.3) < 0.05
            assert abs((lr.sum(0) * columns).sum() / lr.sum() - 33.8) < 0.05


@pytest.mark.parametrize("kind", resampling.KINDS)
def test_a_degraded_patch_is_no_patch_of_a_degraded_slice(kind: str) -> None:
    """Why whole slices are degraded before anything is cropped."""
    x = images(1, 48, 48)
    whole = resampling.degrade(x, 2, kind)[4:16, 4:16]
    patch = resampling.degrade(x[8:32, 8:32], 2, kind)
    assert (whole - patch).abs().max() > 1e-3


@pytest.mark.parametrize("kind", resampling.KINDS)
def test_complex_gives_a_magnitude(kind: str) -> None:
    x = torch.complex(*images(3, 2, 3, 12, 8, dtype=torch.float32))
    found = resampling.degrade(x, 2, kind)
    assert found.dtype == torch.float32
    assert found.shape == (3, 6, 4)
    expected = (
        resampling.kspace_crop(x, 2).abs()
        if kind == "kspace"
        else resampling.bicubic(x.abs(), (6, 4))
    )
    torch.testing.assert_close(found, expected)


def test_integers_are_taken() -> None:
    x = torch.arange(64, dtype=torch.int16).reshape(8, 8)
    for kind in resampling.KINDS:
        torch.testing.assert_close(
            resampling.degrade(x, 2, kind), resampling.degrade(x.float(), 2, kind)
        )


def test_upsample_under_autocast_and_inference_mode() -> None:
    x = images(2, 1, 1, 6, 7, dtype=torch.float32)
    with torch.inference_mode():
        first = resampling.upsample(x, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resampling.upsample(x, 3), first)
    x.requires_grad_()
    resampling.upsample(x, 3).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(6 * 7 * 9.0))


def test_pad_repeats_the_edge() -> None:
    x = images(4, 2, 5, 7)
    padded, size = resampling.pad_to(x, 4)
    assert size == (5, 7)
    assert padded.shape == (2, 8, 8)
    assert torch.equal(padded[..., :5, :7], x)
    assert torch.equal(padded[..., 5:, :7], x[..., 4:5, :].expand(2, 3, 7))
    assert torch.equal(padded[..., 7], padded[..., 6])
    assert resampling.pad_to(padded, 4)[0] is padded


def test_wrong_wishes_are_named() -> None:
    x = torch.zeros(10, 12)
    with pytest.raises(UserError, match="10x12 does not divide by scale 4"):
        resampling.degrade(x, 4, "bicubic")
    with pytest.raises(UserError, match="scale 5"):
        resampling.degrade(x, 5, "bicubic")
    with pytest.raises(UserError, match="'nearest' is not one of bicubic, kspace"):
        resampling.degrade(x, 2, "nearest")
