"""Metrics beside PSNR, SSIM and NMSE: known values, properties, and what the record holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mrsr.errors import UserError
from mrsr.metrics import definitions, more

NAMES = list(more.FUNCTIONS)


def _pattern() -> np.ndarray:
    rows, columns = np.mgrid[:96, :80]
    image = 0.5 + 0.3 * np.sin(columns / 5) * np.cos(rows / 7)
    image += 0.15 * ((columns // 16 + rows // 12) % 2)
    return image / image.max()


def _noisy(ref: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: ref.shape[0], : ref.shape[1]]
    noise = np.sin(columns * 12.9898 + rows * 78.233) * 43758.5453
    return np.clip(ref + 0.1 * (noise - np.floor(noise) - 0.5), 0, 1)


def test_values_of_piq() -> None:
    """piq 0.8.0, `data_range=1`, float64, of the same two pairs of images."""
    ref = _pattern()
    blurred, noisy = ndimage.gaussian_filter(ref, 1.5), _noisy(ref)
    assert more.haarpsi(blurred, ref, 1.0) == pytest.approx(0.877300139597561, abs=1e-12)
    assert more.haarpsi(noisy, ref, 1.0) == pytest.approx(0.9432717072339656, abs=1e-9)
    assert more.gmsd(blurred, ref, 1.0) == pytest.approx(0.057941721724626444, abs=1e-12)
    assert more.gmsd(noisy, ref, 1.0) == pytest.approx(0.012549837736725331, abs=1e-9)


def test_hfen_by_hand() -> None:
    """The filter is linear: a prediction of (1 + a) times the reference errs by a."""
    ref = _pattern()
    assert more.hfen(1.25 * ref, ref, 1.0) == pytest.approx(0.25)
    assert more.hfen(np.full_like(ref, 0.4), ref, 1.0) == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(more.hfen(ref, np.ones_like(ref), 1.0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), unit=st.sampled_from([1e-3, 1.0, 4095.0]))
def test_equal_images_and_units(seed: int, unit: float) -> None:
    generator = np.random.default_rng(seed)
    ref = ndimage.gaussian_filter(generator.random((2, 35, 40)), (0, 1, 1)) * unit
    pred = ref + 0.05 * unit * generator.standard_normal(ref.shape)
    preset = definitions.preset("slice")
    same = more.per_slice(ref, ref, preset, NAMES)
    assert same["haarpsi"] == pytest.approx(1)
    assert same["gmsd"] == pytest.approx(0)
    assert same["hfen"] == pytest.approx(0)
    worse = more.per_slice(pred, ref, preset, NAMES)
    in_other_units = more.per_slice(pred / unit, ref / unit, preset, NAMES)
    for name in NAMES:
        assert worse[name] == pytest.approx(in_other_units[name], rel=1e-6)
    assert (worse["haarpsi"] < 1).all() and (worse["gmsd"] > 0).all() and (worse["hfen"] > 0).all()


def test_slices_without_signal_and_small_ones() -> None:
    ref = np.stack([_pattern(), np.zeros((96, 80))])
    values = more.per_slice(ref, ref, definitions.preset("slice"), NAMES)
    assert all(np.isnan(value).tolist() == [False, True] for value in values.values())
    with pytest.raises(UserError, match="too small for haarpsi"):
        more.per_slice(ref[:, :31], ref[:, :31], definitions.preset("slice"), ["haarpsi"])
    assert more.per_slice(ref, ref, definitions.preset("slice"), []) == {}
