"""The open MS scans: pinned, copied, listed, read. Run: pytest tests/datasets/test_openms.py"""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from mrsr.datasets import openms
from mrsr.errors import UserError
from publisher import serving


def settings(source=""):
    return SimpleNamespace(source=str(source))


@pytest.fixture
def synthetic(tmp_path, monkeypatch):
    """A mirror of tiny scans under the real names, pinned by their own checksums."""
    base = tmp_path / "mirror" / "open_ms_data" / "longitudinal" / "raw"
    random = np.random.default_rng(0)
    pins = {}
    for name in openms.SCANS:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = random.integers(1, 999, (6, 5, 3)).astype(np.uint16)
        nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 3.0, 1.0])), path)
        pins[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(openms, "SCANS", pins)
    monkeypatch.delenv("MRSR_MIRROR", raising=False)
    return tmp_path / "mirror"


def test_every_file_is_pinned_and_no_other():
    assert len(openms.SCANS) == 22
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in openms.SCANS.values())
    assert len(set(openms.SCANS.values())) == 22
    assert {name.partition("/")[0] for name in openms.SCANS} == {
        f"patient{number}" for number in ("01", "03", "04", "12", "19", "20")
    }
    assert openms.COMMIT in openms.PUBLISHER


@pytest.mark.parametrize("kind", ["folder", "file url", "checkout", "raw", "environment", "http"])
def test_it_comes_from_any_source(synthetic, tmp_path, monkeypatch, kind):
    raw = synthetic / "open_ms_data" / "longitudinal" / "raw"
    out = tmp_path / "out"
    if kind == "http":
        files = {name: (raw / name).read_bytes() for name in openms.SCANS}
        with serving(files) as publisher:
            openms.prepare(out, settings(publisher.url))
            openms.prepare(out, settings(publisher.url))
        assert len(publisher.requests) == len(openms.SCANS)
    elif kind == "environment":
        monkeypatch.setenv("MRSR_MIRROR", str(synthetic))
        openms.prepare(out, settings())
    else:
        sources = {
            "folder": synthetic,
            "file url": synthetic.as_uri(),
            "checkout": synthetic / "open_ms_data",
            "raw": raw,
        }
        openms.prepare(out, settings(sources[kind]))
    for name in openms.SCANS:
        assert (out / name).read_bytes() == (raw / name).read_bytes()
        assert not (out / name).is_symlink()


def test_what_is_listed(synthetic, tmp_path):
    openms.prepare(tmp_path / "out", settings(synthetic))
    t1 = openms.list_volumes(tmp_path / "out", settings(), "T1")
    t2 = openms.list_volumes(tmp_path / "out", settings(), "T2")
    assert (len(t1), len(t2)) == (8, 7)
    assert t1 == sorted(t1, key=lambda ref: ref.path)
    with_all = {"patient01", "patient03", "patient04", "patient12"}
    assert {ref.subject for ref in t2} == with_all
    assert {ref.subject for ref in t1} == with_all | {"patient19", "patient20"}
    assert {ref.visit for ref in t2} == {"study1", "study2"}
    assert {ref.pair for ref in t1 if ref.pair} == {ref.pair for ref in t2 if ref.pair}
    flair = openms.list_volumes(tmp_path / "out", settings(), "FLAIR")
    assert [(ref.subject, ref.visit) for ref in flair] == [(ref.subject, ref.visit) for ref in t2]
    together = openms.list_volumes(tmp_path / "out", settings(), "any")
    assert {ref.path: ref for ref in together} == {ref.path: ref for ref in (*t1, *t2, *flair)}
    alone = [ref for ref in t2 if not ref.pair]
    assert [(ref.subject, ref.visit) for ref in alone] == [("patient03", "study1")]
    assert {ref.split for ref in t1} == {""}
    volume = openms.read_volume(t1[0])
    assert volume.stored.shape[0] == 3
    assert (volume.subject, volume.contrast, volume.visit) == ("patient01", "T1", "study1")
    with pytest.raises(UserError, match="no contrast 'PD'"):
        openms.list_volumes(tmp_path / "out", settings(), "PD")


def test_another_file_under_the_name_is_refused(synthetic, tmp_path):
    first = synthetic / "open_ms_data/longitudinal/raw" / next(iter(openms.SCANS))
    first.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"patient01/study1_FLAIR.*wrong checksum"):
        openms.prepare(tmp_path / "out", settings(synthetic))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_missing_sources_and_files_are_said(tmp_path, monkeypatch):
    monkeypatch.delenv("MRSR_MIRROR", raising=False)
    with pytest.raises(UserError, match="MRSR_MIRROR"):
        openms.prepare(tmp_path / "out", settings(tmp_path))
    with pytest.raises(UserError, match="no file"):
        openms.list_volumes(tmp_path / "out", settings(), "T1")


def test_the_real_scans(mirror, tmp_path):
    openms.prepare(tmp_path, settings(mirror))
    shapes = {}
    for contrast in openms.CONTRASTS:
        for ref in openms.list_volumes(tmp_path, settings(), contrast):
            if ref.subject == "patient12":
                volume = openms.read_volume(ref)
                shapes[contrast, ref.visit] = volume.stored.shape
                assert volume.stored.dtype == np.uint16
                assert volume.voxel_size[0] > 2.9 > 1 > max(volume.voxel_size[1:])
                assert abs(volume.affine[2, 0]) > 2.9  # slices run from foot to head
    assert sorted(shapes[key][0] for key in shapes if key[0] != "FLAIR") == [44, 44, 48, 48]
    assert shapes["T1", "study1"][1:] == (256, 256)
    assert set(shapes["T2", "study1"][1:]) == {348, 384}
