"""The second contrast on the grid of a slice store: `pytest tests/slices/test_guides.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from builders import read
from mrsr import datasets
from mrsr.datasets import openms, phantom
from mrsr.errors import UserError
from mrsr.params.jobs import Guides, Slicing
from mrsr.params.schema import SPLITS
from mrsr.raw.volume import Volume, VolumeRef
from mrsr.slices import guides, slicing, store

AFFINE = np.array([[0, 0, 1.0, -20], [0, 1.2, 0, 5], [4.0, 0, 0, 9], [0, 0, 0, 1]])
SHAPE = (6, 30, 26)


def settings(**changes: Any) -> tuple[Slicing, Guides]:
    """What slicing and making guides are handed; changes of either."""
    common = {
        "dataset": "toy_t2", "source": "toy", "contrast": "T2", "organ": "brain",
        "normalise": {"percentile": 99.0},
    }  # fmt: skip
    guide = {"guide": "toy_t1", "guide_contrast": "T1"}
    for table in (common, guide):
        table |= {key: changes.pop(key) for key in table if key in changes}
    slicing = common | {"split": {"kind": "source"}} | changes
    return read(Slicing, slicing), read(Guides, common | guide)


def brain(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Smooth blobs, int16."""
    rough = np.random.default_rng(seed).random(shape)
    return (2000 * ndimage.gaussian_filter(rough, (0.5, 2, 2))).astype(np.int16)


def volume(stored: np.ndarray, affine: np.ndarray = AFFINE, **changes: Any) -> Volume:
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(0))
    common = {"subject": "", "contrast": "", "organ": "brain", "slope": 0.5, "intercept": 3.0}
    size = (float(sizes[0]), float(sizes[1]), float(sizes[2]))
    return Volume(**{"stored": stored, "affine": affine, "voxel_size": size, **common, **changes})


class Source:
    """Three people, one of each split, and more where told; T2 scans are in `scans["T2"]`."""

    def __init__(self) -> None:
        self.people = {"a": "train", "b": "validation", "c": "test"}
        self.scans: dict[tuple[str, str], Volume] = {}
        for seed, name in enumerate(self.people):
            self.scans["T2", name] = volume(brain(seed))
            self.scans["T1", name] = volume(3000 - brain(seed))

    def list_volumes(self, raw: Path, _: Any, contrast: str) -> list[VolumeRef]:
        return [
            VolumeRef(
                path=raw / contrast / f"{name}.nii", subject=name, contrast=contrast,
                organ="brain", split=self.people[name], pair=name,
            )
            for kind, name in self.scans
            if kind == contrast
        ]  # fmt: skip

    def read_volume(self, ref: VolumeRef) -> Volume:
        return self.scans[ref.contrast, ref.subject]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source()
    monkeypatch.setattr(datasets, "source", lambda name: made)
    return made


def make(tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], Path]:
    """Slice, make the guides; their report and their folder."""
    return both(tmp_path / "raw", SimpleNamespace(), tmp_path / "slices", **changes)


def both(raw: Path, given: Any, out: Path, **changes: Any) -> tuple[dict[str, Any], Path]:
    cutting, wanted = settings(**changes)
    slicing.slice_dataset(raw, cutting, out, given)
    return guides.make(raw, wanted, given, out, out / "guide"), out / "guide"


def only(path: Path) -> tuple[store.StoredVolume, np.ndarray]:
    """The one volume of a store."""
    (one,) = store.read_store(path)
    return one, store.read_slices(path, one)


