"""IXI from a publisher on this machine, in the publisher's layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections import Counter
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from mrsr.datasets import ixi
from mrsr.errors import UserError
from mrsr.raw import download
from publisher import serving

EVERYWHERE = [f"IXI{number:03}-Guys-{900 + number:04}" for number in range(10, 15)]
SIZES = {"train": 3, "test": 1, "validation": 1}


def nifti(slices, seed):
    data = np.random.default_rng(seed).integers(1, 900, (4, 4, slices)).astype(np.int16)
    return nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 1.2, 1.0])).to_bytes()


def gzipped(data):
    return gzip.compress(data, mtime=0)


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname, data = tarfile.SYMTYPE, "/etc/passwd", b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def archives():
    """Three archives: six people are in all, one of them with few PD slices; one has no T2."""
    result = {}
    for seed, contrast in enumerate(ixi.MD5):
        slices = dict.fromkeys(EVERYWHERE, 100) | {"IXI020-HH-1236": 100}
        if contrast == "PD":
            slices["IXI020-HH-1236"] = 29
        if contrast != "T2":
            slices["IXI030-IOP-0555"] = 100
        result[f"IXI-{contrast}.tar"] = tar(
            (f"{name}-{contrast}.nii.gz", gzipped(nifti(count, seed)))
            for name, count in slices.items()
        )
    # enough for a connection to break in the middle
    filler = np.random.default_rng(9).bytes(400_000)
    result["IXI-T1.tar"] = tar(
        [
            *(
                (f"{name}-T1.nii.gz", gzipped(nifti(100, 1)))
                for name in [*EVERYWHERE, "IXI020-HH-1236", "IXI030-IOP-0555"]
            ),
            ("notes.txt", filler),
        ]
    )
    return result


def pin(monkeypatch, files):
    digests = {
        contrast: hashlib.md5(files[f"IXI-{contrast}.tar"], usedforsecurity=False).hexdigest()
        for contrast in ixi.MD5
    }
    monkeypatch.setattr(ixi, "MD5", digests)


@pytest.fixture
def publisher(monkeypatch):
    files = archives()
    pin(monkeypatch, files)
    monkeypatch.setattr(ixi, "SIZES", SIZES)
    monkeypatch.setattr(download, "FIRST_WAIT", 0.0)
    with serving(files) as running:
        yield running


def settings(source, subjects=""):
    return SimpleNamespace(source=str(source), subjects=str(subjects))


def test_the_publishers_sums_and_sizes():
    assert ixi.MD5["T1"] == "34901a0593b41dd19c1a1f746eac2d58"
    assert ixi.MD5["T2"] == "e3140d78730ecdd32ba92da48c0a9aaa"
    assert ixi.MD5["PD"] == "88ecd9d1fa33cb4a2278183b42ffd749"
    assert ixi.SIZES == {"train": 500, "test": 70, "validation": 6}


def test_download_break_off_resume_unpack_split(publisher, tmp_path):
    publisher.breaks["IXI-T1.tar"] = [200_000]
    publisher.answers["IXI-T2.tar"] = [503]
    folder = tmp_path / "ixi"
    ixi.prepare(folder, settings(publisher.url))
    t1 = [asked for path, asked in publisher.requests if "T1" in path]
    assert len(t1) == 2 and t1[1].startswith("bytes=")
    assert sorted(path.name for path in folder.iterdir()) == [
        "IXI-PD", "IXI-PD.json", "IXI-T1", "IXI-T1.json", "IXI-T2", "IXI-T2.json",
    ]  # fmt: skip
    assert len(list((folder / "IXI-T1").iterdir())) == 7

    before = len(publisher.requests)
    ixi.prepare(folder, settings(publisher.url))
    assert len(publisher.requests) == before  # complete: nothing is fetched again

    rows = ixi.make_split(folder)
    assert [subject for subject, _ in rows] == EVERYWHERE
    assert Counter(split for _, split in rows) == SIZES
    splits = {}
    for contrast in ("PD", "T1", "T2"):
        refs = ixi.list_volumes(folder, settings(publisher.url), contrast)
        assert [ref.subject for ref in refs] == EVERYWHERE
        splits[contrast] = {ref.subject: ref.split for ref in refs}
        assert {bool(ref.pair) for ref in refs} == {contrast != "T1"}
        volume = ixi.read_volume(refs[0])
        assert volume.stored.shape == (100, 4, 4)
        assert volume.stored.dtype == np.int16
    assert splits["PD"] == splits["T1"] == splits["T2"] == dict(rows)


def test_the_list_is_written_read_and_checked(publisher, tmp_path, capsys):
    folder, path = tmp_path / "ixi", tmp_path / "splits" / "ixi.csv"
    ixi.prepare(folder, settings(publisher.url))
    ixi.main(["--split", str(folder), str(path)])
    assert "IXI020-HH-1236-PD has 29 slices" in capsys.readouterr().err
    assert path.read_text().startswith("subject,split\nIXI010-Guys-0910,")
    refs = ixi.list_volumes(folder, settings("", path), "T1")
    assert {ref.subject: ref.split for ref in refs} == dict(ixi.make_split(folder))

    text = path.read_text()
    for wrong, message in {
        text.replace(",validation", ",train"): "must have 3/1/1",
        text + EVERYWHERE[0] + ",train\n": "twice",
        text.replace(EVERYWHERE[0], "../../x"): "line 2",
        text.replace(",test", ",exam"): "expected a subject",
        "name,part\n": "no column subject and split",
        "subject,split\n": "must have",
    }.items():
        path.write_text(wrong)
        with pytest.raises(UserError, match=message):
            ixi.list_volumes(folder, settings("", path), "T1")


def test_people_short_of_the_split_are_counted(publisher, tmp_path):
    ixi.prepare(tmp_path, settings(publisher.url))
    (tmp_path / "IXI-PD" / f"{EVERYWHERE[0]}-PD.nii.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"4 people .* needs 5"):
        ixi.make_split(tmp_path)


def test_too_few_slices_are_refused_when_read(publisher, tmp_path):
    ixi.prepare(tmp_path, settings(publisher.url))
    ref = ixi.list_volumes(tmp_path, settings(""), "PD")[0]
    few = ref.path.with_name("IXI020-HH-1236-PD.nii.gz")
    with pytest.raises(UserError, match="29 slices, 96 are needed"):
        ixi.read_volume(type(ref)(path=few, subject="IXI020", contrast="PD", organ="brain"))


def test_a_wrong_checksum_stops_it(publisher, tmp_path, monkeypatch):
    monkeypatch.setattr(ixi, "MD5", ixi.MD5 | {"T1": "0" * 32})
    with pytest.raises(UserError, match=r"IXI-T1\.tar: wrong checksum"):
        ixi.prepare(tmp_path, settings(publisher.url))
    assert not (tmp_path / "IXI-T1").exists()
    assert not list(tmp_path.glob("IXI-T1*"))


@pytest.mark.parametrize("member", [("../IXI099-HH-1111-PD.nii.gz", b"x"), ("link", None)])
def test_an_archive_that_wants_out_is_refused(publisher, tmp_path, monkeypatch, member):
    good = (f"{EVERYWHERE[0]}-PD.nii.gz", gzipped(nifti(100, 0)))
    publisher.files["IXI-PD.tar"] = tar([good, member])
    pin(monkeypatch, publisher.files)
    folder = tmp_path / "ixi"
    with pytest.raises(UserError, match="nothing was unpacked"):
        ixi.prepare(folder, settings(publisher.url))
    assert sorted(path.name for path in folder.iterdir()) == ["IXI-PD.tar"]
    assert [path.name for path in tmp_path.iterdir()] == ["ixi"]


def test_a_folder_of_archives_serves_too(publisher, tmp_path):
    for name, data in publisher.files.items():
        (tmp_path / name).write_bytes(data)
    ixi.prepare(tmp_path / "ixi", settings(tmp_path.as_uri()))
    assert len(ixi.list_volumes(tmp_path / "ixi", settings(""), "T2")) == 5
    assert (tmp_path / "IXI-T1.tar").is_file()  # the user's own copy stays
    assert publisher.requests == []


def test_an_interrupted_unpacking_is_repeated(publisher, tmp_path):
    ixi.prepare(tmp_path, settings(publisher.url))
    (tmp_path / "IXI-T1" / f"{EVERYWHERE[0]}-T1.nii.gz").unlink()
    ixi.prepare(tmp_path, settings(publisher.url))
    assert len(list((tmp_path / "IXI-T1").iterdir())) == 7


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(UserError, match="no file or folder"):
        ixi.list_volumes(tmp_path, settings(""), "T1")
    with pytest.raises(UserError, match="no contrast 'FLAIR'"):
        ixi.list_volumes(tmp_path, settings(""), "FLAIR")


# --- line 6 of the faults found by using it: a stray file in a raw folder -------------------------


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


STRAY = {
    ".DS_Store": b"\0\0\0\1Bud1",
    "IXI010-Guys-0910-T1_mask.nii.gz": b"my mask",
    "._IXI010-Guys-0910-T1.nii.gz": b"\0\5\26\7",
    "notes.txt": b"mine",
}


@pytest.mark.parametrize("stray", STRAY)
def test_line_6_a_stray_file_does_no_harm_and_survives(publisher, tmp_path, stray):
    ixi.prepare(tmp_path, settings(publisher.url))
    (tmp_path / "IXI-T1" / stray).write_bytes(STRAY[stray])
    before, asked = contents(tmp_path / "IXI-T1"), len(publisher.requests)
    brought = ixi.prepare(tmp_path, settings(publisher.url))
    assert len(publisher.requests) == asked  # complete: nothing is fetched
    assert contents(tmp_path / "IXI-T1") == before
    assert brought.used == 20 and tmp_path / "IXI-T1" / stray not in brought.files
    told = [name for name, _ in brought.left_out]
    assert told == ([] if stray.startswith(".") else [f"IXI-T1/{stray}"])
    refs = ixi.list_volumes(tmp_path, settings(""), "T1")
    assert [ref.subject for ref in refs] == EVERYWHERE


@pytest.mark.parametrize("damage", ["missing", "truncated", "no marker", "half a marker"])
def test_line_6_what_is_missing_is_brought_beside_a_persons_file(publisher, tmp_path, damage):
    ixi.prepare(tmp_path, settings(publisher.url))
    whole = contents(tmp_path / "IXI-T1")
    scan, marker = tmp_path / "IXI-T1" / f"{EVERYWHERE[0]}-T1.nii.gz", tmp_path / "IXI-T1.json"
    if damage == "truncated":
        scan.write_bytes(scan.read_bytes()[:-9])
    else:
        scan.unlink()
    if damage == "no marker":  # and fewer than the split needs
        marker.unlink()
        for name in EVERYWHERE[1:3]:
            (scan.parent / f"{name}-T1.nii.gz").unlink()
    if damage == "half a marker":
        marker.write_text(marker.read_text()[:30])
    (tmp_path / "IXI-T1" / "my mask.nii.gz").write_bytes(b"mine")
    ixi.prepare(tmp_path, settings(publisher.url))
    assert contents(tmp_path / "IXI-T1") == whole | {"my mask.nii.gz": b"mine"}
    assert not list(tmp_path.rglob(".unpack-*")) and not list(tmp_path.rglob("*.tar"))
    assert len(publisher.requests) == 4  # and then it is complete
    ixi.prepare(tmp_path, settings(publisher.url))
    assert len(publisher.requests) == 4


def test_line_6_a_persons_own_version_of_a_scan_is_never_replaced(publisher, tmp_path):
    own = tmp_path / "IXI-T1" / f"{EVERYWHERE[0]}-T1.nii.gz"
    own.parent.mkdir()
    own.write_bytes(b"bias-corrected by hand")
    with pytest.raises(UserError, match=r"IXI010-Guys-0910-T1\.nii\.gz differs from the file in"):
        ixi.prepare(tmp_path, settings(publisher.url))
    assert contents(own.parent) == {own.name: b"bias-corrected by hand"}


def test_line_6_the_marker_of_an_earlier_version_is_read(publisher, tmp_path):
    ixi.prepare(tmp_path, settings(publisher.url))
    marker = tmp_path / "IXI-T1.json"
    known = json.loads(marker.read_text())
    assert known["files"][f"{EVERYWHERE[0]}-T1.nii.gz"] > 100 and len(known["files"]) == 7
    marker.write_text(json.dumps(known | {"files": 7}))
    (tmp_path / "IXI-T1" / ".DS_Store").write_bytes(b"x")
    ixi.prepare(tmp_path, settings(publisher.url))
    assert len(publisher.requests) == 3


def test_line_6_an_archive_that_a_person_put_there_stays(publisher, tmp_path, capsys):
    own = tmp_path / "IXI-T1.tar"
    own.write_bytes(publisher.files[own.name])
    ixi.prepare(tmp_path, settings(publisher.url))
    assert own.is_file() and "is kept" in capsys.readouterr().err
    assert {path for path, _ in publisher.requests} == {"/IXI-PD.tar", "/IXI-T2.tar"}
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["IXI-T1.tar"]


def by_hand(publisher, folder, flat=False):
    """Unpacked by a person: with names as in the archives, and what else may be there."""
    for name, data in publisher.files.items():
        target = folder if flat else folder / name.removesuffix(".tar")
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(target, filter="data")
    (target / "readme.txt").write_text("mine")
    return folder


def test_line_6_folders_unpacked_by_a_person_are_used(publisher, tmp_path, capsys):
    raw = by_hand(publisher, tmp_path / "raw")
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    brought = ixi.prepare(raw, settings("http://127.0.0.1:9/nobody"))
    assert brought.used == 20 and publisher.requests == []
    assert (
        "IXI-T1 has no marker of mrsr and all scans: it is used as it is" in capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
    # a list decides which scans must be there
    listed = tmp_path / "ixi.csv"
    ixi.write_split(raw, listed)
    (raw / "IXI-T1" / "IXI030-IOP-0555-T1.nii.gz").unlink()
    assert ixi.prepare(raw, settings("", listed)).used == 19
    assert publisher.requests == []


@pytest.mark.parametrize("flat", [False, True])
def test_line_6_a_source_of_unpacked_scans_is_linked_to(publisher, tmp_path, flat):
    mine = by_hand(publisher, tmp_path / "mine", flat)
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    for _ in range(2):
        brought = ixi.prepare(tmp_path / "raw", settings(mine))
        assert brought.used == 20 and publisher.requests == []
    refs = ixi.list_volumes(tmp_path / "raw", settings(mine), "PD")
    assert [ref.subject for ref in refs] == EVERYWHERE
    assert ixi.read_volume(refs[0]).stored.shape == (100, 4, 4)
    moved = mine.rename(tmp_path / "moved")  # the links lead nowhere; the setting is corrected
    ixi.prepare(tmp_path / "raw", settings(moved))
    assert ixi.read_volume(refs[0]).stored.shape == (100, 4, 4)
    gone = [path for name in EVERYWHERE[:3] for path in moved.rglob(f"{name}*")]
    for path in gone:
        path.unlink()
    with pytest.raises(UserError, match="not those of all subjects"):
        ixi.prepare(tmp_path / "other", settings(moved))
    assert len(gone) == 9 and len(before) == 22
    assert {p.name for p in before} - {p.name for p in moved.rglob("*")} == {p.name for p in gone}
