"""`mrsr enhance` on scans of any orientation. Run: pytest tests/scan/test_enhance.py"""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from mrsr import checkpoint, inference, models
from mrsr.errors import UserError, one_line
from mrsr.params import jobs, schema
from mrsr.params.typed import plain
from mrsr.raw.nifti import read_nifti
from mrsr.resampling import bicubic, degrade
from mrsr.scan import enhance
from mrsr.scan.score import score


def model(folder: Path, scale: int = 2, name: str = "bicubic", **settings: object) -> Path:
    path = folder / f"{name}{scale}.pt"
    checkpoint.save(
        path,
        model_name=name,
        options={},
        scale=scale,
        weights={},
        settings=settings,
        provenance={},
    )
    return path


def oblique(order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """An affine with anisotropic voxels, tilted by 20 degrees, axes in any order and direction.

    Voxels of 1 x 1.2 x 4 mm; `order` says which stored axis each of the three is.
    """
    turn = np.deg2rad(20)
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = (rotation * [1.0, 1.2, 4.0] * flips)[:, list(order)]
    affine[:3, 3] = [12, -30, 7]
    return affine


def blob(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A smooth ball (x, y, z) of 500 units in a volume of 20, off the centre."""
    index = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    middle = affine[:3, :3] @ (0.45 * (np.array(shape) - 1)) + affine[:3, 3]
    return 20 + 500 * np.exp(-0.5 * np.square((world - middle) / 4.0).sum(-1))


def write(
    path: Path, array: np.ndarray, affine: np.ndarray, qcode: int = 1, scode: int = 2
) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, scode)
    image.set_qform(affine, qcode)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a scan"
    nibabel.save(image, path)
    return path


def centroid(image: nibabel.Nifti1Image) -> np.ndarray:
    """World coordinates (3,) of the mass above the background."""
    mass = np.clip(image.get_fdata() - 30, 0, None)
    index = np.stack(np.meshgrid(*[np.arange(size) for size in mass.shape], indexing="ij"), -1)
    mean = (index * mass[..., None]).sum((0, 1, 2)) / mass.sum()
    return nibabel.affines.apply_affine(image.affine, mean)


def corners(image: nibabel.Nifti1Image) -> np.ndarray:
    """World coordinates (8, 3) of the outer corners of the field of view."""
    ends = itertools.product(*[(-0.5, size - 0.5) for size in image.shape])
    return nibabel.affines.apply_affine(image.affine, np.array(list(ends)))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_anatomy_does_not_move(tmp_path, order, scale):
    flips = (-1, 1, 1) if scale == 2 else (1, -1, -1)
    affine = oblique(order, flips)
    shape = tuple(np.array([26, 30, 12])[list(order)])
    source = write(tmp_path / "in.nii.gz", blob(shape, affine).astype(np.float32), affine)
    enhance.enhance(source, tmp_path / "out.nii.gz", model(tmp_path, scale))

    before, after = nibabel.load(source), nibabel.load(tmp_path / "out.nii.gz")
    thick = order.index(2)  # the stored axis of 4 mm
    factors = [1 if axis == thick else scale for axis in range(3)]
    assert after.shape == tuple(np.array(shape) * factors)
    assert np.allclose(after.header.get_zooms(), before.header.get_zooms() / np.array(factors))
    assert np.allclose(corners(after), corners(before), atol=1e-4)
    assert np.allclose(corners(after).mean(0), corners(before).mean(0), atol=1e-4)
    assert np.linalg.norm(centroid(after) - centroid(before)) < 0.05
    assert np.allclose(after.get_qform(), after.get_sform(), atol=1e-4)


@pytest.mark.parametrize(("qcode", "scode"), [(1, 2), (1, 0), (0, 4), (0, 0)])
def test_header_is_kept(tmp_path, qcode, scode):
    affine = np.diag([-1.0, 1.2, 4.0, 1.0])
    source = write(
        tmp_path / "in.nii", np.random.default_rng(0).random((8, 9, 5)), affine, qcode, scode
    )
    enhance.enhance(source, tmp_path / "out.nii", model(tmp_path))
    before, after = nibabel.load(source), nibabel.load(tmp_path / "out.nii")
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == (qcode, scode)
    assert after.header.get_xyzt_units() == ("mm", "sec")
    assert bytes(after.header["descrip"]) == bytes(before.header["descrip"])
    assert after.get_data_dtype() == np.float32
    assert np.allclose(corners(after), corners(before), atol=1e-4)


def test_intensities_stay_in_the_inputs_scale(tmp_path):
    """Integers with slope and intercept: the output holds what they mean, as float32."""
    stored = np.random.default_rng(1).integers(0, 900, (14, 12, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([1, 1, 3, 1.0])), tmp_path / "in.nii")
    with open(tmp_path / "in.nii", "rb+") as file:
        file.seek(112)  # scl_slope and scl_inter; nibabel would choose its own
        file.write(struct.pack("<ff", 0.5, -20))
    enhance.enhance(tmp_path / "in.nii", tmp_path / "out.nii", model(tmp_path))
    meant = torch.from_numpy(stored * 0.5 - 20).permute(2, 0, 1)
    expected = bicubic(meant, (28, 24)).permute(1, 2, 0).numpy()
    got = nibabel.load(tmp_path / "out.nii").get_fdata()
    assert np.allclose(got, expected, atol=1e-3)


class Picky(nn.Module):
    """Nearest neighbours, for sizes that divide by 8 only."""

    multiple = 8

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        assert lr.shape[-1] % 8 == lr.shape[-2] % 8 == 0
        return lr.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_networks_that_need_padding_get_it():
    image = np.random.default_rng(0).random((3, 9, 14)).astype(np.float32)
    fine = inference.apply(Picky(), image, 2, device=torch.device("cpu"), batch=2)
    assert np.array_equal(fine, image.repeat(2, 1).repeat(2, 2))


def test_percentile_of_the_training_is_used(tmp_path, monkeypatch):
    seen = []
    unit = enhance.intensity_unit
    monkeypatch.setattr(
        enhance, "intensity_unit", lambda *given: seen.append(given[1]) or unit(*given)
    )
    source = write(tmp_path / "in.nii", np.random.default_rng(0).random((8, 8, 3)), np.eye(4))
    enhance.enhance(source, tmp_path / "a.nii", model(tmp_path))
    enhance.enhance(
        source, tmp_path / "b.nii", model(tmp_path, normalise={"level": "volume", "percentile": 99})
    )
    assert seen == [99.9, 99.0]


def scan(folder: Path, kind: str) -> Path:
    path = folder / "scan.nii.gz"
    array = np.random.default_rng(0).random((8, 9, 5)).astype(np.float32)
    match kind:
        case "nan":
            array[0, 0, 0] = np.nan
        case "5d":
            array = np.stack([array, array], -1)[..., None].repeat(2, -1)
        case "faint":
            array[:] = 0
            array[0, 0, 0] = -1
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-200])
        case "missing":
            path.unlink()
    return path


@pytest.mark.parametrize("kind", ["nan", "5d", "faint", "truncated", "missing"])
def test_bad_scans_get_one_line_and_leave_nothing(tmp_path, kind):
    source = scan(tmp_path, kind)
    out = tmp_path / "out" / "out.nii.gz"
    with pytest.raises(UserError, match=r"scan\.nii\.gz") as caught:
        enhance.enhance(source, out, model(tmp_path))
    assert one_line(str(caught.value)) == str(caught.value)
    assert not out.parent.exists()


def test_refusals(tmp_path):
    source, best = scan(tmp_path, "good"), model(tmp_path)
    out = tmp_path / "out.nii.gz"
    with pytest.raises(UserError, match="must be named"):
        enhance.enhance(source, tmp_path / "out.mgz", best)
    with pytest.raises(UserError, match=r"none\.pt"):
        enhance.enhance(source, out, tmp_path / "none.pt")
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists"):
        enhance.enhance(source, out, best)
    assert out.read_bytes() == b"mine"
    with pytest.raises(UserError, match="is an input as well"):
        enhance.enhance(source, source, best)
    enhance.enhance(source, out, best, overwrite=True)
    assert nibabel.load(out).shape == (16, 18, 5)


def test_a_network_for_undersampled_scans_says_so(tmp_path, capfd):
    source = scan(tmp_path, "good")
    enhance.enhance(source, tmp_path / "one.nii.gz", model=model(tmp_path, acceleration=4))
    assert "expects a scan undersampled 4x in k-space" in capfd.readouterr().err
    enhance.enhance(source, tmp_path / "two.nii.gz", model=model(tmp_path, acceleration=1))
    assert "undersampled" not in capfd.readouterr().err


def test_the_same_input_gives_the_same_bytes(tmp_path):
    source, best = scan(tmp_path, "good"), model(tmp_path)
    for name in ("a.nii.gz", "b.nii.gz"):
        enhance.enhance(source, tmp_path / name, best, batch=1 if name[0] == "a" else 4)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


GUIDED = '''
from torch import nn

GUIDED = True


class Net(nn.Module):
    """The guide itself, and a little of the input."""

    def __init__(self, scale):
        super().__init__()
        self.up = nn.Upsample(scale_factor=scale)

    def forward(self, lr, guide):
        assert guide.shape[-2:] == (2 * lr.shape[-2], 2 * lr.shape[-1])
        return guide + 0 * self.up(lr)


def build(scale):
    return Net(scale)
'''


@pytest.fixture
def guided(tmp_path, monkeypatch):
    """A checkpoint of a network that gives its guide back."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "toy_gives_guide.py").write_text(GUIDED)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder)])
    return model(tmp_path, name="toy_gives_guide", type="guided")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_a_guide_lies_on_the_outputs_grid(tmp_path, guided, order):
    """A second contrast on a grid of its own, axes in another order: the same place in space."""
    affine = oblique((0, 1, 2), (-1, 1, 1))
    source = write(tmp_path / "in.nii.gz", blob((26, 30, 12), affine).astype(np.float32), affine)
    # slices of another thickness, smaller voxels, a larger field of view
    other = affine @ np.diag([0.8, 0.7, 0.6, 1.0])
    other[:3, 3] -= affine[:3, :3] @ [2, 2, 0.2]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 52, 24)), indexing="ij"), -1)
    world = index @ other[:3, :3].T + other[:3, 3]
    middle = affine[:3, :3] @ (0.45 * (np.array([26, 30, 12]) - 1)) + affine[:3, 3]
    second = 3 * (20 + 500 * np.exp(-0.5 * np.square((world - middle) / 4.0).sum(-1)))
    other[:3, :3] = other[:3, list(order)]
    write(tmp_path / "second.nii", second.transpose(order).astype(np.float32), other)
    enhance.enhance(source, tmp_path / "out.nii", guided, guide=tmp_path / "second.nii")

    after = nibabel.load(tmp_path / "out.nii")
    assert after.shape == (52, 60, 12)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in after.shape), indexing="ij"), -1)
    place = nibabel.affines.apply_affine(after.affine, grid)
    expected = 20 + 500 * np.exp(-0.5 * np.square((place - middle) / 4.0).sum(-1))
    # the guide is divided by its own percentile, the output multiplied by the input's
    units = [np.percentile(nibabel.load(tmp_path / name).get_fdata(), 99.9)
             for name in ("in.nii.gz", "second.nii")]  # fmt: skip
    expected *= 3 * units[0] / units[1]
    # the coarsest slices of the guide are 2.4 mm thick, the ball's width is 4 mm
    error = np.abs(after.get_fdata() - expected)
    assert error[expected < 0.9 * expected.max()].max() < 4  # the very peak is cut at the range
    assert np.linalg.norm(centroid(after) - middle) < 0.15