def test_the_same_grid_is_copied_without_loss(source: Source, tmp_path: Path) -> None:
    report, out = make(tmp_path)
    assert sorted(path.name for path in out.iterdir()) == ["test.h5", "train.h5", "validation.h5"]
    for name, split in source.people.items():
        target, _ = only(tmp_path / "slices" / f"{split}.h5")
        guide, data = only(out / f"{split}.h5")
        scan = source.scans["T1", name]
        assert data.dtype == np.int16 and np.array_equal(data, scan.stored)
        assert (guide.slope, guide.intercept) == (0.5, 3.0)
        # 1 is a percentile of the whole guide, in physical units
        assert guide.scale == pytest.approx(np.percentile(scan.image, 99.0))
        assert store.normalised(data, guide) == pytest.approx(scan.image / guide.scale, rel=1e-5)
        for field in ("key", "subject", "visit", "shape", "slice_index", "voxel_size"):
            assert getattr(guide, field) == getattr(target, field)
        assert np.array_equal(guide.affine, target.affine)
        found = store.attributes(out / f"{split}.h5")
        assert not found["resampled"] and found["split"] == split
        assert (found["dataset"], found["guide"], found["contrast"]) == ("toy_t2", "toy_t1", "T1")
        assert json.loads(found["without_guide"]) == {"train": [], "validation": [], "test": []}
        assert json.loads(found["residual_mm"]) == report[split]
        assert report[split] == {"median": 0.0, "largest": 0.0}


def test_a_digest_follows_settings_and_slices(source: Source, tmp_path: Path) -> None:
    digests = set()
    for number, changes in enumerate(({}, {"crop": [20, 20]}, {"guide_contrast": "T2"})):
        _, out = make(tmp_path / str(number), **changes)
        digests.add(store.attributes(out / "test.h5")["digest"])
    assert len(digests) == 3


def test_crops_and_slices_of_the_store_are_respected(source: Source, tmp_path: Path) -> None:
    """The guide lies three slices, two rows and four columns further out than the target."""
    margin = ((3, 1), (2, 5), (4, 0))
    for name in source.people:
        scan = source.scans["T1", name]
        shift = np.eye(4)
        shift[:3, 3] = [-first for first, _ in margin]
        source.scans["T1", name] = volume(np.pad(scan.stored, margin), AFFINE @ shift)
    make(tmp_path, crop=[20, 18], central_slices=3)
    for seed, split in enumerate(source.people.values()):
        target, _ = only(tmp_path / "slices" / f"{split}.h5")
        guide, data = only(tmp_path / "slices" / "guide" / f"{split}.h5")
        assert target.slice_index == guide.slice_index == (1, 2, 3)
        assert np.array_equal(data, (3000 - brain(seed))[1:4, 5:25, 4:22])


def test_slices_left_out_for_their_background(source: Source, tmp_path: Path) -> None:
    stored = brain(0)
    stored[[1, 4]] = 0
    source.scans["T2", "a"] = volume(stored, intercept=0.0)
    _, out = make(tmp_path, foreground=0.02)
    target, _ = only(tmp_path / "slices" / "train.h5")
    guide, data = only(out / "train.h5")
    assert guide.slice_index == target.slice_index == (0, 2, 3, 5)
    assert np.array_equal(data, (3000 - brain(0))[[0, 2, 3, 5]])


def smooth(world: np.ndarray) -> np.ndarray:
    """An analytic function of a place (3, ...) in millimetres."""
    x, y, z = world
    return 500 + 200 * np.sin(x / 6 + 0.4) * np.cos(y / 7) + 100 * np.sin(z / 9)


