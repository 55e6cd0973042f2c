"""Every kind of scan through `mrsr enhance`, on real files. Run: pytest tests/scan/test_inputs.py

docs/howto/enhance-your-scan.md has the table of these files.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import real_scans
from mrsr import degrade, score
from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.scan import dicom, sidecar
from mrsr.scan.enhance import enhance


def fine(source: object, out: Path | None = None, **options: object) -> nibabel.Nifti1Image:
    return enhance(source, out, "bicubic", scale=2, **options)


def corners(image: nibabel.Nifti1Image) -> np.ndarray:
    """World coordinates of two opposite outer corners of the field of view."""
    ends = [[-0.5] * 3, np.array((*image.shape, 1)[:3]) - 0.5]
    return nibabel.affines.apply_affine(image.affine, ends)


def same_place(before: nibabel.Nifti1Image, after: nibabel.Nifti1Image) -> None:
    size = np.abs(corners(before)).max()
    assert np.allclose(corners(before), corners(after), atol=1e-5 * size)
    assert nibabel.aff2axcodes(before.affine) == nibabel.aff2axcodes(after.affine)


REAL = {  # file -> the output's shape
    "example4d.nii.gz": (256, 192, 24, 2),
    "anatomical.nii": (66, 82, 25),  # big-endian
    "functional.nii": (34, 42, 3, 20),  # with slope and intercept
    "example_nifti2.nii.gz": (64, 40, 12, 2),
    "resampled_anat_moved.nii": (34, 42, 3),
    "reoriented_anat_moved.nii": (42, 52, 22),
    "standard.nii.gz": (8, 5, 14),  # oblique, no unit
}


@pytest.mark.parametrize("name", REAL)
def test_nibabels_files(tmp_path, name):
    source = real_scans.NIBABEL / name
    nan = "zero" if name == "resampled_anat_moved.nii" else "refuse"  # SPM marks the outside by NaN
    before, after = nibabel.load(source), fine(source, tmp_path / "out.nii.gz", nan=nan)
    assert after.shape == REAL[name] and after.get_data_dtype().newbyteorder("=") == np.float32
    assert isinstance(after, nibabel.Nifti2Image) == isinstance(before, nibabel.Nifti2Image)
    assert after.header.endianness == before.header.endianness
    assert after.header.get_xyzt_units() == before.header.get_xyzt_units()
    assert bytes(after.header["descrip"]) == bytes(before.header["descrip"])
    assert after.header["pixdim"][4] == before.header["pixdim"][4] or after.ndim == 3
    same_place(before, after)
    mean = np.nan_to_num(before.get_fdata()).mean()
    # spline and edges: 0.1 % where there is signal at the edge of a few slices
    assert after.get_fdata().mean() == pytest.approx(mean, rel=5e-3)


@pytest.mark.parametrize("name", ["anatomical.nii", "functional.nii", "standard.nii.gz"])
def test_the_inputs_type(tmp_path, name, capfd):
    """dtype same: the input's type, slope and intercept, rounded; what does not fit is clipped."""
    source = real_scans.NIBABEL / name
    before = nibabel.load(source)
    exact = fine(source).get_fdata()
    fine(source, tmp_path / "out.nii", dtype="same")
    after = nibabel.load(tmp_path / "out.nii")
    assert after.get_data_dtype() == before.get_data_dtype()
    slope, intercept = before.dataobj.slope, before.dataobj.inter
    assert (after.dataobj.slope, after.dataobj.inter) == (slope, intercept)
    ends = np.iinfo(before.get_data_dtype())
    low, high = ends.min * slope + intercept, ends.max * slope + intercept
    assert np.abs(after.get_fdata() - np.clip(exact, low, high)).max() <= 0.5001 * slope
    beyond = int(((exact < low - slope / 2) | (exact > high + slope / 2)).sum())
    assert (f"{beyond} values beyond the range" in capfd.readouterr().err) == (beyond > 0)


