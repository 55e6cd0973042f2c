"""NIfTI reading: geometry, types, and every way a file can be broken.

Run: .venv/bin/pytest tests/raw/test_nifti.py
"""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mrsr.errors import UserError, one_line
from mrsr.raw.nifti import is_nifti, read_nifti, stem, write_nifti
from mrsr.raw.volume import Volume

NAMES = {"subject": "anna", "contrast": "T1", "organ": "brain"}


def values(shape: tuple[int, ...] = (5, 6, 7), dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def read(path: Path, **options: int | str) -> Volume:
    return read_nifti(path, **NAMES, **options)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_any_orientation_keeps_every_voxel_where_it_is(tmp_path, order, signs):
    """Thickest axis first, and the affine gives each stored value its old place in the world."""
    array, sizes = values(), np.array([0.9, 0.8, 3.0])[list(order)]
    affine = np.eye(4)
    for column, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, column] = 0
        affine[axis, column] = sign * sizes[column]
    affine[:3, 3] = 11, -22, 33
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)

    volume = read(path)
    assert volume.voxel_size[0] == pytest.approx(3.0)
    assert sorted(volume.voxel_size[1:]) == pytest.approx([0.8, 0.9])
    axes = [int(axis) for axis in volume.attributes["axes"].split(",")]
    assert np.array_equal(volume.stored, array.transpose(axes))
    for index in [(0, 0, 0), (1, 2, 3), (4, 1, 0)]:
        there = [index[axis] for axis in axes]
        world = volume.affine @ [*there, 1]
        assert world == pytest.approx(affine @ [*index, 1], abs=1e-4)


def test_ties_take_the_last_axis_and_an_axis_can_be_asked_for(tmp_path):
    path = tmp_path / "iso.nii"
    nibabel.save(nibabel.Nifti1Image(values(), np.diag([1, 1.0002, 1, 1])), path)
    assert read(path).stored.shape == (7, 6, 5)
    assert read(path, slice_axis=0).stored.shape == (5, 7, 6)
    assert read(path, slice_axis=1).stored.shape == (6, 7, 5)


