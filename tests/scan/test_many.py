"""Folders of scans and BIDS datasets through `mrsr enhance`. Run: pytest tests/scan/test_many.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import real_scans
from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.raw.subjects import bids as read_name
from mrsr.scan import bids, many
from mrsr.scan.enhance import enhance

PLAIN = ("-m", "bicubic", "--scale", "2")


def run(*given: object) -> tuple[int, str, str]:
    """Exit code, output and error of `mrsr enhance` with the bicubic method."""
    done = CliRunner().invoke(app, ["enhance", *PLAIN, *map(str, given)])
    error = done.exception if isinstance(done.exception, UserError) else None
    return error.exit_code if error else done.exit_code, done.stdout, done.stderr + str(error or "")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """BIDS: two people, one of them with a broken scan, a mask, an fMRI run, a derivative."""
    root = tmp_path / "study"
    anat = real_scans.NIBABEL / "anatomical.nii"
    places = {
        "sub-01/anat/sub-01_T1w.nii": anat,
        "sub-01/anat/sub-01_desc-brain_mask.nii": anat,
        "sub-01/func/sub-01_task-rest_bold.nii": real_scans.NIBABEL / "functional.nii",
        "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_T2w.nii": anat,
        "sub-03/anat/sub-03_T1w.nii": anat,
        "derivatives/other/sub-01/anat/sub-01_T1w.nii": anat,
    }
    for inside, source in places.items():
        (root / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / inside)
    broken = root / "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_T2w.nii"
    broken.write_bytes(broken.read_bytes()[:900])
    about = {"Name": "A study", "BIDSVersion": "1.9.0", "License": "CC0"}
    (root / bids.DESCRIPTION).write_text(json.dumps(about))
    tags = {"EchoTime": 0.003, "RepetitionTime": 2.3}
    (root / "sub-01/anat/sub-01_T1w.json").write_text(json.dumps(tags))
    return root


def test_a_bids_dataset(dataset):
    code, table, said = run(dataset, "--bids")
    assert code == 2 and "1 of 3 scans failed" in said
    made = dataset / "derivatives/mrsr"
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("*.*")) == [
        "dataset_description.json",
        "sub-01/anat/sub-01_desc-mrsr_T1w.json",
        "sub-01/anat/sub-01_desc-mrsr_T1w.nii.gz",
        "sub-03/anat/sub-03_desc-mrsr_T1w.json",
        "sub-03/anat/sub-03_desc-mrsr_T1w.nii.gz",
    ]
    about = json.loads((made / bids.DESCRIPTION).read_text())
    assert about["DatasetType"] == "derivative" and about["BIDSVersion"] == "1.9.0"
    assert about["GeneratedBy"][0]["Name"] == "mrsr" and about["License"] == "CC0"
    beside = json.loads((made / "sub-01/anat/sub-01_desc-mrsr_T1w.json").read_text())
    assert beside["Sources"] == ["bids::sub-01/anat/sub-01_T1w.nii"]
    assert beside["EchoTime"] == 0.003 and beside["note"] == "an estimate, not for diagnosis"
    rows = {line.split()[0]: line.split()[1] for line in table.splitlines()[2:]}
    assert rows == {
        "sub-01/anat/sub-01_T1w.nii": "done",
        "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_T2w.nii": "failed",
        "sub-03/anat/sub-03_T1w.nii": "done",
    }
    assert "[2/3]" in said and "truncated or corrupt" in said  # the reason, as it happens
    assert "in func, not anatomical: sub-01/func" in said and "a mask by its name" in said
    expected = enhance(real_scans.NIBABEL / "anatomical.nii", None, "bicubic", scale=2).get_fdata()
    got = nibabel.load(made / "sub-03/anat/sub-03_desc-mrsr_T1w.nii.gz").get_fdata()
    assert np.array_equal(got, expected)


def test_what_is_there_is_kept_and_the_rest_made(dataset):
    run(dataset, "--bids")
    made = dataset / "derivatives/mrsr/sub-01/anat/sub-01_desc-mrsr_T1w.nii.gz"
    before = made.read_bytes()
    made.write_bytes(b"mine")
    shutil.copy(
        real_scans.NIBABEL / "anatomical.nii",
        dataset / "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_T2w.nii",
    )
    code, table, _ = run(dataset, "--bids")
    assert code == 0 and made.read_bytes() == b"mine"
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["kept", "done", "kept"]
    assert run(dataset, "--bids", "--overwrite")[0] == 0 and made.read_bytes() == before


def test_a_folder_of_scans(tmp_path):
    folder = tmp_path / "scans"
    (folder / "anna").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for inside in ("anna/t1.nii", "ben.nii", ".hidden/t1.nii", "old_mrsr.nii"):
        shutil.copy(real_scans.NIBABEL / "anatomical.nii", folder / inside)
    (folder / "notes.txt").write_text("no scan")
    (folder / "scan.nrrd").write_text("NRRD")
    code, table, said = run(folder)
    assert code == 0 and table.count("done") == 2
    out = tmp_path / "scans_mrsr"
    assert (out / "anna/t1_mrsr.nii.gz").is_file() and (out / "ben_mrsr.json").is_file()
    assert "made by mrsr: old_mrsr.nii" in said and "NRRD, which needs" in said
    # into the folder itself: what it made is not taken again
    assert run(folder, folder)[1].count("done") == 2
    assert run(folder, folder)[1].count("kept") == 2


def test_what_no_folder_can_be_done_with_is_told_first(tmp_path, dataset):
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(real_scans.NIBABEL / "anatomical.nii", folder / "a.nii")
    for given, message in {
        (folder, tmp_path / "out.nii.gz"): "must be a folder",
        (folder, "--bids"): "has no dataset_description.json",
        (tmp_path / "none", "--bids"): "is no folder",
        (folder, "--series", "3"): "--series is for DICOM folders",
        (folder, "--guide", folder / "a.nii"): "a guide belongs to one scan",
        (folder, "--dtype", "int8"): "dtype is int8",
        (folder, "--scale", "7"): "7",
    }.items():
        code, _, said = run(*given)
        assert code == 2 and message in said, (given, said)
    with pytest.raises(UserError, match=r"scans is a folder of scans; give one of its files"):
        enhance(folder, None, "bicubic", scale=2)
    shutil.copy(folder / "a.nii", folder / "a.mgz")
    assert "a.mgz and a.nii would both become a_mrsr.nii.gz" in run(folder)[2]
    assert not (tmp_path / "scans_mrsr").exists()
    other = dataset / "derivatives/other"
    (other / bids.DESCRIPTION).write_text('{"GeneratedBy": [{"Name": "fmriprep"}]}')
    assert "is not of mrsr" in run(dataset, other, "--bids")[2]


def test_a_folder_with_nothing_to_enhance(tmp_path):
    (tmp_path / "masks").mkdir()
    shutil.copy(real_scans.NIBABEL / "anatomical.nii", tmp_path / "masks/sub-01_mask.nii")
    code, _, said = run(tmp_path / "masks")
    assert code == 2 and "has no scan to enhance" in said and "a mask by its name" in said


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_desc-mrsr_T1w.nii.gz"),
        (
            "sub-1/ses-2/anat/sub-1_ses-2_run-1_desc-preproc_FLAIR.nii",
            "sub-1/ses-2/anat/sub-1_ses-2_run-1_desc-mrsr_FLAIR.nii.gz",
        ),
    ],
)
def test_names_of_derivatives(inside, expected):
    assert bids.derived(inside) == expected
    assert read_name(expected).suffix == read_name(inside).suffix
    with pytest.raises(UserError, match=r"anna_T1w\.nii has no BIDS name"):
        bids.derived("anat/anna_T1w.nii")


def test_a_full_disk_or_a_lost_folder_is_a_failed_scan(tmp_path, monkeypatch):
    for name in ("a", "b"):
        shutil.copy(real_scans.NIBABEL / "anatomical.nii", tmp_path / f"{name}.nii")
    calls = []

    def lost(source: Path, *_: object, **__: object) -> None:
        calls.append(source.name)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mrsr.scan.enhance.enhance", lost)
    found = many.enhance_folder(tmp_path, tmp_path / "out", model="bicubic", scale=2)
    assert calls == ["a.nii", "b.nii"] and [one.result for one in found] == ["failed"] * 2
    with pytest.raises(UserError, match="2 of 2 scans failed"):
        many.check(found)