@pytest.mark.parametrize("kind", ["uint8", "int64", "uint64", "float64", "complex64"])
def test_the_inputs_type_for_every_kind(tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 250, (12, 10, 3)).astype(kind)
    if kind == "uint64":
        values[0, 0, 0] = np.iinfo(kind).max  # the spline overshoots: to be clipped, not wrapped
    source = tmp_path / "in.nii"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1.0]), dtype=kind), source)
    after = fine(source, tmp_path / "out.nii", dtype="same")
    expected = "float32" if kind == "complex64" else kind  # of complex scans the magnitude
    assert after.get_data_dtype() == expected
    stored, exact = np.asanyarray(after.dataobj), fine(source).get_fdata()
    if kind == "uint64":
        assert stored.max() == pytest.approx(np.iinfo(kind).max, rel=1e-12) and stored.min() == 0
        return
    exact = np.clip(exact, 0, 255) if kind == "uint8" else exact
    assert np.abs(stored - exact).max() <= (0.5001 if kind in ("uint8", "int64") else 1e-3)


def test_a_volume_of_a_4d_scan(tmp_path):
    source = real_scans.NIBABEL / "functional.nii"
    every = fine(source)
    one = fine(source, tmp_path / "one.nii", volume=7)
    assert one.shape == (34, 42, 3)
    assert np.array_equal(one.get_fdata(), every.get_fdata()[..., 7])
    same_place(nibabel.load(source), one)
    low = degrade(real_scans.NIBABEL / "example4d.nii.gz", tmp_path / "low.nii")
    assert low.shape == (64, 48, 24, 2)
    assert degrade(real_scans.NIBABEL / "example4d.nii.gz", volume=1).shape == (64, 48, 24)
    found = score(every, tmp_path / "one.nii", volume=7)
    assert found["psnr"] == 100 and found["n_slices"] == 3
    for run in (lambda: fine(source, volume=20), lambda: score(every, every, volume=-1)):
        with pytest.raises(UserError, match=r"no volume (20|-1); it has 20, counted from 0"):
            run()
    with pytest.raises(UserError, match="has 20 volumes; choose one with --volume"):
        score(every, every)


def test_a_bad_volume_is_told_before_the_work(tmp_path, monkeypatch):
    values = np.random.default_rng(0).random((12, 10, 3, 4)).astype(np.float32)
    values[..., 2] = 0
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1.0])), tmp_path / "in.nii")
    monkeypatch.setattr("mrsr.inference.slabs", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(UserError, match=r"in\.nii, volume 2 is empty"):
        fine(tmp_path / "in.nii", tmp_path / "out.nii")
    assert [path.name for path in tmp_path.iterdir()] == ["in.nii"]


@pytest.mark.parametrize("shape", [(12, 10, 3, 1), (12, 10, 3, 1, 1), (12, 10, 1, 1), (12, 10)])
def test_axes_of_length_one_and_2d(tmp_path, shape):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1.0])), tmp_path / "in.nii")
    after = fine(tmp_path / "in.nii", tmp_path / "out.nii")
    assert after.shape == ((24, 20, *shape[2:3]))


@pytest.mark.parametrize("shape", [(12, 10, 3), (12, 10, 3, 4)])
def test_mgz(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 900, shape).astype(">i2")
    affine = np.array([[0, 0, 3, -9], [-1, 0, 0, 4], [0, -1, 0, 5], [0, 0, 0, 1.0]])
    image = nibabel.MGHImage(values, affine)
    if len(shape) == 4:
        image.header.set_zooms((1, 1, 3, 2500))  # milliseconds
    nibabel.save(image, tmp_path / "in.mgz")
    after = fine(tmp_path / "in.mgz", tmp_path / "out.nii.gz", dtype="same")
    assert after.shape == (24, 20, *shape[2:]) and after.get_data_dtype() == np.int16
    assert len(shape) == 3 or after.header["pixdim"][4] == 2.5  # seconds
    same_place(image, after)


