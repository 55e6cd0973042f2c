"""fastMRI knees: signed links, pairs, splits. Run: pytest tests/datasets/test_fastmri.py"""

from __future__ import annotations

import io
import logging
import tarfile
import traceback
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from builders import write_knee, write_knees
from mrsr.datasets import fastmri
from mrsr.errors import UserError
from mrsr.raw import download
from publisher import serving

SECRET = "Signature=abc123topsecret"
SPLITS = ("train", "validation", "test")


def settings(source="", pairs="", **changes):
    values = fastmri.SETTINGS | {"pairs_train": 4, "pairs_test": 2, "validation": 1}
    return SimpleNamespace(**values | {"source": str(source), "pairs": str(pairs)} | changes)


@pytest.fixture
def source(tmp_path):
    """Six pairs for training, three for the test, and one file without a partner."""
    folder = tmp_path / "knee"
    write_knees(folder / "singlecoil_train", 1000, 6)
    write_knees(folder / "singlecoil_val", 2000, 3)
    write_knee(folder / "singlecoil_train" / "file1999.h5", "CORPD_FBK", "alone")
    return folder


def listed(folder):
    return {
        contrast: fastmri.list_volumes(folder, settings(), contrast) for contrast in ("PD", "PDFS")
    }


def test_the_papers_numbers_are_the_defaults():
    assert fastmri.SETTINGS["pairs_train"] == 227
    assert fastmri.SETTINGS["pairs_test"] == 24


def test_pairs_are_derived_from_a_folder(source, tmp_path):
    out = tmp_path / "out"
    fastmri.prepare(out, settings(source))
    first = (out / "pairs.csv").read_text()
    refs = listed(out)
    assert Counter(ref.split for ref in refs["PDFS"]) == {"train": 3, "validation": 1, "test": 2}
    pd = {ref.pair: ref for ref in refs["PD"]}
    for ref in refs["PDFS"]:
        assert pd[ref.pair].subject == ref.subject
        assert pd[ref.pair].split == ref.split
        assert ("val" in ref.path.parent.name) == (ref.split == "test")
        assert not ref.path.is_symlink()
    assert len(list(out.rglob("*.h5"))) == 12  # files without a place are not copied
    subjects = {name: {r.subject for r in refs["PD"] if r.split == name} for name in SPLITS}
    assert not subjects["train"] & subjects["test"]
    assert not subjects["train"] & subjects["validation"]
    fastmri.prepare(out, settings(source))
    assert (out / "pairs.csv").read_text() == first

    volume = fastmri.read_volume(refs["PDFS"][0])
    assert volume.stored.dtype == np.complex64
    assert volume.stored.shape == (3, 6, 6)
    assert volume.contrast == "PDFS" and volume.organ == "knee"


def test_equal_numbers_of_slices_are_preferred(tmp_path):
    folder = tmp_path / "knee" / "singlecoil_train"
    write_knee(folder / "file1.h5", "CORPD_FBK", "a", slices=3)
    write_knee(folder / "file2.h5", "CORPDFS_FBK", "a", slices=2)
    write_knee(folder / "file3.h5", "CORPDFS_FBK", "a", slices=3)
    write_knees(folder, 10, 2)
    fastmri.prepare(tmp_path / "out", settings(tmp_path / "knee"))
    assert "file1_file3" in {ref.pair for ref in listed(tmp_path / "out")["PD"]}


def test_a_flat_folder_is_dealt_out_by_hash(tmp_path):
    write_knees(tmp_path / "knee", 1000, 6)
    fastmri.prepare(tmp_path / "out", settings(tmp_path / "knee"))
    counts = Counter(ref.split for ref in listed(tmp_path / "out")["PD"])
    assert counts == {"train": 3, "validation": 1, "test": 2}


def test_a_list_of_pairs(source, tmp_path):
    pairs = tmp_path / "pairs.csv"
    # the order within a row is free, a likeness in the third column is not a split
    pairs.write_text(
        "file1000, file1001, 0.31\nfile1003, file1002, 0.32\nfile1004,file1007,0.3\n"
        "file2000, file2001, 0.33\n"
    )
    fastmri.prepare(tmp_path / "out", settings(source, pairs))
    refs = listed(tmp_path / "out")
    assert {ref.pair for ref in refs["PD"]} == {
        "file1000_file1001",
        "file1002_file1003",
        "file1004_file1007",
        "file2000_file2001",
    }
    assert Counter(ref.split for ref in refs["PD"]) == {"train": 2, "validation": 1, "test": 1}


def test_a_list_with_splits_and_a_folder_of_lists(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.csv").write_text("pd,pdfs,split\nfile1000,file1001,train\nfile1002,file1003,val\n")
    (lists / "b.csv").write_text("file1004.h5,file1005.h5,test\n\n")
    fastmri.prepare(tmp_path / "out", settings(source, lists))
    splits = {ref.pair: ref.split for ref in listed(tmp_path / "out")["PD"]}
    assert splits == {
        "file1000_file1001": "train",
        "file1002_file1003": "validation",
        "file1004_file1005": "test",
    }


def test_one_person_stays_in_one_split(source, tmp_path):
    pairs = tmp_path / "pairs.csv"
    # file1000 is of the same person as file1001
    pairs.write_text("file1000,file1003,train\nfile1002,file1005,train\nfile1006,file1007,test\n")
    with pytest.raises(UserError, match="too few"):  # both train pairs hang together
        fastmri.prepare(tmp_path / "out", settings(source, pairs))
    pairs.write_text("file1000,file1003,train\nfile1002,file1005,test\nfile1006,file1007,train\n")
    with pytest.raises(UserError, match="shares a person"):
        fastmri.prepare(tmp_path / "out", settings(source, pairs))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file1000,file9999\n", r"pairs.csv line 1: no file file9999\.h5"),
        ("file1000,../file1001\n", "two file stems"),
        ("file1000\n", "two file stems"),
        ("file1000,file1002\n", "the other CORPDFS_FBK"),
        ("file1000,file1001,exam\n", "'exam' is none of"),
        ("\n", "no pairs"),
    ],
)
def test_a_wrong_list_is_said(source, tmp_path, text, message):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(text)
    with pytest.raises(UserError, match=message):
        fastmri.prepare(tmp_path / "out", settings(source, pairs))
    with pytest.raises(UserError, match="cannot read the pair list"):
        fastmri.prepare(tmp_path / "out", settings(source, tmp_path / "none.csv"))
    assert not (tmp_path / "out").exists()


