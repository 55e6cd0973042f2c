"""Anybody's NIfTI files: found, split by CSV or by hash, never one person on both sides.

Run: .venv/bin/pytest tests/datasets/test_folder.py
"""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from mrsr.cli import app
from mrsr.datasets import folder
from mrsr.errors import UserError
from mrsr.raw.nifti import write_nifti
from mrsr.slices import store


def scan(path: Path) -> None:
    """A scan whose content depends on its path: no two are copies."""
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5) + zlib.crc32(str(path).encode()) % 9999
    write_nifti(path, data, np.diag([1, 1, 3, 1.0]))


def settings(path: Path | str, **change: object) -> SimpleNamespace:
    return SimpleNamespace(**(folder.SETTINGS | {"path": str(path)} | change))


def listed(given: SimpleNamespace) -> dict[str, tuple[str, str]]:
    refs = folder.list_volumes(Path("unused"), given, "any")
    return {ref.path.name: (ref.subject, ref.split) for ref in refs}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    for name in ("anna_1.nii.gz", "anna_2.nii", "deep/ben.nii.gz", ".hidden.nii.gz"):
        scan(root / name)
    (root / "notes.txt").write_text("no scan")
    return root


def test_volumes_are_found_and_read(scans):
    refs = folder.list_volumes(Path("unused"), settings(scans, subject="file"), "any")
    assert [ref.path.name for ref in refs] == ["anna_1.nii.gz", "anna_2.nii", "ben.nii.gz"]
    assert [ref.subject for ref in refs] == ["anna_1", "anna_2", "ben"]
    volume = folder.read_volume(refs[0])
    assert volume.stored.shape == (5, 4, 3)
    assert (volume.subject, volume.contrast, volume.organ) == ("anna_1", "any", "brain")


def test_prepare_writes_the_list(scans, tmp_path):
    folder.prepare(tmp_path / "raw", settings(scans))
    lines = (tmp_path / "raw" / "files.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        "anna_1.nii.gz", "anna_2.nii", "deep/ben.nii.gz",
    ]  # fmt: skip


