"""Thick slices made thin by what the scan itself teaches.

Run: pytest tests/scan/test_through_plane.py
"""

from __future__ import annotations

import itertools
import json
from importlib.resources import files

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mrsr import cli, enhance
from mrsr.commands.options import alone
from mrsr.errors import UserError, one_line
from mrsr.scan import slice_profile, through_plane
from mrsr.scan.slice_profile import SliceProfile, slice_matrix, spline_matrix
from mrsr.training import thick_slices

CPU = torch.device("cpu")
TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


@pytest.fixture
def quick(monkeypatch):
    """A training of two steps, of a small network."""
    monkeypatch.setattr(through_plane, "STEPS", 2)
    monkeypatch.setattr(thick_slices, "FEATURES", 4)
    monkeypatch.setattr(thick_slices, "BLOCKS", 1)


def blob(shape: tuple[int, ...], affine: np.ndarray, width: float = 5.0) -> np.ndarray:
    """A smooth ball of 500 units in a volume of 20, off the centre."""
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ (0.45 * (np.array(shape) - 1)) + affine[:3, 3]
    return 20 + 500 * np.exp(-0.5 * np.square((world - middle) / width).sum(-1))


def centre(image: nibabel.Nifti1Image) -> np.ndarray:
    """World coordinates (3,) of the mass above the background."""
    mass = np.clip(image.get_fdata() - 30, 0, None)
    index = np.stack(np.meshgrid(*[np.arange(size) for size in mass.shape], indexing="ij"), -1)
    mean = (index * mass[..., None]).sum((0, 1, 2)) / mass.sum()
    return nibabel.affines.apply_affine(image.affine, mean)


def tilted(order: tuple[int, ...], sizes: tuple[float, ...], flips: tuple[int, ...]) -> np.ndarray:
    """An affine turned by 20 degrees; `order` says which axis of the file each of the three is."""
    turn = np.deg2rad(20)
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = (rotation * sizes * flips)[:, list(order)]
    affine[:3, 3] = [12, -30, 7]
    return affine


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(("thick", "wanted"), [(3.0, 0), (3.7, 0), (4.0, 1.5)])
def test_anatomy_does_not_move(tmp_path, quick, order, thick, wanted):
    """Any slice axis, whole and broken ratios, the plane's voxel size and another one."""
    affine = tilted(order, (1.0, 1.0, thick), (-1, 1, 1))
    shape = tuple(np.array([33, 36, 12])[list(order)])
    axis = order.index(2)
    source = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(blob(shape, affine).astype(np.float32), affine), source)
    fine = enhance(source, tmp_path / "thin.nii.gz", through_plane=wanted, slice_thickness=thick)

    voxel = wanted or 1.0
    count = int(np.floor(12 * thick / voxel + 0.5))
    assert fine.shape == tuple(count if at == axis else size for at, size in enumerate(shape))
    zooms = [voxel if at == axis else 1.0 for at in range(3)]
    assert np.allclose(fine.header.get_zooms(), zooms, atol=1e-5)
    assert np.linalg.norm(centre(fine) - centre(nibabel.load(source))) < 0.05  # mm
    # the field of view begins where it did
    corner = np.full(3, -0.5)
    first = nibabel.affines.apply_affine(fine.affine, corner)
    assert np.allclose(first, nibabel.affines.apply_affine(affine, corner), atol=1e-4)


def test_thick_again_the_output_is_the_input(tmp_path, quick, capfd):
    source, thin, quality = (tmp_path / name for name in ("a.nii", "thin.nii", "sd.nii.gz"))
    rng = np.random.default_rng(0)
    scan = rng.integers(0, 900, (20, 22, 9)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(scan, np.diag([1, 1, 2.5, 1])), source)
    (tmp_path / "a.json").write_text('{"SliceThickness": 2}')
    enhance(source, thin, through_plane=0, quality=quality)
    fine = nibabel.load(thin).get_fdata()
    assert fine.shape == (20, 22, 23)
    matrix = slice_matrix(23, 9, 2.5, 2.0)
    error = fine @ matrix.T - scan
    assert np.sqrt(np.square(error).mean()) < 1e-4 * np.sqrt(np.square(scan, dtype=float).mean())
    said = capfd.readouterr().err
    assert "slices 2.00 mm thick, 2.50 mm apart (gap 0.50 mm; by its JSON)" in said
    assert "degraded again (slices 2.00 mm thick), the output differs" in said
    spread = nibabel.load(quality)
    assert np.allclose(spread.affine, nibabel.load(thin).affine)
    assert spread.shape == fine.shape
    assert 0 < spread.get_fdata().max() < 900
    told = json.loads((tmp_path / "thin.json").read_text())
    assert told["slice_thickness_mm"] == 2
    assert told["residual"]["after"] < 1e-4 < told["residual"]["before"]


