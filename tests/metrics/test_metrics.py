"""Metrics against scikit-image and by hand. Run: pytest tests/metrics/test_metrics.py"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from builders import preset as named
from builders import read
from mrsr.errors import UserError
from mrsr.metrics import definitions
from mrsr.params import schema
from mrsr.params.jobs import Preset
from mrsr.params.typed import plain

PRESETS = {name: named(name) for name in schema.PRESETS}


def images(seed: int = 0, shape: tuple[int, ...] = (3, 40, 53)) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a reference (slices, h, w), positive, with structure and an offset."""
    rng = np.random.default_rng(seed)
    ref = rng.random(shape) + np.linspace(0, 2, shape[-1])
    return ref + 0.2 * rng.standard_normal(shape), ref


def reference_ssim(pred: np.ndarray, ref: np.ndarray, data_range: float, preset: Preset) -> float:
    """One slice by scikit-image, which leaves out (window - 1) / 2 pixels on each side too."""
    if preset.window == "gaussian":
        # 3.5 sigmas of 1.5 pixels reach 5 pixels: the window of 11
        options = {"gaussian_weights": True, "sigma": 1.5, "win_size": 11}
    else:
        options = {"win_size": preset.window_size}
    return structural_similarity(
        ref,
        pred,
        data_range=data_range,
        use_sample_covariance=preset.covariance == "sample",
        K1=preset.k1,
        K2=preset.k2,
        **options,
    )


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("covariance", ["population", "sample"])
@pytest.mark.parametrize(("window", "size"), [("gaussian", 11), ("uniform", 7), ("uniform", 9)])
def test_slices_agree_with_scikit_image(window, size, covariance, border):
    preset = named(
        "slice", window=window, window_size=size, covariance=covariance, border=border, k1=0.02
    )
    pred, ref = images()
    values = definitions.per_slice(pred, ref, preset)
    inside = slice(border, -border or None)
    for index in range(len(ref)):
        p, r = pred[index][inside, inside], ref[index][inside, inside]
        psnr = peak_signal_noise_ratio(r, p, data_range=r.max())
        assert values["psnr"][index] == pytest.approx(psnr, abs=1e-10)
        expected = reference_ssim(p, r, r.max(), preset)
        assert values["ssim"][index] == pytest.approx(expected, abs=1e-10)
        nmse = np.linalg.norm(p - r) ** 2 / np.linalg.norm(r) ** 2
        assert values["nmse"][index] == pytest.approx(nmse, abs=1e-12)


def test_ssim_averages_over_the_area_where_the_window_fits():
    pred, ref = images()
    pred, ref = pred[0], ref[0]
    _, full = structural_similarity(
        ref,
        pred,
        data_range=2.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    value = definitions.ssim(pred, ref, 2.0, PRESETS["slice"])
    assert value == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-10)
    assert abs(value - full.mean()) > 1e-6  # so the area matters


def test_fastmri_preset_is_fastmris_definition():
    pred, ref = images(1)
    top = ref.max()
    expected = {
        "psnr": peak_signal_noise_ratio(ref, pred, data_range=top),
        "ssim": np.mean(
            [structural_similarity(r, p, data_range=top) for p, r in zip(pred, ref, strict=True)]
        ),
        "nmse": np.linalg.norm(ref - pred) ** 2 / np.linalg.norm(ref) ** 2,
    }
    assert definitions.score(pred, ref, PRESETS["fastmri"]) == pytest.approx(expected, abs=1e-10)


def test_known_values():
    ref = np.full((1, 16, 16), 2.0)
    pred = ref + 0.2
    value = definitions.score(pred, ref, PRESETS["slice"])
    assert value["psnr"] == pytest.approx(20.0)
    assert value["nmse"] == pytest.approx(0.01)
    # constant images: only the luminance term is left
    c1 = (0.01 * 2) ** 2
    assert value["ssim"] == pytest.approx((2 * 2 * 2.2 + c1) / (4 + 2.2**2 + c1))


def test_identical_images_are_finite():
    _, ref = images()
    assert math.isinf(definitions.psnr(ref, ref, 1.0, PRESETS["slice"]))
    for preset in PRESETS.values():
        value = definitions.score(ref, ref, preset)
        assert value == {"psnr": definitions.PSNR_CAP, "ssim": pytest.approx(1), "nmse": 0}


