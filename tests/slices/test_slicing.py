"""Slicing: lossless, disjoint by subject, atomic, in parallel, and what it refuses.

Run: pytest tests/slices/test_slicing.py
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from builders import read
from mrsr.datasets import openms
from mrsr.errors import UserError
from mrsr.params.jobs import Slicing
from mrsr.params.schema import SPLITS, Split
from mrsr.params.typed import build
from mrsr.raw.volume import Volume, VolumeRef
from mrsr.slices import chunks, slicing, splits, store

HASH = {"kind": "hash", "fractions": [0.4, 0.3, 0.3], "seed": 0}
BY_NAME = {
    "kind": "subjects",
    "train": ["patient01", "patient03"],
    "validation": ["patient04"],
    "test": ["patient12"],
}


def wanted(**changes) -> Slicing:
    """Settings of a dataset, as the command line hands them over."""
    given = {"dataset": "openms_t1", "source": "openms", "contrast": "T1", "organ": "brain"}
    return read(Slicing, given | {"split": BY_NAME} | changes)


def scan(seed: int = 0, shape=(9, 12, 14), dtype="int16") -> np.ndarray:
    """A volume as (slices, height, width): bright in the middle, zero outside."""
    values = np.random.default_rng(seed).random(shape) * 900 + 50
    values[:, :2] = values[:, -2:] = values[0] = 0
    return values.astype(dtype)


def volume(stored: np.ndarray, **changes) -> Volume:
    return Volume(
        **{
            "stored": stored,
            "affine": np.diag([3.0, 2.0, 1.0, 1.0]),
            "voxel_size": (3.0, 2.0, 1.0),
            "subject": "s",
            "contrast": "T1",
            "organ": "brain",
            **changes,
        }
    )


def save(path: Path, stored: np.ndarray, **header) -> None:
    """Write (slices, height, width) as NIfTI (x, y, z)."""
    image = nibabel.Nifti1Image(stored.transpose(2, 1, 0), np.diag([1.0, 2.0, 3.0, 1.0]))
    if header:
        image.header.set_slope_inter(**header)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Tiny scans under the names of the openms source: four patients, two with two visits."""
    folder = tmp_path / "raw"
    for number, name in enumerate(sorted(openms.SCANS)):
        save(folder / name, scan(number, (9 + number % 2, 12, 14)))
    return folder


def run(raw: Path, out: Path, workers: int = 1, **changes) -> dict:
    return slicing.slice_dataset(raw, wanted(**changes), out, SimpleNamespace(), workers)


def refuse(raw: Path, out: Path, **changes) -> str:
    """The one-line error; nothing is left behind."""
    with pytest.raises(UserError) as caught:
        run(raw, out, **changes)
    message = str(caught.value)
    assert "\n" not in message
    assert not out.exists() or not list(out.iterdir())
    return message


def test_lossless_and_described(raw: Path, tmp_path: Path) -> None:
    report = run(raw, tmp_path / "out")
    assert report["dataset"] == "openms_t1"
    assert report["skipped"] == json.loads((tmp_path / "out" / "skipped.json").read_text()) == []
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["skipped.json", "test.h5", "train.h5", "validation.h5"]
    for split in SPLITS:
        path = tmp_path / "out" / f"{split}.h5"
        volumes = store.read_store(path)
        assert report["splits"][split]["volumes"] == len(volumes)
        assert report["splits"][split]["subjects"] == BY_NAME[split]
        assert report["splits"][split]["slices"] == sum(v.shape[0] for v in volumes)
        for found in volumes:
            image = nibabel.load(raw / found.path)
            original = np.asanyarray(image.dataobj).transpose(2, 1, 0)
            stored = store.read_slices(path, found)
            assert stored.dtype == np.int16
            assert np.array_equal(stored, original)
            assert found.subject == found.path.split("/")[0]
            assert found.visit == found.path.split("/")[1].split("_")[0]
            assert found.slice_index == tuple(range(len(original)))
            assert found.voxel_size == (3.0, 2.0, 1.0)
            np.testing.assert_allclose(found.affine[:, [2, 1, 0, 3]], image.affine)
            normal = store.normalised(stored, found)
            assert normal.dtype == np.float32
            np.testing.assert_allclose(normal, original / np.percentile(original, 99.9), rtol=1e-6)
            assert np.array_equal(store.read_slices(path, found, [1, 4]), original[[1, 4]])
        about = store.attributes(path)
        assert about["format"] == 1
        assert (about["dataset"], about["split"]) == ("openms_t1", split)
        assert json.loads(about["settings"])["split"] == BY_NAME
        assert str(tmp_path).encode() not in path.read_bytes()