def test_the_same_scan_gives_the_same_bytes(tmp_path, quick):
    image = nibabel.Nifti1Image(blob((20, 20, 8), np.diag([1, 1, 3, 1])), np.diag([1, 1, 3, 1]))
    one, two = (enhance(image, through_plane=0).get_fdata() for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("phases", [2, 3, 4])
def test_patches_are_blurred_and_sampled_lines(phases):
    """Each LR patch is the slices of its HR patch, and phases are put in their order."""
    ramp = np.tile(np.arange(60, dtype=np.float32), (3, 20, 1))
    reach, slices = 3 * phases, 5
    lines = thick_slices.lines_of(torch.from_numpy(ramp), reach)
    offsets = np.arange(-reach, slices * phases + reach) - (
        (np.arange(slices)[:, None] + 0.5) * phases - 0.5
    )
    share = slice_profile.weights(offsets, phases)
    matrix = torch.from_numpy(share / share.sum(1, keepdims=True)).float()
    seed = torch.Generator().manual_seed(0)
    for _ in range(5):
        coarse, fine = thick_slices.draw(lines, matrix, phases, seed)
        assert fine.shape[-1] == phases * coarse.shape[-1] == phases * slices
        means = fine.unflatten(-1, (slices, phases)).mean(-1)
        inside = (fine > 2 * reach).all(-1) & (fine < 59 - 2 * reach).all(-1)
        assert torch.allclose(coarse[inside], means[inside], atol=0.05)
    network = thick_slices.Thinner(phases, features=4, blocks=1)
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.copy_(torch.arange(phases))
    added = network(torch.zeros(1, 1, 4, 6))[0, 0, 0]
    assert torch.equal(added, torch.arange(phases).repeat(6).float())


def test_refusals(tmp_path, quick):
    def scan(shape: tuple[int, ...], *sizes: float) -> nibabel.Nifti1Image:
        return nibabel.Nifti1Image(blob(shape, np.eye(4)), np.diag([*sizes, 1]))

    out = tmp_path / "out.nii"
    for image, options, message in [
        (scan((20, 20, 3), 1, 1, 4), {}, r"has 3 slices, --through-plane needs 4"),
        (scan((20, 20, 8), 1, 1, 1.02), {"axis": 2}, "are no thicker than the 1 mm asked for"),
        (scan((20, 20, 8), 1, 1, 4), {"through_plane": 0.5}, "nothing finer to learn from"),
        (scan((20, 20, 8), 1, 1, 40), {}, "at most 16 can be learned"),
        (scan((5, 6, 8), 1, 1, 4), {}, "fewer pixels than two slices span"),
        (scan((20, 20, 8), 1, 1, 4), {"scale": 2}, "leave model, scale and guide out"),
        (scan((20, 20, 8), 1, 1, 4), {"slice_thickness": 90}, "--slice-thickness is 90 mm"),
        (scan((20, 20, 8), 1, 1, 4), {"quality": out}, "give the quality map another name"),
        (scan((20, 20, 8), 1, 1, 4), {"through_plane": None, "slice_thickness": 4}, "leave it out"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            enhance(image, out, **{"through_plane": 0, **options})
        assert one_line(str(caught.value)) == str(caught.value)
        assert not out.exists()


def test_the_command(tmp_path, quick):
    assert alone(["enhance", "a", "--through-plane"]) == ["enhance", "a", "--through-plane", "0"]
    assert alone(["--through-plane", "1.5", "a"]) == ["--through-plane", "1.5", "a"]
    assert alone(["--through-plane", "--axis", "2"]) == ["--through-plane", "0", "--axis", "2"]
    source = tmp_path / "scan.nii"
    affine = np.diag([1, 1, 3, 1])
    nibabel.save(nibabel.Nifti1Image(blob((20, 20, 8), affine).astype(np.float32), affine), source)
    command = ["enhance", str(source), str(tmp_path / "o.nii"), "--through-plane"]
    command += ["--slice-thickness", "3"]
    result = CliRunner().invoke(cli.app, alone(command))
    assert result.exit_code == 0, result.output
    assert nibabel.load(tmp_path / "o.nii").shape == (20, 20, 24)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [3, 5])
def test_better_than_a_spline_on_the_template(ratio):
    """A corner of nilearn's MNI152, thickened: at least 1 dB more than a cubic B-spline."""
    whole = nibabel.load(str(files("nilearn") / TEMPLATE)).get_fdata(dtype=np.float32)
    truth = np.moveaxis(whole, 2, 0)[60:120, 60:140, 50:130] / 255
    slices = len(truth) // ratio
    thick = np.tensordot(slice_matrix(60, slices, ratio, ratio), truth, 1).astype(np.float32)
    profile = SliceProfile(ratio, ratio, "as told")
    grid = through_plane.Grid(1.0, ratio, ratio, 60)
    thin, _, residual = through_plane.thin(
        thick, (ratio, 1.0, 1.0), grid, profile, device=CPU, steps=120
    )
    places = (np.arange(60) + 0.5) / ratio - 0.5
    spline = np.tensordot(spline_matrix(slices, places), thick, 1)
    errors = [np.square(one - truth).mean() for one in (thin, spline)]
    assert 10 * np.log10(errors[1] / errors[0]) > 1
    assert residual.ratios[1] < 1e-4