def test_slices_without_signal_are_left_out_of_slice_averages():
    pred, ref = images()
    blank = np.zeros((1, *ref.shape[1:]))
    more_pred, more_ref = np.concatenate([blank + 0.1, pred]), np.concatenate([blank, ref])
    values = definitions.per_slice(more_pred, more_ref, PRESETS["slice"])
    assert all(np.isnan(v[0]) and not np.isnan(v[1:]).any() for v in values.values())
    assert definitions.score(more_pred, more_ref, PRESETS["slice"]) == pytest.approx(
        definitions.score(pred, ref, PRESETS["slice"])
    )
    assert (
        definitions.score(more_pred, more_ref, PRESETS["volume"])["psnr"]
        != definitions.score(pred, ref, PRESETS["volume"])["psnr"]
    )
    for preset in PRESETS.values():
        with pytest.raises(UserError, match="nothing to measure"):
            definitions.score(pred, np.zeros_like(ref), preset)


def test_clip_limits_both_images_to_the_range():
    pred, ref = images()
    preset = dataclasses.replace(PRESETS["volume"], data_range="one", clip=True)
    expected = definitions.score(
        pred.clip(0, 1), ref.clip(0, 1), dataclasses.replace(preset, clip=False)
    )
    assert definitions.score(pred, ref, preset) == expected


@pytest.mark.parametrize(
    ("pred", "ref", "message"),
    [
        (np.ones((1, 20, 20)), np.ones((1, 20, 21)), r"\(1, 20, 20\).*\(1, 20, 21\)"),
        (np.ones((20, 20)), np.ones((20, 20)), "slices, height, width"),
        (np.full((1, 20, 20), np.nan), np.ones((1, 20, 20)), "prediction has NaN"),
        (np.ones((1, 20, 20)), np.full((1, 20, 20), np.inf), "reference has NaN"),
        (np.ones((1, 10, 20)), np.ones((1, 10, 20)), "smaller than the 11"),
        (np.ones((1, 20, 20), complex), np.ones((1, 20, 20)), "complex"),
    ],
)
def test_bad_images_are_refused(pred, ref, message):
    with pytest.raises(UserError, match=message):
        definitions.score(pred, ref, PRESETS["slice"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widow": 3}, "widow: unknown key"),
        ({"name": None}, "name: must be of type str"),
        ({"window_size": 10}, "odd"),
        ({"border": -1}, "border: must be 0 or more"),
        ({"window": "box"}, "gaussian, uniform"),
        ({"level": "volume"}, "one range for all slices"),
    ],
)
def test_bad_presets_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        read(Preset, plain(PRESETS["slice"]) | change)


def test_caption_states_every_convention():
    base = PRESETS["slice"]
    for change in (
        {"level": "volume", "data_range": "one"},
        {"data_range": "volume_max"},
        {"border": 3},
        {"window": "uniform"},
        {"window_size": 9},
        {"sigma": 2.0},
        {"k1": 0.02},
        {"k2": 0.05},
        {"covariance": "sample"},
        {"clip": True},
    ):
        assert definitions.describe(dataclasses.replace(base, **change)) != definitions.describe(
            base
        )


presets = st.sampled_from(list(PRESETS.values()))
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, factor=st.floats(1e-3, 1e4), preset=presets)
def test_values_do_not_depend_on_the_unit_of_intensity(seed, factor, preset):
    pred, ref = images(seed, (2, 15, 18))
    assert definitions.score(pred * factor, ref * factor, preset) == pytest.approx(
        definitions.score(pred, ref, preset), rel=1e-8
    )


@settings(max_examples=25, deadline=None)
@given(seed=seeds, preset=presets)
def test_values_follow_turns_and_flips(seed, preset):
    pred, ref = images(seed, (2, 15, 18))
    turned = definitions.score(pred[:, ::-1].swapaxes(1, 2), ref[:, ::-1].swapaxes(1, 2), preset)
    assert turned == pytest.approx(definitions.score(pred, ref, preset), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, preset=presets)
def test_more_error_is_worse_and_ssim_is_symmetric(seed, preset):
    pred, ref = images(seed, (2, 15, 18))
    near, far = ref + 0.5 * (pred - ref), ref + 2 * (pred - ref)
    better, worse = definitions.score(near, ref, preset), definitions.score(far, ref, preset)
    assert better["psnr"] - worse["psnr"] == pytest.approx(20 * math.log10(4), abs=1e-9)
    assert worse["nmse"] == pytest.approx(16 * better["nmse"])
    assert worse["ssim"] < better["ssim"] <= 1
    forth, back = (definitions.ssim(a, b, 3.0, preset) for a, b in ((pred, ref), (ref, pred)))
    assert forth == pytest.approx(back, abs=1e-12)
