"""Scans unlike those that a network was trained on, and the list of networks.

Run: pytest tests/scan/test_fitting.py
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import builders
from mrsr import checkpoint
from mrsr.cli import app
from mrsr.raw import contrasts
from mrsr.scan import boxed, catalogue
from mrsr.scan.enhance import enhance
from mrsr.slices.known import about

KNOWN = {
    "contrasts": ["FLAIR", "T1"],
    "organ": "brain",
    "plane_mm": [0.5, 0.9],
    "slice_mm": [3.0, 3.0],
    "intensity": [0.0, 1.8],
    "volumes": 2,
    "subjects": 1,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint at 2x that says what it learned."""
    path = tmp_path / "best.pt"
    checkpoint.save(
        path, model_name="bicubic", options={}, scale=2, weights={},
        settings={"degradation": "bicubic"}, provenance={"trained_on": KNOWN},
    )  # fmt: skip
    return path


def scan(path: Path, size: float = 1.4, offset: float = 0.0, tags: object = None) -> Path:
    values = np.random.default_rng(0).random((12, 10, 3)).astype(np.float32) - offset
    image = nibabel.Nifti1Image(values, np.diag([size, size, 3, 1]))
    nibabel.save(image, path)
    if tags is not None:
        path.with_suffix(".json").write_text(json.dumps(tags))
    return path


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line.removeprefix("mrsr: ") for line in capfd.readouterr().err.splitlines()]


def test_a_scan_like_the_training_has_no_warning(tmp_path, model, capfd):
    enhance(scan(tmp_path / "T1w.nii"), None, model)
    assert said(capfd) == ["T1w.nii: contrast T1, by its name; --contrast overrides"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0.7}, "voxels of 0.7 x 0.7 mm in the plane, it learned 1 to 1.8 mm"),
        ({"size": 2.4}, "voxels of 2.4 x 2.4 mm in the plane, it learned 1 to 1.8 mm"),
        ({"offset": 0.3}, r"times its unit, it learned 0 to 1.8"),
        ({"tags": {"BodyPartExamined": "KNEE"}}, "of the knee, it learned the brain"),
        (
            {"tags": {"AcquisitionMatrixPE": 160, "ReconMatrixPE": 256}},
            "interpolated by the scanner from 160 to 256 lines, it learned to undo bicubic",
        ),
        ({"name": "T2w.nii"}, "contrast T2, it learned FLAIR, T1"),
        ({"contrast": "pd"}, "contrast PD, it learned FLAIR, T1"),
    ],
)
def test_one_warning_names_both_values(tmp_path, model, capfd, change, message):
    name, contrast = change.pop("name", "T1w.nii"), change.pop("contrast", "")
    out = tmp_path / "out.nii"
    enhance(scan(tmp_path / name, **change), out, model, contrast=contrast)
    (warning,) = (line for line in said(capfd) if line.startswith("warning: "))
    assert f"{name} is unlike the scans that best.pt was trained on: " in warning
    assert message in warning
    beside = json.loads((tmp_path / "out.json").read_text())
    assert beside["warnings"] == [warning.removeprefix("warning: ")]
    assert beside["model"]["trained_on"] == KNOWN


def test_several_differences_are_one_warning(tmp_path, model, capfd):
    tags = {"BodyPartExamined": "HEAD"}  # which has a brain
    enhance(scan(tmp_path / "T2w.nii", 0.7, 0.3, tags), None, model)
    (warning,) = (line for line in said(capfd) if line.startswith("warning: "))
    assert warning.count("it learned") == 3


def test_an_unknown_contrast_is_said_and_can_be_named(tmp_path, model, capfd):
    enhance(scan(tmp_path / "a.nii"), None, model)
    line = "a.nii: nothing tells its contrast; the network knows FLAIR, T1; --contrast names it"
    assert said(capfd) == [line]
    enhance(scan(tmp_path / "a.nii"), None, model, contrast="t1w")
    assert said(capfd) == []
    enhance(scan(tmp_path / "a.nii"), None, "bicubic", scale=2)  # learned nothing
    assert said(capfd) == []


