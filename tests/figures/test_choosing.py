"""The slices that figures show are chosen by the rule, or as the settings say.

Run: pytest tests/figures/test_choosing.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrsr.errors import UserError
from mrsr.figures.choosing import Slice, choose, psnr_by_slice
from mrsr.figures.spectrum import residual


def test_the_median_and_two_percentiles_are_chosen() -> None:
    psnr = {Slice("a.nii", i): 30.0 + i for i in range(21)}
    found = choose(psnr)
    assert list(found) == ["median", "5th percentile", "95th percentile"]
    assert [one.number for one in found.values()] == [10, 1, 19]


@given(st.lists(st.floats(10, 50), min_size=1, max_size=40))
def test_no_slice_is_nearer_the_median_than_the_chosen_one(values: list[float]) -> None:
    psnr = {Slice("v", number): value for number, value in enumerate(values)}
    chosen = psnr[choose(psnr)["median"]]
    middle = float(np.median(values))
    assert abs(chosen - middle) <= min(abs(value - middle) for value in values) + 1e-12


def test_the_settings_choose_another_slice_or_are_told() -> None:
    psnr = {Slice("s1/t1.nii", 4): 30.0, Slice("s1/t1.nii", 5): 31.0}
    found = choose(psnr, "s1/t1.nii:5")
    assert next(iter(found.items())) == ("by the settings", Slice("s1/t1.nii", 5))
    for wrong in ("s1/t1.nii:9", "s1/t1.nii", "other:4", "s1/t1.nii:x"):
        with pytest.raises(UserError, match="there is no test slice"):
            choose(psnr, wrong)
    with pytest.raises(UserError, match="no test slice has signal"):
        choose({})


def test_slices_without_signal_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "srcnn.csv"
    file.write_text(
        "subject,visit,volume,slice_index,psnr,ssim,nmse\ns,1,a,3,,,\ns,1,a,4,31.5,0.9,0.01\n"
    )
    assert psnr_by_slice(file) == {Slice("a", 4): 31.5}
    file.write_text("subject,volume\ns,a\n")
    with pytest.raises(UserError, match="has no PSNR of slices"):
        psnr_by_slice(file)
    with pytest.raises(UserError, match="run the evaluation"):
        psnr_by_slice(tmp_path / "absent.csv")


def test_a_residual_spectrum_has_known_values() -> None:
    image = np.random.default_rng(0).normal(size=(32, 48))
    spectra = residual(
        {0: image}, {"same": {0: image}, "empty": {0: 0 * image}, "half": {0: image / 2}}
    )
    of = {name: np.array(values) for name, values in spectra["residual"].items()}
    np.testing.assert_allclose(of["same"], 0)
    np.testing.assert_allclose(of["empty"], 1)
    np.testing.assert_allclose(of["half"], 0.25)
    assert spectra["slices"] == 1 and len(spectra["frequency"]) == len(of["same"])


def test_a_low_pass_loses_the_high_frequencies_alone() -> None:
    image = np.random.default_rng(1).normal(size=(64, 64))
    plane = np.fft.fft2(image)
    rows, columns = np.meshgrid(*(np.fft.fftfreq(64) * 2,) * 2, indexing="ij")
    plane[np.hypot(rows, columns) > 0.5] = 0
    spectra = residual({0: image}, {"low": {0: np.fft.ifft2(plane).real}})
    values = np.array(spectra["residual"]["low"])
    frequency = np.array(spectra["frequency"])
    np.testing.assert_allclose(values[frequency < 0.45], 0, atol=1e-12)
    np.testing.assert_allclose(values[frequency > 0.55], 1)
