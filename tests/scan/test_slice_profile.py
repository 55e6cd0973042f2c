"""The profile of a slice, its matrices, and who says how thick it is.

Run: pytest tests/scan/test_slice_profile.py
"""

from __future__ import annotations

from importlib.resources import files

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsr.errors import UserError
from mrsr.scan import slice_profile
from mrsr.scan.slice_profile import SliceProfile, slice_matrix, spline_matrix


@settings(deadline=None)
@given(st.integers(2, 40), st.floats(1, 9), st.floats(0.3, 2))
def test_slices_are_means(slices, ratio, relative):
    voxels = round(slices * ratio)
    matrix = slice_matrix(voxels, slices, voxels / slices, relative * ratio)
    assert np.allclose(matrix.sum(1), 1)
    assert (matrix >= 0).all()
    # mirrored, the stack is the same
    assert np.allclose(matrix, matrix[::-1, ::-1], atol=1e-5)


def test_a_slice_is_as_thick_as_it_should_be():
    """At half the thickness from its centre, a slice has half the weight of its centre."""
    row = slice_matrix(1001, 91, 11, 101)[45]
    centre = 500
    assert row.argmax() == centre
    assert np.isclose(row[centre + 50] / row[centre], 0.5, atol=0.01)


def test_a_thin_slice_is_a_voxel():
    assert np.allclose(slice_matrix(15, 5, 3, 0.1), np.eye(15)[1::3])


def test_a_ramp_stays_where_it_is():
    """Slices of an intensity that rises by 1 a mm say where their centres are."""
    ramp = np.arange(60) + 0.5
    found = slice_matrix(60, 24, 2.5, 2.5) @ ramp
    assert np.allclose(found[3:-3], ((np.arange(24) + 0.5) * 2.5)[3:-3])


@pytest.mark.parametrize("order", [3, 5])
def test_splines_go_through_their_samples(order):
    assert np.allclose(spline_matrix(12, np.arange(12.0), order), np.eye(12), atol=1e-6)
    matrix = spline_matrix(40, np.linspace(8, 30, 7), order)
    assert np.allclose(matrix @ np.arange(40.0), np.linspace(8, 30, 7), atol=1e-3)


def test_who_says_how_thick():
    assert slice_profile.told({}, 5.0, None) is None
    found = slice_profile.told({"SliceThickness": 4}, 5.0, None)
    assert (found.fwhm, found.gap, found.source) == (4, 1, "by its JSON")
    assert slice_profile.told({"SliceThickness": 4}, 5.0, 4.5).fwhm == 4.5
    with pytest.raises(UserError, match=r"--slice-thickness is 50 mm for slices 5 mm apart"):
        slice_profile.told({}, 5.0, 50.0)
    with pytest.raises(UserError, match="SliceThickness of the JSON"):
        slice_profile.told({"SliceThickness": -4}, 5.0, None)
    assert slice_profile.told({"SliceThickness": "thick"}, 5.0, None) is None
    assert "overlap 1.00 mm" in str(SliceProfile(6, 5, "as told"))


@pytest.mark.parametrize("ratio", [2.5, 4])
@pytest.mark.parametrize("relative", [0.7, 1.0, 1.3])
def test_the_thickness_is_estimated(ratio, relative):
    """The middle of nilearn's MNI152, whose blur is the same in all directions."""
    name = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image = nibabel.load(str(files("nilearn") / name))
    whole = np.asarray(image.dataobj[40:150, 50:170, 50:150], np.float32).transpose(2, 1, 0)
    slices = int(100 / ratio)
    matrix = slice_matrix(100, slices, ratio, relative * ratio)
    thick = np.tensordot(matrix, whole, 1).astype(np.float32)
    found = slice_profile.estimate(thick, (ratio, 1.0, 1.0))
    assert found.source == "estimated"
    assert found.spacing == ratio
    assert abs(found.fwhm / ratio - relative) < 0.2 * relative


def test_too_few_slices_to_estimate_from():
    found = slice_profile.estimate(np.random.default_rng(0).random((4, 30, 30)), (3.0, 1.0, 1.0))
    assert (found.fwhm, found.source) == (3, "assumed, with too few slices to estimate it")


def test_an_estimate_from_few_slices_says_so() -> None:
    image = np.random.default_rng(0).random((17, 60, 60))
    few = slice_profile.estimate(image[:8], (3.0, 1.0, 1.0))
    assert "estimated from 8 slices, which is few" in few.source
    assert slice_profile.estimate(image, (3.0, 1.0, 1.0)).source == "estimated"
