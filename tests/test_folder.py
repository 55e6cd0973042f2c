"""Anybody's NIfTI files: found, split by CSV or by hash, never one person on both sides.

Run: .venv/bin/pytest tests/test_folder.py
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mrsr.datasets import folder
from mrsr.datasets.nifti import write_nifti
from mrsr.errors import UserError


def scan(path: Path) -> None:
    write_nifti(path, np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([1, 1, 3, 1.0]))


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
    refs = folder.list_volumes(Path("unused"), settings(scans), "any")
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
    "who,split\nanna,train\n": "needs 'split'",
    "subject,split\nanna,training\n": "line 2: split 'training'",
    "subject,split\n,train\n": "line 2: neither",
    "subject,split\nanna,train\nanna,test\n": "disagrees",
    "subject,split\n": "no rows",
    "subject,split\nanna,train\n": "no row for deep/ben.nii.gz",
    "file,subject,split\nanna_1,anna,train\nanna_2,anna,test\nben,ben,test\n": "subject 'anna'",
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
        (settings(tmp_path / "empty"), "holds no .nii"),
        (settings(scans, split=str(tmp_path / "none.csv")), "cannot read the split CSV"),
        (settings(scans, fractions=[0.7, 0.7, 0.2]), "sum to 1"),
    ):
        with pytest.raises(UserError, match=message):
            listed(given)
    with pytest.raises(UserError, match="one contrast"):
        folder.list_volumes(tmp_path, settings(scans), "T1")