def sampled(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return smooth(np.tensordot(affine[:3, :3], grid, 1) + affine[:3, 3, None, None, None])


def turned(degrees: float, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """An affine around the middle of the target's grid, rotated about two axes."""
    a, b = np.deg2rad([degrees, degrees / 2])
    first = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    second = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = first @ second @ AFFINE[:3, :3] / [4.0, 1.2, 1.0] * spacing
    middle = AFFINE[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + AFFINE[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_resampling_onto_another_grid_is_accurate(
    source: Source, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Rotated, of other voxels and sizes, the axes in any order: the analytic function again."""
    shape = (24, 60, 64)
    affine = turned(11, (2.0, 0.9, 0.8), shape)
    scan = sampled(shape, affine).astype(np.float32).transpose(order)
    permuted = affine.copy()
    permuted[:, :3] = affine[:, list(order)]
    for name in source.people:
        source.scans["T1", name] = volume(scan, permuted, slope=1.0, intercept=0.0)
    _, out = make(tmp_path, crop=[20, 18], central_slices=4)
    guide, data = only(out / "test.h5")
    expected = sampled(SHAPE, AFFINE)[1:5, 5:25, 4:22]
    assert data.dtype == np.float32 and store.attributes(out / "test.h5")["resampled"]
    assert (guide.slope, guide.intercept) == (1.0, 0.0)
    assert np.abs(data - expected).max() < 1.0  # of a range of 600
    assert guide.scale == pytest.approx(np.percentile(scan, 99.0))


def test_the_guide_ends_where_its_outermost_voxels_do() -> None:
    image = np.full((3, 8, 8), 7.0)
    shift = np.eye(4)
    shift[2, 3] = -0.4  # the first column lies within the first voxel, before its centre
    assert guides.resample(image, shift, (0, 1, 2), (8, 8)) == pytest.approx(7.0)
    shift[2, 3] = -0.6
    found = guides.resample(image, shift, (0, 1, 2), (8, 8))
    assert np.all(found[:, :, 0] == 0) and found[:, :, 1:] == pytest.approx(7.0)


def test_resampling_does_not_overshoot() -> None:
    image = np.zeros((3, 12, 12))
    image[:, 4:8, 4:8] = 1000
    shift = np.eye(4)
    shift[1:3, 3] = 0.37
    found = guides.resample(image, shift, (1,), (11, 11))
    assert found.min() == 0 and found.max() <= 1000


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -0.3), (1.7, 2.4), (-3.0, 0.2)])
def test_a_known_shift_is_found(shift: tuple[float, float]) -> None:
    """Of another contrast of the same anatomy, within a fifth of a voxel."""
    rough = np.random.default_rng(3).random((5, 96, 96))
    one = ndimage.gaussian_filter(rough, (0, 3, 3)) * 10
    moved = ndimage.shift(one, (0, *shift), order=3, mode="nearest")
    for size in (1.0, 0.5):
        found = guides.residual_shift(one, 20 - 2 * moved, (size, size))
        assert found == pytest.approx(np.hypot(*shift) * size, abs=0.2 * size)


def test_voxels_of_two_sizes_count_in_millimetres() -> None:
    one = ndimage.gaussian_filter(np.random.default_rng(4).random((3, 64, 64)), (0, 3, 3))
    moved = ndimage.shift(one, (0, 2, 0), order=3, mode="nearest")
    assert guides.residual_shift(one, moved, (3.0, 0.5)) == pytest.approx(6.0, abs=0.6)


def test_blank_slices_have_no_shift(source: Source, tmp_path: Path) -> None:
    assert np.isnan(guides.residual_shift(np.zeros((3, 16, 16)), np.ones((3, 16, 16)), (1, 1)))
    for name in source.people:  # all signal in the last slice, which is not looked at
        stored = brain(0)
        stored[:-1] = 0
        source.scans["T1", name] = volume(stored, intercept=0.0)
    report, out = make(tmp_path)
    assert report == {"train": {}, "validation": {}, "test": {}}
    assert json.loads(store.attributes(out / "test.h5")["residual_mm"]) == {}


def test_a_training_scan_without_partner_is_left_out_and_named(
    source: Source, tmp_path: Path
) -> None:
    source.people |= {"d": "train", "e": "validation"}
    for name in ("d", "e"):
        source.scans["T2", name] = volume(brain(7))
    _, out = make(tmp_path)
    named = {"train": ["T2/d.nii"], "validation": ["T2/e.nii"], "test": []}
    for split in SPLITS:
        assert len(store.read_store(out / f"{split}.h5")) == 1
        assert json.loads(store.attributes(out / f"{split}.h5")["without_guide"]) == named
    assert len(store.read_store(tmp_path / "slices" / "train.h5")) == 2


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_lonely_test_scan_or_split_is_refused(source: Source, tmp_path: Path, name: str) -> None:
    del source.scans["T1", name]
    with pytest.raises(UserError, match=rf"T2/{name}\.nii has no T1 scan") as caught:
        make(tmp_path)
    assert "data.datasets.toy_t2.guide" in str(caught.value)
    assert not (tmp_path / "slices" / "guide").exists()


def far(scan: Volume) -> Volume:
    moved = AFFINE.copy()
    moved[:3, 3] += 5000
    return volume(scan.stored, moved)


def dark(scan: Volume) -> Volume:
    return volume(np.where(np.arange(SHAPE[2]) == 0, 1, 0) * np.ones(SHAPE, int) * -1, slope=1.0)


@pytest.mark.parametrize(
    ("change", "told"), [(far, "c.nii does not overlap T2/c.nii"), (dark, "hardly any signal")]
)
def test_an_unusable_guide_is_refused_and_leaves_nothing(
    source: Source, tmp_path: Path, change: Callable[[Volume], Volume], told: str
) -> None:
    changed = change(source.scans["T1", "c"])
    source.scans["T1", "c"] = volume(changed.stored, changed.affine, intercept=0.0)
    with pytest.raises(UserError, match=told):
        make(tmp_path)
    out = tmp_path / "slices" / "guide"
    assert not out.exists() or not [path for path in out.iterdir() if path.suffix == ".h5"]


def test_complex_guides_are_copied_as_they_are(source: Source, tmp_path: Path) -> None:
    for name in source.people:
        scan = brain(1) * np.exp(1j * np.linspace(0, 3, SHAPE[2]))
        source.scans["T1", name] = volume(scan.astype(np.complex64), intercept=0.0)
    report, out = make(tmp_path)
    _, data = only(out / "test.h5")
    assert np.array_equal(data, source.scans["T1", "c"].stored)
    assert all(np.isfinite(value) for one in report.values() for value in one.values())


def test_the_phantoms_contrasts_are_registered(tmp_path: Path) -> None:
    simulated = SimpleNamespace(
        **phantom.SETTINGS
        | {"subjects": dict.fromkeys(SPLITS, 1), "slices": 5, "knee": {"train": 0}}
    )
    phantom.prepare(tmp_path / "raw", simulated)
    names = {"dataset": "phantom_t2", "source": "phantom", "guide": "phantom_t1"}
    report, out = both(tmp_path / "raw", simulated, tmp_path / "slices", **names)
    # the estimate itself is no better than a third of a voxel of 1 mm, from edges that differ
    assert all(residual["largest"] < 0.5 for residual in report.values())
    ref = phantom.list_volumes(tmp_path / "raw", simulated, "T1")[2]
    assert np.array_equal(only(out / "test.h5")[1], phantom.read_volume(ref).stored)


def test_real_scans_lie_within_a_voxel_and_a_half(mirror: Path, tmp_path: Path) -> None:
    """T1W on the grid of T2W, of the visits that have both."""
    raw = tmp_path / "raw"
    given = SimpleNamespace(source=str(mirror))
    openms.prepare(raw, given)
    split = {
        "kind": "subjects", "train": ["patient01", "patient03"], "validation": ["patient04"],
        "test": ["patient12"],
    }  # fmt: skip
    common = {"dataset": "openms_t2", "source": "openms", "guide": "openms_t1", "split": split}
    report, out = both(raw, given, tmp_path / "slices", **common, max_slices=9)
    # patients move between two acquisitions; patient03 has moved most
    assert all(residual["median"] < 1.5 for residual in report.values()), report
    for split_name in SPLITS:
        path = out / f"{split_name}.h5"
        found = store.attributes(path)
        assert found["resampled"]
        assert json.loads(found["without_guide"])["test"] == []
        for one in store.read_store(path):
            assert (store.read_slices(path, one) > 0).mean() > 0.5
    alone = json.loads(found["without_guide"])
    assert alone["train"] == ["patient03/study1_T2W.nii.gz"]
