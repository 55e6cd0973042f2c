"""The metrics of many slices at once. Run: pytest tests/metrics/test_batched.py"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import preset as named
from mrsr.errors import UserError
from mrsr.metrics import batched, definitions
from mrsr.params import schema

PRESETS = [named(name) for name in schema.PRESETS]


def both(
    pred: np.ndarray, ref: np.ndarray, preset: definitions.Preset
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The values in a batch, and one by one."""
    found = batched.by_torch(torch.from_numpy(pred), torch.from_numpy(ref), preset)
    return {k: v.numpy() for k, v in found.items()}, definitions.per_slice(pred, ref, preset)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.integers(19, 70), st.integers(19, 70)),
    preset=st.sampled_from(PRESETS),
    window=st.sampled_from([("gaussian", 11), ("uniform", 7), ("uniform", 3)]),
    covariance=st.sampled_from(["population", "sample"]),
    data_range=st.sampled_from(["slice_max", "volume_max", "one"]),
    clip=st.booleans(),
    border=st.integers(0, 4),
    lowest=st.sampled_from([0.0, -3.0, 2.0]),
    unit=st.sampled_from([1.0, 1e-3, 4095.0]),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_equal_to_the_definitions(
    seed, shape, preset, window, covariance, data_range, clip, border, lowest, unit, kind
):
    """Any convention, any size, any unit: the values one by one."""
    if preset.level == "volume" and data_range == "slice_max":
        data_range = "volume_max"
    preset = dataclasses.replace(
        preset, window=window[0], window_size=window[1], covariance=covariance,
        data_range=data_range, clip=clip, border=border,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    ref = (unit * (rng.random(shape) + np.linspace(0, 2, shape[-1]) + lowest)).astype(kind)
    pred = (ref + unit * 0.2 * rng.standard_normal(shape)).astype(kind)
    if lowest == 0:
        ref[0] = 0  # a slice without signal
    found, expected = both(pred, ref, preset)
    for name in definitions.METRICS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_slices_side_by_side_have_the_same_bits(monkeypatch, preset):
    """On a CPU, (n, 1, h, w) as networks give it: on any number of threads the definitions' own."""
    rng = np.random.default_rng(1)
    ref = rng.random((7, 40, 33))
    ref[3] = 0
    pred = ref + 0.1 * rng.standard_normal(ref.shape)
    expected = definitions.per_slice(pred, ref, preset)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        images = (torch.from_numpy(array)[:, None] for array in (pred, ref))
        found = batched.per_slice(*images, preset)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name].numpy(), values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_cpus_values():
    rng = np.random.default_rng(3)
    ref = torch.from_numpy(rng.random((5, 1, 64, 80)).astype(np.float32))
    pred = ref + 0.1 * torch.rand(ref.shape)
    here = batched.per_slice(pred, ref, named("slice"))
    there = batched.per_slice(pred.cuda(), ref.cuda(), named("slice"))
    for name, values in there.items():
        assert values.is_cuda
        torch.testing.assert_close(values.cpu(), here[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", [batched.per_slice, batched.by_torch])
def test_known_values(way):
    ref = torch.full((2, 16, 16), 2.0)
    ref[1] = 0
    found = way(ref + 0.2, ref, named("slice"))
    c1 = (0.01 * 2) ** 2
    expected = {"psnr": 20.0, "nmse": 0.01, "ssim": (2 * 2 * 2.2 + c1) / (4 + 2.2**2 + c1)}
    for name, value in expected.items():
        assert float(found[name][0]) == pytest.approx(value, rel=1e-6)  # 2.2 in float32
        assert math.isnan(found[name][1])
    same = way(ref, ref, named("slice"))
    assert [float(same[name][0]) for name in ("psnr", "nmse")] == [definitions.PSNR_CAP, 0]
    assert float(same["ssim"][0]) == pytest.approx(1)


def test_agrees_with_fastmris_formulae():
    """fastMRI's evaluate.py, written out: its PSNR, NMSE and SSIM of a volume.

    They are scikit-image's PSNR and SSIM (uniform window of 7, sample covariance, the volume's
    maximum as range) and the ratio of squared norms; here each as a formula of its own.
    """
    rng = np.random.default_rng(2)
    gt = rng.random((3, 30, 34)) + np.linspace(0, 2, 34)
    pred = gt + 0.1 * rng.standard_normal(gt.shape)
    top = gt.max()
    preset = named("fastmri")
    whole = definitions.volume(pred, gt, preset)
    mse = ((gt - pred) ** 2).mean()
    assert whole["psnr"] == pytest.approx(20 * math.log10(top) - 10 * math.log10(mse), abs=1e-6)
    assert whole["nmse"] == pytest.approx(((gt - pred) ** 2).sum() / (gt**2).sum(), abs=1e-6)
    scores = []
    for p, r in zip(pred, gt, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(np.stack([p, r]), (7, 7), (1, 2))
        mean = windows.mean((-2, -1))
        apart = windows - mean[..., None, None]
        variance = (apart**2).sum((-2, -1)) / 48
        covariance = (apart[0] * apart[1]).sum((-2, -1)) / 48
        c1, c2 = (0.01 * top) ** 2, (0.03 * top) ** 2
        up = (2 * mean[0] * mean[1] + c1) * (2 * covariance + c2)
        down = (mean[0] ** 2 + mean[1] ** 2 + c1) * (variance[0] + variance[1] + c2)
        scores.append((up / down).mean())
    assert whole["ssim"] == pytest.approx(np.mean(scores), abs=1e-6)
    found, _ = both(pred, gt, preset)
    np.testing.assert_allclose(found["ssim"], scores, atol=1e-6)


@pytest.mark.parametrize(
    ("pred", "ref", "message"),
    [
        (torch.ones(1, 20, 20), torch.ones(1, 20, 21), r"\(1, 20, 20\).*\(1, 20, 21\)"),
        (torch.ones(20, 20), torch.ones(20, 20), "slices, height, width"),
        (torch.full((1, 20, 20), math.nan), torch.ones(1, 20, 20), "prediction has NaN"),
        (torch.ones(1, 20, 20), torch.full((1, 20, 20), math.inf), "reference has NaN"),
        (torch.ones(1, 10, 20), torch.ones(1, 10, 20), "smaller than the 11"),
        (torch.ones(1, 20, 20).cfloat(), torch.ones(1, 20, 20), "complex"),
        (torch.ones(0, 20, 20), torch.ones(0, 20, 20), "slices, height, width"),
    ],
)
@pytest.mark.parametrize("way", [batched.per_slice, batched.by_torch])
def test_bad_images_are_refused(way, pred, ref, message):
    with pytest.raises(UserError, match=message):
        way(pred, ref, named("slice"))
