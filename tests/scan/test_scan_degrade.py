"""Degrade a scan, enhance it, score it against the truth.

Run: pytest tests/scan/test_scan_degrade.py
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.scan.degrade import degrade
from mrsr.scan.enhance import enhance


def scan(folder: Path, shape: tuple[int, int, int] = (32, 24, 4)) -> Path:
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    image = 1000 * np.exp(-4 * sum(axis**2 for axis in grid))
    affine = np.array([[-0.9, 0.1, 0, 40], [0, 0.8, 0.2, -30], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), path)
    return path


def world(path: Path) -> np.ndarray:
    """Centre of mass in millimetres."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj, np.float64).clip(0)
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), -1)
    centre = (voxels * values[..., None]).sum((0, 1, 2)) / values.sum()
    return (image.affine @ [*centre, 1])[:3]


@pytest.mark.parametrize("kind", ["bicubic", "kspace"])
def test_degraded_and_enhanced_the_anatomy_stays(tmp_path: Path, kind: str) -> None:
    source = scan(tmp_path)
    coarse, fine = tmp_path / "coarse.nii.gz", tmp_path / "fine.nii.gz"
    degrade(source, coarse, scale=2, kind=kind)
    assert nibabel.load(coarse).shape == (16, 12, 4)
    assert np.allclose(world(coarse), world(source), atol=0.05)
    enhance(coarse, fine, "bicubic", scale=2)
    assert nibabel.load(fine).shape == (32, 24, 4)
    assert np.allclose(nibabel.load(fine).affine, nibabel.load(source).affine, atol=1e-5)
    assert np.allclose(world(fine), world(source), atol=0.05)


def test_the_commands_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = scan(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    assert run(app, ["degrade", str(source), "coarse.nii.gz", "--scale", "2"]).exit_code == 0
    enhanced = run(app, ["enhance", "coarse.nii.gz", "f.nii.gz", "-m", "bicubic", "--scale", "2"])
    assert enhanced.exit_code == 0
    scored = run(app, ["score", "f.nii.gz", str(source)])
    assert scored.exit_code == 0
    assert '"psnr"' in scored.output


def test_sizes_that_do_not_divide(tmp_path: Path) -> None:
    source = scan(tmp_path, (31, 24, 4))
    with pytest.raises(UserError, match="24x31 do not divide by 2"):
        degrade(source, tmp_path / "coarse.nii.gz", scale=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    source = scan(tmp_path)
    with pytest.raises(UserError, match="exists"):
        degrade(source, source, scale=2)


def test_a_scale_that_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="scale"):
        enhance(scan(tmp_path), tmp_path / "x.nii.gz", "bicubic", scale=5)