def test_nan_as_zero(tmp_path, capfd):
    """Scans that mark the outside of the head by NaN."""
    image = nibabel.load(real_scans.NIBABEL / "anatomical.nii")
    inside = image.get_fdata().astype(np.float32)
    inside[:6] = 0
    outside = np.where(inside == 0, np.nan, inside).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(outside, image.affine), tmp_path / "in.nii")
    with pytest.raises(UserError, match=r"voxels are NaN.*--nan zero"):
        fine(tmp_path / "in.nii")
    after = fine(tmp_path / "in.nii", tmp_path / "out.nii", nan="zero")
    expected = fine(nibabel.Nifti1Image(inside, image.affine)).get_fdata()
    assert np.array_equal(after.get_fdata(), expected)
    count = int(np.isnan(outside).sum())
    line = f"in.nii: {count} of {inside.size} voxels are NaN and read as 0"
    assert line in capfd.readouterr().err
    assert line in json.loads((tmp_path / "out.json").read_text())["done"]
    outside[0, 0, 0] = np.inf
    with pytest.raises(UserError, match=r"1 of .* voxels are NaN or infinite"):
        fine(nibabel.Nifti1Image(outside, image.affine), nan="zero")
    with pytest.raises(UserError, match="nan is mean, it must be one of refuse, zero"):
        fine(tmp_path / "in.nii", nan="mean")


def test_a_dicom_series(tmp_path, capfd):
    folder = real_scans.copied(real_scans.ONE_SERIES, tmp_path)
    done = CliRunner().invoke(app, ["enhance", str(folder), "-m", "bicubic", "--scale", "2"])
    assert done.exit_code == 0, done.output
    after = nibabel.load(tmp_path / "CT5N_mrsr.nii.gz")
    assert after.shape == (32, 32, 5)
    # 250 mm over 512 pixels of the scanner; nothing but the plane gets finer
    assert np.allclose(after.header.get_zooms(), (0.48828 / 2, 0.48828 / 2, 2.5), atol=1e-4)
    coarse = degrade(folder, tmp_path / "low.nii")
    assert coarse.shape == (8, 8, 5) and score(folder, folder)["psnr"] == 100
    assert "series 5_SmartScore_-_Gated_0.5_sec, converted by dcm2niix" in capfd.readouterr().err


def test_several_series_are_listed_and_one_is_chosen(tmp_path, capfd):
    folder = real_scans.copied(real_scans.TWO_SERIES, tmp_path)
    with pytest.raises(UserError, match=r"2 series; .*--series.* 4_Scout \(16x16x2\), 5_Smart"):
        fine(folder)
    with pytest.raises(UserError, match=r"no series 7; choose"):
        fine(folder, series="7")
    by_number = fine(folder, series="4")
    assert by_number.shape == (32, 32, 2)
    assert np.array_equal(by_number.get_fdata(), fine(folder, series="4_Scout").get_fdata())
    assert "dcm2niix says: Note these images have gantry tilt" in capfd.readouterr().err
    with pytest.raises(UserError, match="no folder of DICOM files"):
        fine(real_scans.NIBABEL / "anatomical.nii", series="4")


def test_what_dcm2niix_says_of_a_broken_series_is_passed_on(tmp_path, capfd):
    fine(real_scans.BROKEN_SERIES, tmp_path / "out.nii", series="2_Routine_Brain")
    (line,) = (one for one in capfd.readouterr().err.splitlines() if "dcm2niix says" in one)
    assert "Interslice distance varies" in line and "Missing images?" in line
    assert len(json.loads((tmp_path / "out.json").read_text())["warnings"]) == 1
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "IM1").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(99)))
    with pytest.raises(UserError, match="junk holds no scan, and no DICOM series"):
        fine(junk)


def test_dicom_without_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dcm2niix", None)
    with pytest.raises(UserError, match=r"install the extra: pip install 'mrsr\[dicom\]'"):
        dicom.convert(real_scans.ONE_SERIES)


