"""Places of scans: folders without a name, inputs where the output goes, odd tags, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from mrsr import degrade, enhance, score
from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.raw.scan_formats import content
from mrsr.scan import bids, many, sidecar
from mrsr.scan.output import default_output
from mrsr.scan.tags import tags_beside
from mrsr.scan.view.serving import check_save
from mrsr.scan.view.volumes import read

PLAIN = {"model": "bicubic", "scale": 2}


def saved(path: Path, shape: tuple[int, ...] = (12, 10, 2), peak: float = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).random(shape).astype(np.float32) * peak
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])), path)
    return path


def dataset(root: Path, tags: str) -> Path:
    for subject in ("sub-01", "sub-02"):
        saved(root / subject / "anat" / f"{subject}_T1w.nii.gz")
    (root / "sub-01/anat/sub-01_T1w.json").write_text(tags)
    (root / bids.DESCRIPTION).write_text('{"Name": "A study"}')
    return root


def test_folders_without_a_name_of_their_own(tmp_path, monkeypatch):
    saved(tmp_path / "study/scans/a.nii.gz")
    (tmp_path / "study/scans/deep").mkdir()
    monkeypatch.chdir(tmp_path / "study/scans")
    assert [one.result for one in many.enhance_folder(Path(), **PLAIN)] == ["done"]
    made = tmp_path / "study/scans_mrsr/a_mrsr.nii.gz"
    assert made.is_file()
    monkeypatch.chdir(tmp_path / "study/scans/deep")
    assert [one.result for one in many.enhance_folder(Path(".."), **PLAIN)] == ["kept"]
    assert default_output(Path()).resolve() == tmp_path / "study/scans/deep_mrsr.nii.gz"


def test_a_folder_s_outputs_may_go_above_it(tmp_path, monkeypatch):
    saved(tmp_path / "scans/a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert [one.result for one in many.enhance_folder(Path("scans"), Path(), **PLAIN)] == ["done"]
    assert Path("a_mrsr.nii.gz").is_file()
    inside = tmp_path / "scans/out"  # by another spelling than the folder's
    saved(inside / "b.nii.gz")
    assert len(many.enhance_folder(Path("scans"), inside, **PLAIN)) == 1


def test_no_input_is_replaced_whatever_is_asked(tmp_path):
    scan = saved(tmp_path / "a.nii.gz")
    before = scan.read_bytes()
    (tmp_path / "link.nii.gz").symlink_to(scan)
    other = tmp_path / "out.nii.gz"
    for output, quality in ((scan, None), (tmp_path / "link.nii.gz", None), (other, scan)):
        with pytest.raises(UserError, match=r"\.nii\.gz is an input as well; give another name"):
            enhance(scan, output, overwrite=True, quality=quality, **PLAIN)
    with pytest.raises(UserError, match="is an input as well"):
        degrade(scan, scan, overwrite=True)
    assert scan.read_bytes() == before and not other.exists()


def test_one_name_for_two_outputs_in_another_spelling(tmp_path, monkeypatch):
    scan = saved(tmp_path / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is the output already"):
        enhance(scan, "out.nii.gz", quality=tmp_path / "out.nii.gz", **PLAIN)


def test_places_that_cannot_be_written_are_told_first(tmp_path, monkeypatch):
    scan = saved(tmp_path / "a.nii.gz")
    monkeypatch.setattr("mrsr.scan.enhance.open_scan", lambda *_: pytest.fail("read the scan"))
    (tmp_path / "out.json").mkdir()
    with pytest.raises(UserError, match=r"out\.json is a folder"):
        enhance(scan, tmp_path / "out.nii.gz", overwrite=True, **PLAIN)
    (tmp_path / "dead").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="cannot write"):
        enhance(scan, tmp_path / "dead/out.nii.gz", **PLAIN)
    with pytest.raises(UserError, match=r"must be named \.nii"):
        enhance(scan, "", **PLAIN)


def test_names_that_no_file_can_have(tmp_path):
    done = CliRunner().invoke(app, ["enhance", "n" * 300 + ".nii.gz"])
    assert isinstance(done.exception, UserError) and "File name too long" in str(done.exception)
    with pytest.raises(UserError, match="File name too long"):
        content(Path("n" * 300 + ".nii"))


@pytest.mark.parametrize("tags", ['{"EchoTime": NaN, "EchoTrainLength": 1e999}', "[" * 99999,
                                  r'{"SeriesDescription": "\ud800"}'])  # fmt: skip
def test_odd_tags_beside_a_scan_of_a_dataset(tmp_path, tags):
    root = dataset(tmp_path / "study", tags)
    found = many.enhance_folder(root, bids=True, **PLAIN)
    assert [one.result for one in found] == ["done", "done"]
    made = root / "derivatives/mrsr/sub-01/anat/sub-01_desc-mrsr_T1w.json"
    entries = json.loads(made.read_text(), parse_constant=pytest.fail)
    assert entries["Sources"] == ["bids::sub-01/anat/sub-01_T1w.nii.gz"]
    assert entries.get("EchoTime") is None


def test_tags_after_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"EchoTime": 0.1}', encoding="utf-8")
    assert tags_beside(tmp_path / "a.nii.gz") == {"EchoTime": 0.1}


@pytest.mark.parametrize("made", ['["mrsr"]', "[null]", '"mrsr"'])
def test_an_odd_description_of_derivatives_is_not_ours(tmp_path, made):
    root = dataset(tmp_path / "study", "{}")
    (root / "derivatives/mrsr").mkdir(parents=True)
    (root / "derivatives/mrsr" / bids.DESCRIPTION).write_text(f'{{"GeneratedBy": {made}}}')
    with pytest.raises(UserError, match="is not of mrsr"):
        many.enhance_folder(root, bids=True, **PLAIN)


def test_values_that_leave_float32_are_told_and_nothing_is_written(tmp_path):
    values = np.zeros((16, 16, 2), np.float32)
    values[4:12, 4:12] = 3.4e38
    scan = nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1]))
    for run in (
        lambda out: enhance(scan, out, **PLAIN),
        lambda out: degrade(scan, out, kind="kspace"),
    ):
        with pytest.raises(UserError, match="the output would be beyond float32"):
            run(tmp_path / "out.nii.gz")
    assert not list(tmp_path.iterdir())


def test_the_command_in_the_json_has_no_folder_of_this_machine(monkeypatch):
    words = ["enhance", "/data/anna/a b.nii", "sub/b.nii", "--quality=/data/anna/q.nii"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/mrsr", *words])
    assert sidecar.command() == "mrsr enhance 'a b.nii' sub/b.nii --quality=q.nii"


@pytest.mark.parametrize("option", [{"tile": 64}, {"batch": 2}, {"contrast": "T1"}])
def test_through_plane_refuses_what_it_would_not_use(tmp_path, option):
    with pytest.raises(UserError, match="has no use for batch, tile and contrast"):
        enhance(saved(tmp_path / "a.nii.gz"), None, through_plane=0, **option)


def test_an_untrained_method_has_the_usual_scale_too(tmp_path):
    assert enhance(saved(tmp_path / "a.nii.gz"), None, "bicubic").shape == (24, 20, 2)


def test_a_parameter_file_that_is_not_there_is_told(tmp_path):
    scan = str(saved(tmp_path / "a.nii.gz"))
    done = CliRunner().invoke(app, ["score", scan, scan, "--params", str(tmp_path / "own.yaml")])
    assert isinstance(done.exception, UserError) and "own.yaml" in str(done.exception)


def test_the_viewer_does_not_advise_an_option_that_it_lacks(tmp_path):
    scans = [saved(tmp_path / "a.nii.gz"), saved(tmp_path / "b.nii.gz", (12, 10, 2, 3))]
    with pytest.raises(UserError, match=r"b\.nii\.gz has 3 volumes") as found:
        read(scans)
    assert "--volume" not in str(found.value)


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    saved(tmp_path / "scans/a.nii.gz")
    (tmp_path / "scans/closed").mkdir()
    listed = os.scandir

    def scandir(place: str) -> object:  # the tests may run as root, for whom nothing is closed
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return listed(place)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=r"cannot read .*closed: Permission denied"):
        many.enhance_folder(tmp_path / "scans", **PLAIN)


def test_closed_places_are_told_by_score_and_view(monkeypatch):
    def closed(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.is_dir", closed)
    for run in (lambda: score("a.npy", "b.npy"), lambda: check_save(Path("a.html"), False)):
        with pytest.raises(UserError, match=r"cannot read .*: Permission denied"):
            run()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(tmp_path, number):
    saved(tmp_path / "a.nii.gz", (256, 256, 40))
    words = [sys.executable, "-m", "mrsr.cli", "enhance", "a.nii.gz", "out.nii", "--contrast", "T1"]
    # a test run under nohup ignores SIGHUP, and its children would too
    before = signal.signal(number, signal.SIG_DFL)
    try:
        started = subprocess.Popen(words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    finally:
        signal.signal(number, before)
    with started as run:
        end = time.monotonic() + 120
        while not list(tmp_path.glob(".tmp-*")) and run.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        run.send_signal(number)
    assert run.returncode == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
