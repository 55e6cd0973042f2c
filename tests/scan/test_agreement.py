"""`enhance` with consistency and with a quality map. Run: pytest tests/scan/test_agreement.py"""

from __future__ import annotations

import itertools
import json

import nibabel
import numpy as np
import pytest
import torch

from mrsr import degrade, enhance
from mrsr.errors import UserError
from mrsr.resampling import bicubic
from mrsr.scan import many


def scan(order: tuple[int, ...] = (0, 1, 2), volumes: int = 0) -> nibabel.Nifti1Image:
    """Edges and noise; voxels of 1 x 1.2 x 4 mm in any order of axes."""
    rng = np.random.default_rng(0)
    shape = tuple(np.array([22, 18, 4])[list(order)]) + (volumes,) * bool(volumes)
    values = 100 + 400 * (np.indices(shape).sum(0) % 7 > 3) + 30 * rng.random(shape)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([1.0, 1.2, 4.0])[:, list(order)]
    affine[:3, 3] = [12, -30, 7]
    return nibabel.Nifti1Image(values.astype(np.float32), affine)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_degraded_again_the_output_is_the_input(tmp_path, order, capfd):
    given = scan(order)
    out = tmp_path / "out.nii"
    fine = enhance(given, out, "bicubic", scale=2, consistency=True)
    again = degrade(fine, scale=2).get_fdata()
    wanted = given.get_fdata()
    assert np.sqrt(np.square(again - wanted).mean()) < 1e-4 * np.sqrt(np.square(wanted).mean())
    assert "degraded again (bicubic reduction), the output differs" in capfd.readouterr().err
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["consistency"] is True
    assert any("degraded again" in line for line in told["done"])
    plain = enhance(given, model="bicubic", scale=2)
    assert np.abs(degrade(plain, scale=2).get_fdata() - wanted).max() > 1


def test_the_quality_map_lies_on_the_output(tmp_path):
    given, quality = scan((2, 0, 1)), tmp_path / "doubt.nii.gz"
    fine = enhance(given, tmp_path / "fine.nii.gz", quality=quality)
    doubt = nibabel.load(quality)
    assert doubt.shape == fine.shape
    assert np.allclose(doubt.affine, fine.affine)
    assert np.allclose(doubt.header.get_zooms(), fine.header.get_zooms())
    # in the scan's intensities, and neither nothing nor everything
    values = doubt.get_fdata()
    assert values.min() >= 0
    assert 0.1 < values.mean() < 100
    # without a file for the output it is written too
    other = tmp_path / "other.nii.gz"
    enhance(given, quality=other)
    assert np.allclose(nibabel.load(other).get_fdata(), values, atol=1e-4)


def test_a_method_without_doubt_has_none(tmp_path):
    quality = tmp_path / "doubt.nii"
    fine = enhance(scan(), model="bicubic", scale=2, quality=quality)
    assert nibabel.load(quality).get_fdata().max() < 1e-3 * fine.get_fdata().max()
    image = torch.from_numpy(scan().get_fdata()).permute(2, 1, 0)
    assert np.allclose(fine.get_fdata().transpose(2, 1, 0), bicubic(image, (36, 44)), atol=1e-2)


def test_refusals(tmp_path):
    out = tmp_path / "out.nii"
    with pytest.raises(UserError, match="a quality map is of one; choose it with --volume"):
        enhance(scan(volumes=2), out, "bicubic", scale=2, quality=tmp_path / "q.nii")
    with pytest.raises(UserError, match=r"must be named \.nii or \.nii\.gz"):
        enhance(scan(), out, quality=tmp_path / "q.png")
    (tmp_path / "q.nii").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"q\.nii exists"):
        enhance(scan(), out, quality=tmp_path / "q.nii")
    assert (tmp_path / "q.nii").read_bytes() == b"mine"
    with pytest.raises(UserError, match="a quality map belongs to one scan"):
        many.enhance_folder(tmp_path, quality=tmp_path / "new.nii")
    assert not out.exists()
