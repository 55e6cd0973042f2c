"""An output that degrades to the input. Run: pytest tests/scan/test_consistency.py"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsr import resampling
from mrsr.scan import consistency
from mrsr.scan.slice_profile import SliceProfile, slice_matrix


def rms(image: np.ndarray) -> float:
    return float(np.sqrt(np.square(image, dtype=np.float64).mean()))


@pytest.mark.parametrize("kind", ["bicubic", "kspace"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(9, 14), (12, 7)])
def test_degraded_again_the_output_is_the_input(kind, scale, size, capfd):
    rng = np.random.default_rng(0)
    truth = rng.random((5, size[0] * scale, size[1] * scale)).astype(np.float32)
    coarse = resampling.degrade(torch.from_numpy(truth), scale, kind).numpy()
    guess = rng.random(truth.shape).astype(np.float32)
    slabs = [(slice(0, 2), guess[:2]), (slice(2, 5), guess[2:])]
    exact = np.concatenate(
        [part for _, part in consistency.consistent(iter(slabs), coarse, scale, [kind], "scan")]
    )
    again = resampling.degrade(torch.from_numpy(exact), scale, kind).numpy()
    assert rms(again - coarse) < 1e-5 * rms(coarse)
    # a projection: never farther from the truth, and nothing left to do
    assert rms(exact - truth) < rms(guess - truth)
    twice = consistency.projected(exact, coarse, scale, kind, consistency.Residual())
    assert np.allclose(twice, exact, atol=1e-5)
    said = capfd.readouterr().err
    assert said.count(f"scan: degraded again ({consistency.KINDS[kind]})") == 1


@pytest.mark.parametrize(("ratio", "relative"), [(3, 1), (5, 0.8), (2.5, 1.2)])
def test_along_the_slices(ratio, relative):
    slices, voxels = 12, int(12 * ratio)
    profile = SliceProfile(relative * ratio, ratio, "as told")
    matrix = slice_matrix(voxels, slices, ratio, profile.fwhm)
    rng = np.random.default_rng(1)
    truth = rng.random((voxels, 6, 7)).astype(np.float32)
    thick = np.tensordot(matrix, truth, 1).astype(np.float32)
    guess = rng.random(truth.shape).astype(np.float32)
    exact, residual = consistency.through(guess, thick, ratio, profile)
    assert rms(np.tensordot(matrix, exact, 1) - thick) < 1e-5 * rms(thick)
    assert rms(exact - truth) < rms(guess - truth)
    before, after = residual.ratios
    assert np.isclose(before, rms(np.tensordot(matrix, guess, 1) - thick) / rms(thick))
    assert after < 1e-5


@pytest.mark.parametrize("kind", ["bicubic", "kspace"])
def test_of_two_degradations_the_one_that_fits(kind, capfd):
    assert consistency.kinds_for({}) == ("bicubic",)
    assert consistency.kinds_for({"degradation": "kspace"}) == ("kspace",)
    kinds = consistency.kinds_for({"degradation": "mixed"})
    truth = np.random.default_rng(0).random((2, 16, 24)).astype(np.float32)
    coarse = resampling.degrade(torch.from_numpy(truth), 2, kind).numpy()
    list(consistency.consistent(iter([(slice(0, 2), truth)]), coarse, 2, kinds, "scan"))
    assert f"{consistency.KINDS[kind]} fits the scan best" in capfd.readouterr().err
