"""The pseudo-inverse: pytest tests/models/test_model_pseudo_inverse.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsr import models
from mrsr.params import loading
from mrsr.resampling import KINDS, SCALES, degrade, kspace_crop, kspace_matrix, upsample
from project import ROOT


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(SCALES),
    st.sampled_from(KINDS),
    st.integers(3, 20),
    st.integers(3, 20),
    st.integers(0, 99),
)
def test_degrading_its_output_gives_the_input(
    scale: int, kind: str, height: int, width: int, seed: int
) -> None:
    """For any image, also one that no degradation made, of even and odd sizes."""
    lr = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed))
    sr = models.build("pseudo_inverse", scale, {"degradation": kind})(lr)
    assert sr.shape == (2, 1, scale * height, scale * width) and sr.dtype == lr.dtype
    torch.testing.assert_close(degrade(sr, scale, kind), lr, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_of_less_energy_degrades_to_the_same(kind: str) -> None:
    """It lies at a right angle to every change that the degradation does not see."""
    torch.manual_seed(0)
    network = models.build("pseudo_inverse", 2, {"degradation": kind})
    hr = torch.rand(1, 1, 14, 18, dtype=torch.float64) + 1  # its degraded image is positive
    lr = degrade(hr, 2, kind).double()
    sr = network(lr)
    if kind == "bicubic":
        unseen = hr - sr
        assert (sr * unseen).sum().abs() < 1e-4 * sr.square().sum()
    assert sr.square().sum() <= hr.square().sum() + 1e-6


def test_zero_filling_by_hand() -> None:
    """A constant stays constant, and a wave below the LR grid's limit comes back."""
    network = models.build("pseudo_inverse", 2, {"degradation": "kspace"})
    torch.testing.assert_close(
        network(torch.full((1, 1, 6, 8), 3.0)), torch.full((1, 1, 12, 16), 3.0)
    )
    x = torch.arange(16)
    wave = 2 + torch.cos(2 * torch.pi * 3 * x / 16)
    hr = wave.expand(1, 1, 16, 16)
    torch.testing.assert_close(network(degrade(hr, 2, "kspace")), hr, rtol=0, atol=1e-5)
    with_noise = hr + 0.1 * torch.cos(torch.pi * x)  # the highest frequency is lost
    torch.testing.assert_close(network(degrade(with_noise, 2, "kspace")), hr, rtol=0, atol=1e-5)


def test_the_matrix_is_the_crop() -> None:
    image = torch.rand(12, 16, dtype=torch.float64)
    found = kspace_matrix(12, 2) @ image.to(torch.complex128) @ kspace_matrix(16, 2).mT
    torch.testing.assert_close(found.real, kspace_crop(image, 2))


def test_an_experiment_inverts_each_datasets_own_degradation() -> None:
    best = loading.load(ROOT / "params.yaml", "best")
    assert best.evaluation("openms_t1", 2, "pseudo_inverse").model.options == {
        "degradation": "bicubic"
    }
    assert best.evaluation("openms_t1", 2, "bicubic").model.options == {}


def test_it_beats_bicubic_on_a_real_scan(mirror: Path) -> None:
    import nibabel

    path = mirror / "open_ms_data/longitudinal/raw/patient12/study1_T1W.nii.gz"
    scan = np.asarray(nibabel.load(path).dataobj)[:, :, 20:28].astype(np.float32)
    hr = torch.from_numpy(scan.transpose(2, 0, 1).copy())[:, None]
    for kind in KINDS:
        lr = degrade(hr, 2, kind)
        error = (models.build("pseudo_inverse", 2, {"degradation": kind})(lr) - hr).square().mean()
        assert error < 0.9 * (upsample(lr, 2) - hr).square().mean()