def test_workers_and_runs_give_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "one")
    run(raw, tmp_path / "again")
    run(raw, tmp_path / "two", workers=2)
    for name in ("train.h5", "validation.h5", "test.h5", "skipped.json"):
        content = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == content
        assert (tmp_path / "two" / name).read_bytes() == content


def test_crop_and_central_slices_keep_the_place(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "out", crop=[8, 6], central_slices=7, max_slices=3)
    for found in store.read_store(tmp_path / "out" / "train.h5"):
        image = nibabel.load(raw / found.path)
        original = np.asanyarray(image.dataobj).transpose(2, 1, 0)
        first = (len(original) - 7) // 2 + 2
        assert found.shape == (3, 8, 6)
        assert found.slice_index == (first, first + 1, first + 2)
        stored = store.read_slices(tmp_path / "out" / "train.h5", found)
        assert np.array_equal(stored, original[first : first + 3, 2:10, 4:10])
        # the first stored voxel lies where the header says
        np.testing.assert_allclose(found.affine[:, 3], image.affine @ [4, 2, first, 1])


def test_few_volumes(raw: Path, tmp_path: Path) -> None:
    report = run(raw, tmp_path / "out", max_volumes=1)
    assert report["splits"]["train"]["subjects"] == ["patient01"]
    assert report["splits"]["test"]["subjects"] == ["patient12"]


def test_empty_slices_leave_training_only(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "out", foreground=0.02)
    for found in store.read_store(tmp_path / "out" / "train.h5"):
        assert found.slice_index[0] == 1  # slice 0 is zero everywhere
    for found in store.read_store(tmp_path / "out" / "test.h5"):
        assert found.slice_index[0] == 0


@pytest.mark.parametrize(
    "given,kept",
    [
        ("uint8", "uint8"),
        ("uint16", "uint16"),
        (">i2", "int16"),
        ("int32", "int32"),
        ("float32", "float32"),
        (">f4", "float32"),
        ("float64", "float32"),
        ("complex64", "complex64"),
        ("complex128", "complex64"),
        ("bool", "uint8"),
    ],
)
def test_types_are_kept(given: str, kept: str) -> None:
    stored = (scan() > 500 if given == "bool" else scan() % 200).astype(given)
    found = slicing.cut(volume(stored), slicing.Cut())
    assert found.data.dtype == np.dtype(kept)
    assert found.data.dtype.isnative
    assert np.array_equal(found.data, stored)


def test_scale_is_the_physical_percentile() -> None:
    stored = scan()
    for slope, intercept in ((1.0, 0.0), (0.25, 30.0), (-2.0, 5000.0)):
        given = volume(stored, slope=slope, intercept=intercept)
        found = slicing.cut(given, slicing.Cut(percentile=90.0, crop=(4, 4)))
        assert found.scale == pytest.approx(np.percentile(given.image, 90.0), rel=1e-5)
    wave = scan(dtype="complex64") * np.exp(1j).astype("complex64")
    found = slicing.cut(volume(wave, slope=2.0), slicing.Cut(percentile=90.0))
    assert found.scale == pytest.approx(2 * np.percentile(np.abs(wave), 90.0), rel=1e-5)


def bad(value: float) -> np.ndarray:
    stored = scan(dtype="float32")
    stored[3, 4, 5] = value
    return stored


