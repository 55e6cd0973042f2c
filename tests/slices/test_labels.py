"""Tissue labels in slice stores: `pytest tests/slices/test_labels.py`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import builders
from mrsr.errors import UserError
from mrsr.params.jobs import Slicing
from mrsr.raw.nifti import read_nifti, write_nifti
from mrsr.raw.volume import VolumeRef
from mrsr.slices import slicing, store
from mrsr.slices.slicing import Cut, cut

SHAPE = (14, 12, 9)  # x, y, z
AFFINE = np.diag([1.0, 1.0, 1.0, 1.0])  # no thick axis: only the volume says what a slice is


def write(folder: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> VolumeRef:
    image = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
    write_nifti(folder / "image.nii.gz", image, AFFINE)
    write_nifti(folder / "labels.nii.gz", labels, affine)
    return VolumeRef(
        path=folder / "image.nii.gz", subject="s", contrast="T1", organ="brain",
        labels=folder / "labels.nii.gz",
    )  # fmt: skip


def load(ref: VolumeRef, axis: int = 1) -> slicing.Sliced:
    volume = read_nifti(ref.path, subject="s", contrast="T1", organ="brain", slice_axis=axis)
    wanted = Cut(crop=(6, 8), central=7, most=5)
    return cut(volume, wanted, "image", slicing.read_labels(ref, volume))


def test_labels_are_cut_as_their_volume_is(tmp_path: Path) -> None:
    # labels that name their voxel: the same cut gives the same numbers
    names = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    ref = write(tmp_path, (names % 251).astype(np.uint8))
    write_nifti(ref.path, (names + 1).astype(np.int16), AFFINE)
    for axis in (0, 1, 2):
        if axis == 2:  # the axes that are left differ in length
            ref = write(tmp_path, (names % 251).astype(np.float32))
            write_nifti(ref.path, (names + 1).astype(np.int16), AFFINE)
        found = load(ref, axis)
        assert found.labels.dtype == np.uint8
        assert np.array_equal(found.labels, (found.data - 1) % 251)


def test_wrong_labels_are_refused(tmp_path: Path) -> None:
    good = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    cases = {
        "another grid": (good[:-1], AFFINE),
        "whole numbers": (good + np.float32(0.5), AFFINE),
        "0 to 255": (good.astype(np.int16) - 3, AFFINE),
    }
    for message, (labels, affine) in cases.items():
        with pytest.raises(UserError, match=message):
            load(write(tmp_path, labels, affine))
    with pytest.raises(UserError, match="another grid"):
        load(write(tmp_path, good, AFFINE + np.eye(4, k=3) * 5))


def test_store_keeps_labels_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.random.default_rng(2).integers(0, 5, SHAPE).astype(np.uint8)
    ref = write(tmp_path, labels)
    refs = [
        VolumeRef(**{**vars(ref), "subject": split, "split": split, "labels": one})
        for split, one in (("train", ref.labels), ("validation", None), ("test", ref.labels))
    ]

    def read(ref: VolumeRef) -> object:
        return read_nifti(ref.path, subject="s", contrast="T1", organ="brain", slice_axis=2)

    source = SimpleNamespace(list_volumes=lambda *_: refs, read_volume=read)
    monkeypatch.setattr(slicing.datasets, "source", lambda _: source)
    settings = builders.read(Slicing, {
        "dataset": "toy", "source": "toy", "contrast": "T1", "organ": "brain",
        "split": {"kind": "source"}, "foreground": 0.01,
    })  # fmt: skip
    slicing.slice_dataset(tmp_path, settings, tmp_path / "out", SimpleNamespace())
    (train,) = store.read_store(tmp_path / "out" / "train.h5")
    assert train.has_labels
    found = store.read_labels(tmp_path / "out" / "train.h5", train)
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels.transpose(2, 1, 0))
    assert np.array_equal(
        store.read_labels(tmp_path / "out" / "train.h5", train, [2, 5]), found[[2, 5]]
    )
    (without,) = store.read_store(tmp_path / "out" / "validation.h5")
    assert not without.has_labels
    with pytest.raises(UserError, match="no labels"):
        store.read_labels(tmp_path / "out" / "validation.h5", without)
    with h5py.File(tmp_path / "out" / "train.h5", "a") as file:
        del file["volumes/0000/labels"]
        file["volumes/0000/labels"] = np.zeros((1, 2, 3), np.uint8)
    with pytest.raises(UserError, match="damaged"):
        store.read_store(tmp_path / "out" / "train.h5")