@pytest.mark.parametrize(
    ("name", "tags", "header", "expected"),
    [
        ("sub-01_ses-T2_T1w.nii.gz", {}, "", ("T1", "by its name")),
        ("patient_T2_FLAIR.nii", {}, "", ("FLAIR", "by its name")),
        ("t2s_uncropped.nii.gz", {}, "", ("T2*", "by its name")),
        ("IXI002-Guys-0828-PD.nii.gz", {}, "", ("PD", "by its name")),
        ("study1_T2W.nii.gz", {}, "", ("T2", "by its name")),
        ("t1_and_t2.nii", {}, "", ("", "")),
        ("a.nii", {"SeriesDescription": "t1_mprage_sag_p2"}, "",
         ("T1", "by the tag SeriesDescription")),
        ("a.nii", {"Modality": "CT"}, "", ("CT", "by the tag Modality")),
        ("a.nii", {"RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9}, "",
         ("T1", "by the times of its tags")),
        ("a.nii", {"RepetitionTime": 9, "EchoTime": 0.12, "InversionTime": 2.5}, "",
         ("FLAIR", "by the times of its tags")),
        ("a.nii", {"RepetitionTime": 5, "EchoTime": 0.1}, "", ("T2", "by the times of its tags")),
        ("a.nii", {"RepetitionTime": 3, "EchoTime": 0.02}, "", ("PD", "by the times of its tags")),
        ("a.nii", {}, "3T 3D GR TR=8.1ms/TE=3.7ms/FA=8deg", ("T1", "by the times in its header")),
        ("a.nii", {"EchoTime": "none", "RepetitionTime": None}, "spm - 3D normalized", ("", "")),
        ("a.nii", {"EchoTime": 0.1}, "", ("", "")),
    ],
)  # fmt: skip
def test_the_contrast_is_guessed(name, tags, header, expected):
    assert contrasts.guess(name, tags, header) == expected


def test_real_scans_and_the_packages_network(tmp_path, mirror, capfd):
    """A T1 of the training's kind, coarse as in training: no warning. The spine: one."""
    raw = mirror / "open_ms_data/longitudinal/raw/patient12"
    small = nibabel.load(raw / "study1_T1W.nii.gz").slicer[:, :, 20:22]
    from mrsr import degrade

    low = degrade(small, tmp_path / "study1_T1W_low.nii")
    capfd.readouterr()
    enhance(low)
    assert not [line for line in said(capfd) if line.startswith("warning")]
    spine = nibabel.load(mirror / "spine_sct/t2s_uncropped.nii.gz").slicer[:64, :64, 4:5]
    nibabel.save(spine, tmp_path / "t2s_cropped.nii")
    enhance(tmp_path / "t2s_cropped.nii")
    (warning,) = (line for line in said(capfd) if line.startswith("warning"))
    assert "contrast T2*, it learned FLAIR, T1, T2" in warning
    assert "voxels of 0.5 x 0.5 mm in the plane, it learned 1.03 to 1.82 mm" in warning


def test_a_store_says_what_is_in_it(tmp_path):
    volumes = builders.discs(2, (4, 20, 24))
    path = builders.write_store(tmp_path / "train.h5", volumes, contrast="T2w")
    found = about(path)
    assert found["contrasts"] == ["T2"] and found["organ"] == "brain"
    assert found["volumes"] == len(volumes)
    low, high = found["intensity"]
    assert min(v.min() for v in volumes) <= low < high <= max(v.max() for v in volumes) + 1e-3
    each = [{"path": f"p/study1_{word}.nii.gz"} for word in ("T1W", "FLAIR")][: len(volumes)]
    path = builders.write_store(tmp_path / "any.h5", volumes[:2], contrast="any", each=each)
    assert set(about(path)["contrasts"]) <= {"T1", "FLAIR"}


def test_the_list_of_models():
    done = CliRunner().invoke(app, ["enhance", "--list-models"])
    assert done.exit_code == 0
    entries = {entry["Model"]: entry for entry in catalogue.entries()}
    assert set(entries) == {"--scale 2", "--scale 4", "--model bicubic", "--model pseudo_inverse"}
    two = entries["--scale 2"]
    assert two["Contrasts"] == "FLAIR, T1, T2" and two["Organ"] == "brain"
    assert two["Input voxels (mm)"] == "1.03 to 1.82" and two["Undoes"] == "bicubic"
    assert boxed.sums_of()["x2.pt"].startswith(two["SHA-256"])
    assert all(name in done.output for name in entries)


def test_every_package_network_says_what_it_learned():
    for name in boxed.sums_of():
        known = checkpoint.load(boxed.FOLDER / name).provenance["trained_on"]
        assert set(known) == set(KNOWN)


def test_files_without_tags_or_with_broken_ones(tmp_path, model, capfd):
    path = scan(tmp_path / "T1w.nii")
    for text in ("{", "[1]", "\\xff"):
        path.with_suffix(".json").write_text(text)
        enhance(path, None, model)
    assert len(said(capfd)) == 3  # the contrast, each time