def test_integers_keep_type_slope_and_intercept(tmp_path):
    image = nibabel.Nifti1Image(values(dtype="int16"), np.eye(4))
    path = tmp_path / "scaled.nii.gz"
    # nibabel writes its own scaling for an array, so the file's fields are set afterwards
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([0.5, -10], "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    volume = read(path)
    assert volume.stored.dtype == np.int16
    assert (volume.slope, volume.intercept) == (0.5, -10)
    assert volume.image.dtype == np.float32
    assert volume.image[1, 2, 3] == 0.5 * values()[3, 2, 1] - 10


@pytest.mark.parametrize(
    ("stored", "read_as"),
    [("uint8", "uint8"), (">i2", "int16"), ("uint16", "uint16"), ("int32", "int32"),
     ("float32", "float32"), ("float64", "float32"), (">f8", "float32"),
     ("complex64", "complex64")],
)  # fmt: skip
def test_types(tmp_path, stored, read_as):
    path = tmp_path / "typed.nii"
    header = nibabel.Nifti1Header(endianness=">" if stored[0] == ">" else "<")
    header.set_data_dtype(stored)
    nibabel.save(nibabel.Nifti1Image(values(dtype=stored), np.eye(4), header), path)
    volume = read(path)
    assert volume.stored.dtype == np.dtype(read_as)
    assert volume.stored.dtype.isnative
    assert np.array_equal(volume.stored, values(dtype=read_as).transpose(2, 1, 0))


def test_nifti2_and_a_time_axis_of_one(tmp_path):
    nibabel.save(nibabel.Nifti2Image(values(), np.eye(4)), tmp_path / "two.nii")
    nibabel.save(nibabel.Nifti1Image(values((5, 6, 7, 1)), np.eye(4)), tmp_path / "once.nii")
    assert read(tmp_path / "two.nii").stored.shape == (7, 6, 5)
    assert read(tmp_path / "once.nii").stored.shape == (7, 6, 5)


def saved(path: Path, array: np.ndarray) -> bytes:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return path.read_bytes()


def placed(path: Path, rows: list[float]) -> None:
    """Three rows of an sform that no writer would write."""
    content = bytearray(gzip.decompress(saved(path, values())))
    content[280:328] = np.array(rows, "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def with_nan(path: Path) -> None:
    array = values(dtype="float32")
    array[1, 2, 3], array[0, 0, 0] = np.nan, np.inf
    saved(path, array)


def flipped_bit(path: Path) -> None:
    rng = np.random.default_rng(0)
    content = bytearray(saved(path, rng.integers(0, 9000, (32, 32, 32), np.int16)))
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def no_voxels(path: Path) -> None:
    content = bytearray(gzip.decompress(saved(path, values())))
    content[42:44] = (0).to_bytes(2, "little")  # dim[1]
    path.write_bytes(gzip.compress(bytes(content)))


def promises_too_much(path: Path) -> None:
    content = bytearray(gzip.decompress(saved(path, values())))
    content[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def colour(path: Path) -> None:
    saved(path, np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


def another_format(path: Path) -> None:
    """CIFTI's matrices have NIfTI's name and no place in space."""
    series = nibabel.cifti2.SeriesAxis(0, 1, 4)
    labels = nibabel.cifti2.ScalarAxis(["a", "b", "c"])
    nibabel.save(nibabel.Cifti2Image(values((4, 3), "float32"), (series, labels)), path)


BAD = {
    "missing": (lambda path: None, "no file"),
    "no bytes": (lambda path: path.write_bytes(b""), "0 bytes"),
    "not nifti": (lambda path: path.write_bytes(gzip.compress(b"a letter" * 99)), "NIfTI file"),
    "not gzip": (lambda path: path.write_bytes(b"\x00" * 999), "NIfTI file"),
    "NaN": (with_nan, "2 of 210 voxels are NaN or infinite"),
    "zero": (lambda path: saved(path, 0 * values()), "every voxel is 0"),
    "constant": (lambda path: saved(path, 0 * values() + 7), "every voxel is 7"),
    "4D": (lambda path: saved(path, values((4, 4, 4, 3))), "4D"),
    "1D": (lambda path: saved(path, values((4,))), "1D"),
    "a line": (lambda path: saved(path, values((4, 1, 1))), "slices of one line"),
    "no voxels": (no_voxels, "no voxels"),
    "flat affine": (lambda path: placed(path, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "mm is imp"),
    "huge voxels": (lambda path: placed(path, [5e3, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]), "is imp"),
    "NaN affine": (lambda path: placed(path, [np.nan] * 12), "affine holds NaN"),
    "axes coincide": (lambda path: placed(path, [1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0]), "singular"),
    "lost in space": (lambda path: placed(path, [1, 0, 0, 9e9, 0, 1, 0, 0, 0, 0, 1, 0]), "away"),
    "truncated": (lambda path: path.write_bytes(saved(path, values((40, 40, 40)))[:-900]), "trunc"),
    "checksum cut off": (lambda path: path.write_bytes(saved(path, values())[:-6]), "truncated"),
    "only the header": (lambda path: path.write_bytes(saved(path, values())[:30]), "truncated"),
    "flipped bit": (flipped_bit, "corrupt"),
    "promises too much": (promises_too_much, "truncated"),
    "colour": (colour, "colour"),
    "truncated.nii": (lambda path: path.write_bytes(saved(path, values())[:-10]), "is truncated"),
    "other format.nii": (another_format, "is Cifti2Image, not single-file NIfTI"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_broken_files_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / f"patient7{Path(kind).suffix or '.nii.gz'}"
    make, message = BAD[kind]
    make(path)
    with pytest.raises(UserError, match=message) as raised:
        read(path)
    text = str(raised.value)
    assert text == one_line(text)
    assert path.name in text


def test_writing_gives_the_same_bytes_and_reads_back(tmp_path):
    affine = np.diag([0.5, 0.5, 2, 1])
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        write_nifti(tmp_path / name, values(), affine)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    for name in ("a.nii.gz", "c.nii"):
        volume = read(tmp_path / name)
        assert np.array_equal(volume.stored, values().transpose(2, 1, 0))
        assert volume.voxel_size == (2.0, 0.5, 0.5)


def test_names():
    assert is_nifti("a/B.NII.GZ")
    assert not is_nifti("a.nii.gz.part")
    assert stem("x/sub-01_T1w.nii.gz") == "sub-01_T1w"
    assert stem("a.b.nii") == "a.b"