def test_guides_that_do_not_fit(tmp_path, guided):
    source, out = scan(tmp_path, "good"), tmp_path / "out.nii"
    with pytest.raises(UserError, match="needs a second contrast; give it with --guide"):
        enhance.enhance(source, out, guided)
    for unguided, more in ((model(tmp_path), {}), ("bicubic", {"scale": 2})):
        with pytest.raises(UserError, match="takes no second contrast; leave --guide out"):
            enhance.enhance(source, out, unguided, guide=source, **more)
    far = np.eye(4)
    far[:3, 3] = 1000
    write(tmp_path / "far.nii", np.random.default_rng(0).random((8, 9, 5)), far)
    with pytest.raises(UserError, match=r"far\.nii does not overlap the scan"):
        enhance.enhance(source, out, guided, guide=tmp_path / "far.nii")
    with pytest.raises(UserError, match=r"none\.nii"):
        enhance.enhance(source, out, guided, guide=tmp_path / "none.nii")
    assert not out.exists()
    enhance.enhance(source, out, guided, guide=source)  # the scan itself will do


# a method that learns from each scan, in seconds
OWN = jobs.SuperResolution(
    experiment="toy", dataset="toy", scale=2, method="own", type="self", degradation="bicubic",
    model=jobs.Model(name="srcnn", options={"features": [4, 2]}), losses={"l1": 1.0},
    steps=4, batch=2, patch=8, validate_every=5, checkpoint_every=3, log_every=3,
    validation_slices=2, optimizer=schema.Optimizer(lr=1e-3, weight_decay=0.1),
    schedule=schema.Schedule(), device="cpu", tracking=schema.Tracking(enabled=False),
)  # fmt: skip