@pytest.mark.parametrize(
    "stored,message",
    [
        (bad(np.nan), r"scan: 1 of 1512 voxels are NaN or infinite; replace"),
        (bad(np.inf), r"scan: 1 of 1512 voxels are NaN or infinite; replace"),
        (bad(-np.inf).astype("complex64"), r"scan: 1 of 1512 voxels are NaN"),
        (np.full((3, 12, 12), 1e300), r"scan is empty: every voxel is 1e\+300"),
        (np.zeros((3, 12, 12)), r"scan is empty: every voxel is 0; leave"),
        (np.full((3, 12, 12), 7, "int16"), r"scan is empty: every voxel is 7; leave"),
        (np.zeros((0, 12, 12)), r"scan has no voxels; leave"),
        (np.zeros((3, 12, 12, 2)), r"scan is 4D, a 3D volume is needed; save"),
        (-scan(), r"scan: the 99.9th .* is -?0, so .*none of its values is above zero"),
        (scan(shape=(9, 7, 20)), r"scan has slices of 7x20, smaller than the crop 8x8; lower"),
        (scan(shape=(2, 9, 9)), r"scan has 2 slices, fewer than central_slices = 3; lower"),
        (scan().astype(str), r"scan holds <U32 values|scan holds"),
    ],
)
def test_bad_volumes_are_refused(stored: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        slicing.cut(volume(stored), slicing.Cut(crop=(8, 8), central=3), "scan")
    assert "\n" not in str(caught.value)


def spoil(raw: Path, how: str) -> str:
    """Make one training scan bad; what the message must say."""
    path = raw / "patient01" / "study1_T1W.nii.gz"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
        return "truncated"
    if how == "nan":
        save(path, bad(np.nan))
        return "NaN"
    if how == "small":
        save(path, scan(shape=(9, 8, 14)))
        return "smaller than the crop 10x10"
    save(path, scan(shape=(4, 12, 14)))
    return "fewer than central_slices = 5"


# of every kind of refusal one: the rest is in test_nifti.py and in the table above
@pytest.mark.parametrize("how", ["truncated", "nan", "small", "few"])
def test_bad_files_are_named_or_skipped(raw: Path, tmp_path: Path, how: str) -> None:
    says = spoil(raw, how)
    options = {"crop": [10, 10], "central_slices": 5}
    message = refuse(raw, tmp_path / "out", **options)
    assert "study1_T1W" in message
    assert says in message
    assert "--skip-bad" in message

    report = run(raw, tmp_path / "out", skip_bad=True, **options)
    written = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert report["skipped"] == written
    (entry,) = written
    assert entry["path"] == "patient01/study1_T1W.nii.gz"
    assert (entry["subject"], entry["split"]) == ("patient01", "train")
    assert says in entry["reason"]
    for found in store.read_store(tmp_path / "out" / "train.h5"):
        assert found.path != entry["path"]


def test_bad_file_in_a_worker(raw: Path, tmp_path: Path) -> None:
    spoil(raw, "nan")
    with pytest.raises(UserError, match=r"study1_T1W.*NaN"):
        run(raw, tmp_path / "out", workers=2)
    assert not list((tmp_path / "out").iterdir())


def test_nothing_left_is_an_error(raw: Path, tmp_path: Path) -> None:
    for path in (raw / "patient04").iterdir():
        path.write_bytes(b"")
    message = refuse(raw, tmp_path / "out", skip_bad=True)
    assert "no usable volume is left in the validation split" in message


def test_a_failed_run_leaves_the_old_stores(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    spoil(raw, "nan")
    with pytest.raises(UserError):
        run(raw, tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_wrong_settings_are_named(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no T1 volume of the knee" in refuse(raw, out, organ="knee")
    assert "normalise.level: must be" in refuse(raw, out, normalise={"level": "slice"})
    assert "split: must be a table with a known 'kind'" in refuse(raw, out, split={"kind": "x"})
    assert "gives it the split ''" in refuse(raw, out, split={"kind": "source"})


# splits


def split_of(table: dict) -> Split:
    return build(Split, table)


def refs(*names: str, split: str = "") -> list[VolumeRef]:
    return [
        VolumeRef(
            path=Path(f"{name}-{visit}.nii"),
            subject=name,
            visit=visit,
            contrast="T1",
            organ="brain",
            split=split,
        )
        for name in names
        for visit in ("a", "b")
    ]


@hypothesis_settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(20, 60), by_counts=st.booleans())
def test_splits_are_disjoint(seed: int, n: int, by_counts: bool) -> None:
    given_refs = refs(*(f"s{i}" for i in range(n)))
    split = split_of({**HASH, "seed": seed})
    if by_counts:
        split = split_of({"kind": "counts", "train": 5, "validation": 3, "test": 4, "seed": seed})
    try:
        chosen = splits.assign(given_refs, split)
    except UserError:  # a hash may leave one empty, and says so
        assert not by_counts
        return
    subjects = [{ref.subject for ref in chosen[name]} for name in SPLITS]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == (12 if by_counts else n)
    assert sum(map(len, chosen.values())) == 2 * sum(map(len, subjects))
    if by_counts:
        assert [len(one) for one in subjects] == [5, 3, 4]


def test_a_hash_split_is_stable() -> None:
    """Subjects that come later move nobody."""
    few, many = (
        splits.assign(refs(*(f"s{i}" for i in range(n))), split_of(HASH)) for n in (20, 40)
    )
    for name in SPLITS:
        assert {ref.subject for ref in few[name]} <= {ref.subject for ref in many[name]}


def test_split_of_the_source() -> None:
    given_refs = refs("a", split="train") + refs("b", split="validation") + refs("c", split="test")
    chosen = splits.assign(given_refs, split_of({"kind": "source"}))
    assert [{ref.subject for ref in chosen[name]} for name in SPLITS] == [
        {"a"},
        {"b"},
        {"c"},
    ]
    with pytest.raises(UserError, match=r"subject a is in two splits, train \(a-a.nii\) and test"):
        splits.assign(given_refs + refs("a", split="test"), split_of({"kind": "source"}))


def test_split_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    split = split_of({"kind": "csv", "path": str(path)})
    given_refs = refs("a", "b", "c", "unlisted")

    def text(value: str) -> None:
        path.write_text(value, encoding="utf-8")

    text("subject,split\na,train\nb,validation\nc,test\n")
    chosen = splits.assign(given_refs, split)
    assert [ref.subject for ref in chosen["train"]] == ["a", "a"]
    assert "unlisted" not in {ref.subject for of_split in chosen.values() for ref in of_split}
    for content, message in (
        ("name,part\na,train\n", "no column subject and split"),
        ("", "no column subject and split"),
        ("subject,split\na,training\n", "line 2: subject 'a' has split 'training'"),
        ("subject,split\na,train\na,test\n", "subject a is in two splits, train and test"),
        ("subject,split\na,train\nx,test\n", "names 1 subjects that are not in the data: x"),
        ("subject,split\na,train\nb,test\n", "the validation split is empty"),
    ):
        text(content)
        with pytest.raises(UserError, match=message):
            splits.assign(given_refs, split)
    path.unlink()
    with pytest.raises(UserError, match="cannot read the list"):
        splits.assign(given_refs, split)


def test_impossible_splits() -> None:
    counts = {"kind": "counts", "train": 2, "validation": 1, "test": 1, "seed": 0}
    with pytest.raises(UserError, match=r"needs 4 subjects .* the data has 3; lower"):
        splits.assign(refs("a", "b", "c"), split_of(counts))
    with pytest.raises(UserError, match=r"three shares .* that sum to 1"):
        splits.assign(refs("a", "b"), split_of({**HASH, "fractions": [0.5, 0.1, 0.1]}))
    with pytest.raises(UserError, match="split is empty"):
        splits.assign(refs("a", "b"), split_of(HASH))


def test_damage_inside_a_chunk_is_named(raw: Path, tmp_path: Path) -> None:
    """A flipped byte in compressed data is found on reading."""
    run(raw, tmp_path / "out")
    path = tmp_path / "out" / "test.h5"
    with h5py.File(path) as file:
        chunk = file["volumes/0000/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged at volume 0000; delete it and slice again"):
        store.read_slices(path, store.read_store(path)[0])


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_percentile_by_counting_is_numpy_s_to_the_bit(data) -> None:
    kind = data.draw(st.sampled_from(["int8", "uint8", "int16", "uint16"]))
    # half of the range: numpy's own difference of two int8 overflows
    values = st.integers(np.iinfo(kind).min // 2, np.iinfo(kind).max // 2)
    image = np.array(data.draw(st.lists(values, min_size=1, max_size=60)), kind)
    q = data.draw(st.floats(0, 100) | st.sampled_from([0.0, 0.1, 50.0, 99.9, 100.0]))
    assert slicing.percentile(image, q) == float(np.percentile(image, q))


@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 64, 48)])
@pytest.mark.parametrize("kind", ["uint8", "int16", ">i2", "uint32", "float32", "complex64"])
def test_packed_chunks_are_those_of_hdf5(tmp_path: Path, kind: str, shape) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(kind).itemsize), "uint8")
    noisy = noise[..., :1].astype(kind)[..., 0]
    for values in (noisy, np.zeros(shape, kind), (noisy.real // 100).astype(kind)):
        files = [tmp_path / "by_hdf5.h5", tmp_path / "by_us.h5"]
        for file, ours in zip(files, (False, True), strict=True):
            with h5py.File(file, "w", libver=("v110", "v110")) as opened:
                about = {"chunks": (1, *shape[1:]), "track_times": False, **chunks.FILTERS}
                made = opened.create_dataset("data", shape=shape, dtype=kind, **about)
                if not ours:
                    made[:] = values
                for number, chunk in enumerate(chunks.packed(values) if ours else ()):
                    made.id.write_direct_chunk((number, 0, 0), chunk)
        assert files[0].read_bytes() == files[1].read_bytes()
        with h5py.File(files[1]) as opened:  # HDF5 checks the sums
            assert np.array_equal(opened["data"][:], values)