def test_no_pairs_and_no_files_are_said(tmp_path):
    write_knee(tmp_path / "knee" / "file1.h5", "CORPD_FBK", "a")
    with pytest.raises(UserError, match="list the pairs in a CSV"):
        fastmri.prepare(tmp_path / "out", settings(tmp_path / "knee"))
    with pytest.raises(UserError, match=r"no \.h5 files"):
        fastmri.prepare(tmp_path / "out", settings(tmp_path))
    with pytest.raises(UserError, match="no folder"):
        fastmri.prepare(tmp_path / "out", settings(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="snakemake"):
        fastmri.list_volumes(tmp_path / "out", settings(), "PD")
    with pytest.raises(UserError, match="no contrast 'T1'"):
        fastmri.list_volumes(tmp_path / "out", settings(), "T1")


# --- signed links -------------------------------------------------------------------------------


def tar_xz(folder, *more):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=0) as archive:
        archive.add(folder, arcname=folder.name)
        for info in more:
            archive.addfile(info)
    return out.getvalue()


@pytest.fixture
def publisher(source, tmp_path, monkeypatch):
    write_knees(
        source / "singlecoil_train", 1000, 6, size=150
    )  # large enough to break in the middle
    files = {
        "knee_singlecoil_train.tar.xz": tar_xz(source / "singlecoil_train"),
        "knee_singlecoil_val.tar.xz": tar_xz(source / "singlecoil_val"),
    }
    monkeypatch.setattr(download, "FIRST_WAIT", 0.0)
    with serving(files) as running:
        for name, (variable, archive) in fastmri.ARCHIVES.items():
            assert name in archive.replace("knee_", "")
            monkeypatch.setenv(variable, f"{running.url}/{archive}?{SECRET}")
        yield running


def assert_secret(capfd, caplog, folder, error=None):
    printed = capfd.readouterr()
    texts = [printed.out, printed.err, caplog.text]
    if error is not None:
        texts.append("".join(traceback.format_exception(error)))
    texts += [path.read_text("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if SECRET in text]


def test_signed_links_bring_both_archives(publisher, tmp_path, capfd, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    publisher.breaks["knee_singlecoil_train.tar.xz"] = [150_000]
    publisher.answers["knee_singlecoil_val.tar.xz"] = [503]
    out = tmp_path / "out"
    fastmri.prepare(out, settings())
    assert sorted(path.name for path in out.iterdir()) == [
        "pairs.csv",
        "singlecoil_train",
        "singlecoil_train.json",
        "singlecoil_val",
        "singlecoil_val.json",
    ]
    assert any(asked.startswith("bytes=") for _, asked in publisher.requests)
    assert all(SECRET in path for path, _ in publisher.requests)
    assert len(listed(out)["PDFS"]) == 6
    assert_secret(capfd, caplog, out)

    for variable, _ in fastmri.ARCHIVES.values():  # the links have expired by now
        monkeypatch.delenv(variable)
    before = len(publisher.requests)
    fastmri.prepare(out, settings())
    assert len(publisher.requests) == before


@pytest.mark.parametrize("trouble", ["expired", "cut", "link", "escape", "no server", "empty"])
def test_signed_links_stay_secret_in_trouble(
    publisher, tmp_path, capfd, caplog, monkeypatch, trouble
):
    caplog.set_level(logging.DEBUG)
    out, archive = tmp_path / "out", "knee_singlecoil_train.tar.xz"
    if trouble == "expired":
        publisher.answers[archive] = [403]
    elif trouble == "cut":
        publisher.files[archive] = publisher.files[archive][:100_000]
    elif trouble in ("link", "escape"):
        info = tarfile.TarInfo("../evil.h5" if trouble == "escape" else "link.h5")
        if trouble == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        publisher.files[archive] = tar_xz(tmp_path / "knee" / "singlecoil_val", info)
    elif trouble == "no server":
        monkeypatch.setenv("FASTMRI_KNEE_TRAIN_URL", f"http://127.0.0.1:1/{archive}?{SECRET}")
    else:
        (tmp_path / "nothing").mkdir()
        publisher.files[archive] = tar_xz(tmp_path / "nothing")
    with pytest.raises(UserError) as caught:
        fastmri.prepare(out, settings())
    assert archive in str(caught.value)
    assert not (out / "singlecoil_train").exists()
    assert not list(tmp_path.rglob("evil.h5"))
    assert_secret(capfd, caplog, out, caught.value)


def test_a_link_in_the_settings_is_refused_unseen(tmp_path):
    with pytest.raises(UserError, match="FASTMRI_KNEE_TRAIN_URL") as caught:
        fastmri.prepare(tmp_path / "out", settings(f"https://host/x.tar.xz?{SECRET}"))
    assert SECRET not in str(caught.value)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    for variable, _ in fastmri.ARCHIVES.values():
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match="signed link of knee_singlecoil_train"):
        fastmri.prepare(tmp_path / "out", settings())