def own(folder: Path, **changes: object) -> Path:
    """A checkpoint of a method that learns from each scan; its weights are of other scans."""
    given = plain(replace(OWN, **changes))
    torch.manual_seed(0)
    network = models.build("srcnn", 2, given["model"]["options"])
    checkpoint.save(
        folder / "self.pt", model_name="srcnn", options=given["model"]["options"], scale=2,
        weights=checkpoint.part_of("0000", network.state_dict()), settings=given, provenance={},
    )  # fmt: skip
    return folder / "self.pt"


def test_a_method_that_learns_from_the_scan_is_trained_on_it(tmp_path, capfd):
    from mrsr import compute
    from mrsr.training import one_volume

    affine = np.diag([1.0, 1.2, 4.0, 1.0])
    source = write(tmp_path / "in.nii", blob((26, 30, 4), affine).astype(np.float32), affine)
    best = own(tmp_path)
    enhance.enhance(source, tmp_path / "out.nii", best, device="cpu")
    said = capfd.readouterr().err
    assert "in.nii: the method learns from the scan itself: training on it, 4 steps" in said

    image = read_nifti(source, subject="", contrast="", organ="").image
    unit = enhance.intensity_unit(image, 99.9, "")
    slices = torch.from_numpy(image / unit)
    network = one_volume.fit(slices, OWN, compute.start(OWN), "")
    with torch.no_grad():
        expected = network(slices[:, None])[:, 0].numpy() * unit
    got = nibabel.load(tmp_path / "out.nii").get_fdata().transpose(2, 1, 0)
    assert got == pytest.approx(expected, abs=1e-2)
    enhance.enhance(source, tmp_path / "again.nii", best, device="cpu")
    assert (tmp_path / "again.nii").read_bytes() == (tmp_path / "out.nii").read_bytes()