def test_the_hash_depends_on_name_and_seed_alone():
    names = [f"subject{n}" for n in range(2000)]
    splits = [folder.hashed_split(name, [0.7, 0.1, 0.2], 0) for name in names]
    shares = [splits.count(split) / len(names) for split in folder.SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert splits == [folder.hashed_split(name, [0.7, 0.1, 0.2], 0) for name in names]
    assert splits != [folder.hashed_split(name, [0.7, 0.1, 0.2], 1) for name in names]


@pytest.mark.parametrize(
    "text",
    [
        "subject,split\nanna,train\nben,test\n",
        "\ufeffsplit, subject, file\ntrain, anna, anna_1.nii.gz\ntrain,anna,anna_2\n"
        "test,ben,deep/ben.nii.gz\n",
    ],
)
def test_csv(scans, tmp_path, text):
    table = tmp_path / "split.csv"
    table.write_text(text, encoding="utf-8")
    assert listed(settings(scans, split=str(table))) == {
        "anna_1.nii.gz": ("anna", "train"),
        "anna_2.nii": ("anna", "train"),
        "ben.nii.gz": ("ben", "test"),
    }
    refs = folder.list_volumes(Path("unused"), settings(scans, split=str(table)), "any")
    assert [ref.visit for ref in refs] == ["anna_1.nii.gz", "anna_2.nii", ""]


def test_the_longest_subject_wins(tmp_path):
    for name in ("sub-1/a.nii", "sub-1-2/a.nii"):
        scan(tmp_path / name)
    table = tmp_path / "split.csv"
    table.write_text("subject,split\nsub-1,train\nsub-1-2,test\n")
    refs = folder.list_volumes(tmp_path, settings(tmp_path, split=str(table)), "any")
    assert {ref.path.parent.name: ref.split for ref in refs} == {
        "sub-1": "train",
        "sub-1-2": "test",
    }


BAD_CSV = {
    "subject,part\nanna,train\n": "no column split",
    "who,split\nanna,train\n": "line 2: neither file nor subject",
    "subject,split\nanna,training\n": "line 2: split 'training'",
    "subject,split\n,train\n": "line 2: neither",
    "subject,split\nanna,train\nanna,test\n": "disagrees",
    "subject,split\n": "no rows",
    "subject,split\nanna,train\n": "no row for deep/ben.nii.gz",
    "file,subject,split\nanna_1,anna,train\nanna_2,anna,test\nben,ben,test\n": "anna is in two",
}


@pytest.mark.parametrize("text", BAD_CSV)
def test_csv_mistakes(scans, tmp_path, text):
    table = tmp_path / "split.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=BAD_CSV[text]):
        listed(settings(scans, split=str(table)))


def test_settings_mistakes(scans, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, message in (
        (settings(""), "path is empty"),
        (settings(tmp_path / "nowhere"), "no folder"),
        (settings(tmp_path / "empty"), "has no .nii"),
        (settings(scans, split=str(tmp_path / "none.csv")), "cannot read the list"),
        (settings(scans, subject="file", fractions=[0.7, 0.7, 0.2]), "sum to 1"),
    ):
        with pytest.raises(UserError, match=message):
            listed(given)
    with pytest.raises(UserError, match=r"no scan of the contrast 'T1', but anna_1\.nii\.gz and 2"):
        folder.list_volumes(tmp_path, settings(scans), "T1")


def decathlon(root: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """imagesTr and labelsTr with what such archives hold besides, and one unlabelled test image."""
    for number, name in enumerate(names):
        image = np.arange(60, dtype=np.int16).reshape(3, 4, 5) + number
        write_nifti(root / "imagesTr" / f"{name}.nii.gz", image, np.diag([1, 1, 3, 1.0]))
        labels = (image % 3).astype(np.uint8)
        write_nifti(root / "labelsTr" / f"{name}.nii.gz", labels, np.diag([1, 1, 3, 1.0]))
        for kind in ("imagesTr", "labelsTr"):
            (root / kind / f"._{name}.nii.gz").write_bytes(b"\0\5\26\7")
    scan(root / "imagesTs" / "z.nii.gz")
    (root / "dataset.json").write_text("{}")
    return root


def test_labels_of_the_decathlon_layout(tmp_path):
    root = decathlon(tmp_path / "Task09")
    for given in (root, tmp_path):  # a task, or a folder of tasks
        refs = folder.list_volumes(Path("unused"), settings(given), "any")
        assert [ref.path.name for ref in refs] == [f"{name}.nii.gz" for name in "abcz"]
        for ref in refs[:3]:
            assert ref.labels == root / "labelsTr" / ref.path.name
        assert refs[3].labels is None
    folder.prepare(tmp_path / "raw", settings(root))
    lines = (tmp_path / "raw" / "files.txt").read_text().splitlines()
    assert lines[0].split("\t")[::2] == ["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"]
    assert len(lines[3].split("\t")) == 2


def test_images_without_their_labels(tmp_path):
    root = decathlon(tmp_path)
    (root / "labelsTr" / "b.nii.gz").rename(root / "labelsTr" / "b.nii")
    assert len(listed(settings(root))) == 4  # packed or not
    (root / "labelsTr" / "a.nii.gz").unlink()
    with pytest.raises(UserError, match=r"^imagesTr/a.nii.gz has no label; add labelsTr/a.nii.gz"):
        listed(settings(root))
    for path in (root / "imagesTr").iterdir():
        path.unlink()
    (root / "imagesTs" / "z.nii.gz").unlink()
    with pytest.raises(UserError, match="except labels"):
        listed(settings(root))


def sliced(root: Path, tmp_path: Path) -> Path:
    """Through `mrsr raw` and `mrsr slices`, as the rules call them."""
    source = json.dumps(vars(settings(root, split=str(tmp_path / "split.csv"))))
    (tmp_path / "split.csv").write_text(
        "file,split\na,train\nb,validation\nc,test\nz,train\n", encoding="utf-8"
    )
    dataset = {
        **{"dataset": "folder", "source": "folder", "contrast": "any", "organ": "brain"},
        **{"crop": None, "split": {"kind": "source"}, "skip_bad": False},
        "normalise": {"level": "volume", "percentile": 99.9},
    }
    manifest = tmp_path / "raw" / "manifest.csv"
    call = functools.partial(CliRunner().invoke, app, catch_exceptions=False)
    assert call(["raw", "folder", "--settings", source, "--out", str(manifest)]).exit_code == 0
    options = ["--settings", json.dumps(dataset), "--source-settings", source, "--workers", "1"]
    call(["slices", str(manifest), *options, "--out", str(tmp_path / "slices")])
    return tmp_path / "slices"


def test_labels_reach_the_stores(tmp_path):
    stores = sliced(decathlon(tmp_path / "scans"), tmp_path)
    for split, number in (("train", 0), ("validation", 1), ("test", 2)):
        volume, *rest = store.read_store(stores / f"{split}.h5")
        assert volume.has_labels and not any(other.has_labels for other in rest)
        labels = store.read_labels(stores / f"{split}.h5", volume)
        expected = (np.arange(60).reshape(3, 4, 5) + number) % 3
        assert np.array_equal(labels, expected.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("kind", "shape", "voxel", "message"),
    [
        ("labelsTr", (3, 4, 6), 3.0, "labels b.nii.gz of b.nii.gz are on another grid"),
        ("labelsTr", (3, 4, 5), 3.5, "labels b.nii.gz of b.nii.gz are on another grid"),
        ("imagesTr", (3, 4, 5, 4), 3.0, "b.nii.gz is 4D 3x4x5x4, a 3D volume is needed"),
    ],
)
def test_pairs_that_do_not_fit(tmp_path, kind, shape, voxel, message):
    root = decathlon(tmp_path / "scans")
    array = np.arange(np.prod(shape)).reshape(shape) % 3
    affine = np.diag([1, 1, voxel, 1.0])
    write_nifti(root / kind / "b.nii.gz", array.astype(np.uint8), affine)
    with pytest.raises(UserError, match=message) as caught:
        sliced(root, tmp_path)
    assert "\n" not in str(caught.value)