@pytest.mark.slow
def test_debians_scans(tmp_path):
    """mricron-data has a T1 template in MNI space (ch2, uint8) and a labelled atlas."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("no apt-get here, which would bring Debian's mricron-data")
    got = subprocess.run(["apt-get", "download", "mricron-data"], cwd=tmp_path, capture_output=True)
    packages = list(tmp_path.glob("mricron-data*.deb"))
    if got.returncode or not packages:
        pytest.skip("apt-get cannot download Debian's mricron-data here")
    subprocess.run(["dpkg-deb", "-x", packages[0], tmp_path / "deb"], check=True)
    source = next((tmp_path / "deb").rglob("ch2.nii.gz"))
    after = fine(source, tmp_path / "out.nii", dtype="same")
    before = nibabel.load(source)
    assert after.shape == (362, 434, 181) and after.get_data_dtype() == before.get_data_dtype()
    same_place(before, after)


@pytest.mark.parametrize("name", ["anatomical.nii", "functional.nii", "example_nifti2.nii.gz"])
def test_images_in_memory_give_what_files_give(tmp_path, name):
    """Loaded images, and arrays; nothing is written, and the image given stays as it was."""
    source = real_scans.NIBABEL / name
    expected = fine(source, tmp_path / "out.nii").get_fdata()
    image = nibabel.load(source)
    header = image.header.copy()
    found = fine(image)
    assert np.array_equal(found.get_fdata(), expected) and image.header == header
    same_place(image, found)
    low = degrade(nibabel.Nifti1Image(np.asarray(found.dataobj), found.affine))
    assert low.shape[:2] == (found.shape[0] // 2, found.shape[1] // 2)
    number = None if found.ndim == 3 else 0
    assert score(found, tmp_path / "out.nii", volume=number)["psnr"] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.nii"]


def test_images_that_cannot_be_used(tmp_path):
    values = np.random.default_rng(0).random((12, 10, 3)).astype(np.float32)
    with pytest.raises(UserError, match=r"is Spm99AnalyzeImage; give nibabel\.Nifti1Image"):
        fine(nibabel.Spm99AnalyzeImage(values, np.eye(4)))
    with pytest.raises(UserError, match="the image has no affine"):
        fine(nibabel.Nifti1Image(values, None))
    with pytest.raises(UserError, match=r"the image: a voxel of .* is impossible"):
        fine(nibabel.Nifti1Image(values, np.diag([1e6, 1, 1, 1])))
    path = tmp_path / "in.nii"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    image = nibabel.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"file of in\.nii is missing or truncated"):
        fine(image)
    mask = nibabel.Nifti1Image((values > 0.5).astype(np.uint8), np.eye(4))
    assert fine(mask, axis=2).shape == (24, 20, 3)


def test_the_json_beside_the_output(tmp_path):
    source = real_scans.copied(real_scans.NIBABEL / "anatomical.nii", tmp_path)
    done = CliRunner().invoke(app, ["enhance", str(source), "--axis", "1"])
    assert done.exit_code == 0, done.output
    out = tmp_path / "anatomical_mrsr.nii.gz"
    assert done.output.splitlines()[-1] == str(out)
    found = json.loads((tmp_path / "anatomical_mrsr.json").read_text())
    assert found["note"] == "an estimate, not for diagnosis"
    assert found["input"] == {"file": "anatomical.nii", "sha256": sha256(source)}
    assert found["output"] == {"file": out.name, "sha256": sha256(out)}
    package = Path(sidecar.__file__).parent.parent / "weights" / "x2.pt"
    assert found["model"]["sha256"] == sha256(package) and found["model"]["name"] == "x2.pt"
    assert (found["scale"], found["axis"], found["dtype"]) == (2, 1, "float32")
    assert found["voxel_mm"] == {"input": [2, 2, 2], "output": [1, 2, 1]}
    assert found["mrsr"] and found["command"] and str(tmp_path) not in json.dumps(found["model"])
    assert any("voxels" in one for one in found["warnings"]) or found["warnings"] == []


def test_the_command_is_in_the_json(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/mrsr", "enhance", "my scan.nii", "--scale", "2"])
    assert sidecar.command() == "mrsr enhance 'my scan.nii' --scale 2"
    monkeypatch.setattr("sys.argv", ["notebook.py"])
    assert sidecar.command() == "mrsr in Python"


def test_neither_output_nor_json_is_overwritten_unasked(tmp_path):
    source = real_scans.NIBABEL / "anatomical.nii"
    mine = tmp_path / "out.json"
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"out\.json exists; give another name, or --overwrite"):
        fine(source, tmp_path / "out.nii")
    assert mine.read_text() == "mine" and not (tmp_path / "out.nii").exists()
    fine(source, tmp_path / "out.nii", overwrite=True)
    assert json.loads(mine.read_text())["scale"] == 2