def test_refusals_of_methods_that_learn_from_the_scan(tmp_path):
    source, out = scan(tmp_path, "good"), tmp_path / "out.nii"
    with pytest.raises(UserError, match="takes no second contrast"):
        enhance.enhance(source, out, own(tmp_path), guide=source)
    with pytest.raises(UserError, match="patch 64 is larger than every slice of the scan"):
        enhance.enhance(source, out, own(tmp_path, patch=64), device="cpu")
    lacking = own(tmp_path)
    saved = checkpoint.load(lacking)
    checkpoint.save(
        lacking, model_name="srcnn", options=saved.options, scale=2, weights=saved.weights,
        settings={"type": "self"}, provenance={},
    )  # fmt: skip
    with pytest.raises(UserError, match="is missing"):
        enhance.enhance(source, out, lacking)
    assert not out.exists()


def test_the_command_takes_a_guide(tmp_path, guided):
    from typer.testing import CliRunner

    from mrsr.cli import app

    source, out = scan(tmp_path, "good"), tmp_path / "out.nii"
    given = ["enhance", str(source), str(out), "--model", str(guided), "--guide", str(source)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0 and out.exists(), done.output
    refused = CliRunner().invoke(app, [*given[:-2], "--overwrite"])
    assert isinstance(refused.exception, UserError)


def test_real_scan(tmp_path, mirror):
    source = mirror / "open_ms_data/longitudinal/raw/patient12/study1_T1W.nii.gz"
    enhance.enhance(source, tmp_path / "out.nii", model(tmp_path))
    before, after = nibabel.load(source), nibabel.load(tmp_path / "out.nii")
    thick = int(np.argmax(before.header.get_zooms()))
    factors = np.where(np.arange(3) == thick, 1, 2)
    assert after.shape == tuple(before.shape * factors)
    centres = [
        nibabel.affines.apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
        for image in (before, after)
    ]
    assert np.allclose(*centres, atol=1e-3)
    assert np.allclose(corners(before), corners(after), atol=1e-3)
    assert nibabel.aff2axcodes(before.affine) == nibabel.aff2axcodes(after.affine)
    assert after.get_fdata().mean() == pytest.approx(before.get_fdata().mean(), rel=1e-3)


def coarser(source: Path, path: Path) -> Path:
    """The scan at half its in-plane resolution, at the same place in the world."""
    image = nibabel.load(source)
    slices = read_nifti(source, subject="", contrast="", organ="", slice_axis=2).image
    lr = degrade(torch.from_numpy(slices), 2, "bicubic").numpy()
    widen = np.diag([2.0, 2.0, 1.0, 1.0])
    widen[:2, 3] = 0.5
    nibabel.save(nibabel.Nifti1Image(lr.transpose(2, 1, 0), image.affine @ widen), path)
    return path


@pytest.mark.slow
def test_trained_network_beats_bicubic_on_a_real_scan(tmp_path, mirror):
    """A minute of training on patient 03, tried on a degraded scan of patient 12."""
    raw = mirror / "open_ms_data/longitudinal/raw"
    scan = read_nifti(
        raw / "patient03/study2_T1W.nii.gz", subject="3", contrast="T1", organ="brain"
    ).image
    hr = torch.from_numpy(scan / np.percentile(scan, 99.9)).float()[:, None]
    lr = degrade(hr, 2, "bicubic")
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    options = {"features": 16, "blocks": 2, "norm": "none", "skip": "bicubic", "last_kernel": 3}
    network = models.build("srresnet", 2, options)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(200):
        chosen = rng.integers(len(hr), size=8)
        row, column = (int(rng.integers(size - 48)) for size in lr.shape[-2:])
        small = lr[chosen][..., row : row + 48, column : column + 48]
        large = hr[chosen][..., 2 * row : 2 * row + 96, 2 * column : 2 * column + 96]
        optimizer.zero_grad()
        (network(small) - large).abs().mean().backward()
        optimizer.step()
    best = tmp_path / "best.pt"
    checkpoint.save(
        best,
        model_name="srresnet",
        options=options,
        scale=2,
        weights=network.state_dict(),
        settings={},
        provenance={},
    )
    source = raw / "patient12/study1_T1W.nii.gz"
    small_scan = coarser(source, tmp_path / "lr.nii")
    psnr = {}
    for name, weights in (("trained", best), ("bicubic", model(tmp_path))):
        enhance.enhance(small_scan, tmp_path / f"{name}.nii", weights)
        psnr[name] = score(tmp_path / f"{name}.nii", source, "slice")["psnr"]
    assert psnr["bicubic"] == pytest.approx(33.04, abs=0.05)
    assert psnr["trained"] > psnr["bicubic"] + 0.5


class Lopsided(nn.Module):
    """Repeats each pixel, and brightens what lies to the right of the middle."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        sr = lr.repeat_interleave(2, -1).repeat_interleave(2, -2)
        sr[..., sr.shape[-1] // 2 :] += 1
        return sr


def test_an_ensemble_averages_over_flips_and_turns() -> None:
    lr = torch.rand(2, 1, 4, 6)
    plain_sr = lr.repeat_interleave(2, -1).repeat_interleave(2, -2)
    # right of the middle in the image or in a flipped or turned one: half of the time, everywhere
    found = inference.forward(Lopsided(), lr, 2, ensemble=8)
    torch.testing.assert_close(found, plain_sr + 0.5)
    network = models.build("srresnet", 2, {"features": 4, "blocks": 1})
    # turning the input turns the output
    eight = inference.forward(network, lr, 2, ensemble=8)
    torch.testing.assert_close(inference.forward(network, lr.mT, 2, ensemble=8).mT, eight)
    flipped = inference.forward(network, lr.flip(-1), 2, ensemble=8).flip(-1)
    torch.testing.assert_close(flipped, eight)


def test_an_ensemble_is_one_or_eight(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ensemble is 4, it must be 1 or 8"):
        enhance.enhance(tmp_path / "a.nii", tmp_path / "b.nii", "bicubic", scale=2, ensemble=4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", [[2, 1, 0], [0, 2, 1], [1, 2, 0]])
@pytest.mark.parametrize("order", ["<", ">"])
def test_slices_are_written_as_nibabel_would(tmp_path, suffix, axes, order):
    """A few at a time, whatever axis they are stacked along: the header, extensions and bytes."""
    import gzip

    from mrsr.scan.output import write_slices

    array = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_shape(array.shape)
    header.set_data_dtype(np.float32)
    header.set_sform(np.diag([2.0, 1, 3, 1]), 2)
    header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment"))
    expected = nibabel.Nifti1Image(array, header.get_best_affine(), header).to_bytes()
    stack = array.transpose(axes)
    pieces = iter([stack[:2], stack[2:3], stack[3:]])
    write_slices(tmp_path / f"a{suffix}", pieces, header, axes)
    written = (tmp_path / f"a{suffix}").read_bytes()
    assert (gzip.decompress(written) if suffix == ".nii.gz" else written) == expected


def test_a_network_that_fails_midway_leaves_nothing(tmp_path, monkeypatch):
    """NaN in the last slice, when the others are written already."""

    def broken(network, image, scale, **options):
        for index in range(len(image)):
            value = np.nan if index == len(image) - 1 else 1.0
            yield slice(index, index + 1), np.full((1, 18, 16), value, np.float32)

    source = scan(tmp_path, "good")
    monkeypatch.setattr(inference, "slabs", broken)
    with pytest.raises(UserError, match=r"gives NaN or infinite values on scan\.nii\.gz"):
        enhance.enhance(source, tmp_path / "out.nii.gz", model(tmp_path))
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".tmp*"))


def test_a_disk_that_is_full_while_slices_are_made_is_said(tmp_path):
    """The packing runs behind; what it meets is told nevertheless."""
    from mrsr.scan import output

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(28, "No space left on device")

    header = nibabel.Nifti1Header()
    header.set_data_shape((6, 7, 5))
    header.set_data_dtype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "_packed", lambda *_: Full())
        with pytest.raises(UserError, match=r"out\.nii"):
            output.write_slices(
                tmp_path / "out.nii", iter([np.zeros((5, 7, 6), np.float32)]), header, [2, 1, 0]
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"batch": -1}, {"tile": 10}])
def test_batch_and_tile_have_bounds(tmp_path, wrong):
    with pytest.raises(UserError, match="must be"):
        enhance.enhance(tmp_path / "a.nii", tmp_path / "b.nii", "bicubic", scale=2, **wrong)
