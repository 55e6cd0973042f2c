"""Issue 11, lines 7, 8, 12 and 16: formats, scaling, HDF5, and messages about scan files.

Run: pytest tests/raw/test_faults_files.py
"""

from __future__ import annotations

import bz2
import gzip
import re
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.imageclasses import all_image_classes
from typer.testing import CliRunner

from builders import preset as named
from mrsr.cli import app
from mrsr.errors import UserError, one_line
from mrsr.metrics import definitions
from mrsr.raw import phantom_knee
from mrsr.raw.fastmri_file import describe, kspace_of, read_fastmri_file
from mrsr.raw.nifti import read_nifti
from mrsr.raw.scan_formats import SUFFIXES, is_scan, stem
from mrsr.raw.volume import Volume, checked, physical
from mrsr.scan.degrade import degrade
from mrsr.scan.enhance import enhance
from mrsr.scan.score import score
from mrsr.slices import slicing, store

AFFINE = np.array([[-1.0, 0, 0.2, 30], [0, 1.2, 0, -40], [0.1, 0, 4, 5], [0, 0, 0, 1]])


def noise(dtype: str = "int16", shape: tuple[int, ...] = (24, 20, 6)) -> np.ndarray:
    """Incompressible."""
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def refused(run, match: str) -> str:
    with pytest.raises(UserError, match=match) as caught:
        run()
    message = str(caught.value)
    assert message == one_line(message)
    return message


# line 7


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize("flat", [False, True], ids=["noise", "flat"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_7_every_format_that_is_read_is_read_right(tmp_path, suffix, dtype, flat):
    """Also in capitals: voxels, type and place."""
    array = noise(dtype)
    if flat:  # compresses to a few bytes
        array = np.zeros_like(array)
        array[3, 4, 5] = 7
    kind = nibabel.MGHImage if suffix.startswith(".mg") else nibabel.Nifti1Image
    for name in (f"scan{suffix}", f"SCAN{suffix.upper()}"):
        path = tmp_path / f"a{suffix}"
        nibabel.save(kind(array, AFFINE), path)
        path = path.rename(tmp_path / name)
        volume = read_nifti(path)
        assert volume.stored.dtype == np.dtype(dtype)
        assert np.array_equal(volume.stored, array.transpose(2, 1, 0))
        assert np.allclose(volume.affine, AFFINE[:, [2, 1, 0, 3]], atol=1e-5)
        assert volume.voxel_size == pytest.approx(np.linalg.norm(AFFINE[:3, [2, 1, 0]], axis=0))
        assert is_scan(path) and stem(path).lower() == "scan"
        assert volume.stored.flags.writeable


def extensions() -> list[str]:
    """All that nibabel opens, packed in all the ways it knows, and some that others write."""
    known = set()
    for kind in all_image_classes:
        for suffix in kind.valid_exts:
            known |= {suffix, *(suffix + more for more in kind._compressed_suffixes)}
    others = (
        ".tck",
        ".trk",
        ".dcm",
        ".IMA",
        ".nrrd",
        ".nhdr",
        ".mha",
        ".mhd",
        ".nii.xz",
        ".nii.zip",
    )
    return sorted({*known, *others, ".mat", ".dscalar.nii.zst"})


def test_7_the_list_of_extensions_is_not_empty():
    assert {".nii.bz2", ".nii.zst", ".mgz", ".hdr", ".mnc.gz", ".brik.Z", ".par"} <= set(
        extensions()
    )


@pytest.mark.parametrize("suffix", extensions())
def test_7_every_extension_is_read_or_refused_by_name(tmp_path, suffix):
    """Whatever is in the file: the words 'truncated or corrupt' are for files that are."""
    path = tmp_path / f"scan{suffix}"
    if is_scan(path):
        assert suffix in SUFFIXES
        return
    for content in (b"", b"\0" * 500, noise("uint8").tobytes()):
        path.write_bytes(content)
        for run in (
            lambda: read_nifti(path),
            lambda: enhance(path, tmp_path / "out.nii", "bicubic", scale=2),
            lambda: degrade(path, tmp_path / "out.nii"),
            lambda: score(path, path),
        ):
            message = refused(run, re.escape(f"scan{suffix} is "))
            assert "which mrsr does not read" in message
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.parametrize("suffix", [".img", ".hdr", ".img.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.AnalyzeImage])
def test_7_real_pairs_are_refused_by_name(tmp_path, kind, suffix):
    nibabel.save(kind(noise("int16"), np.eye(4)), tmp_path / f"a{suffix}")
    refused(lambda: read_nifti(tmp_path / f"a{suffix}"), "half of an Analyze or NIfTI pair")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_7_damage_and_wrong_packings_are_told_apart(tmp_path, suffix):
    kind = nibabel.MGHImage if suffix.startswith(".mg") else nibabel.Nifti1Image
    path = tmp_path / f"scan{suffix}"
    nibabel.save(kind(noise("int16"), AFFINE), path)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    refused(lambda: read_nifti(path), r"is truncated or corrupt")
    if suffix not in (".nii", ".mgh"):
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 16
        path.write_bytes(flipped)
        refused(lambda: read_nifti(path), r"is truncated or corrupt")
    for name, packed in (("gzip", gzip.compress(good)), ("bzip2", bz2.compress(good)),
                         ("Zstandard", b"\x28\xb5\x2f\xfd" + good)):  # fmt: skip
        packs = {".gz": "gzip", ".mgz": "gzip", ".bz2": "bzip2"}.get(path.suffix)
        path.write_bytes(packed)
        if name != packs:
            refused(lambda: read_nifti(path), f"packed with {name}, which its name does not say")
    path.write_bytes(good)
    assert np.array_equal(read_nifti(path).stored, noise("int16").transpose(2, 1, 0))


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_7_freesurfers_scans_go_through_all_commands(tmp_path, suffix):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 20, 6)), indexing="ij")
    image = (900 * np.exp(-4 * (x**2 + y**2 + z**2))).astype(np.float32)
    source = tmp_path / f"T1{suffix}"
    before = nibabel.MGHImage(image, AFFINE)
    nibabel.save(before, source)
    run = CliRunner().invoke
    coarse, fine = str(tmp_path / "c.nii.gz"), str(tmp_path / "f.nii.gz")
    assert run(app, ["degrade", str(source), coarse]).exit_code == 0
    assert run(app, ["enhance", coarse, fine, "-m", "bicubic", "--scale", "2"]).exit_code == 0
    after = nibabel.load(fine)
    assert after.shape == before.shape
    assert np.allclose(after.affine, before.affine, atol=1e-4)
    assert int(after.header["qform_code"]) == int(after.header["sform_code"]) == 1
    assert after.header.get_xyzt_units()[0] == "mm"
    assert score(fine, source)["psnr"] > 30
    enhance(source, tmp_path / "out.nii", "bicubic", scale=2)
    out = nibabel.load(tmp_path / "out.nii")
    ends = [nibabel.affines.apply_affine(one.affine, [[-0.5] * 3, np.array(one.shape) - 0.5])
            for one in (before, out)]  # fmt: skip
    assert np.allclose(*ends, atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_7_other_content_under_a_scans_name(tmp_path, suffix):
    packing = {".gz": gzip.compress, ".mgz": gzip.compress, ".bz2": bz2.compress}
    for content in (b"a letter" * 99, noise("uint8").tobytes(), b"\0" * 1000, b"short"):
        path = tmp_path / f"scan{suffix}"
        path.write_bytes(packing.get(path.suffix, bytes)(content))
        refused(lambda path=path: read_nifti(path), re.escape(path.name))


# line 8


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["int32", "uint32", "int16", "int64", "float32"]),
    slope=st.sampled_from([1.0, 0.01, 1e-4, 0.37, -2.5]),
    start=st.integers(0, 2_000_000_000),
    span=st.integers(10, 30_000),
    seed=st.integers(0, 99),
)
def test_8_large_offsets_cancel_without_losing_digits(dtype, slope, start, span, seed):
    start = (
        start % 30_000 if dtype == "int16" else start % (1 << 24) if dtype == "float32" else start
    )
    most = np.iinfo(dtype).max if dtype != "float32" else 1 << 24
    rng = np.random.default_rng(seed)
    stored = rng.integers(start, min(start + span, most), (3, 4, 5)).astype(dtype)
    intercept = 100.0 - slope * start
    exact = stored.astype(np.float64) * slope + intercept
    volume = Volume(stored=stored, affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0),
                    slope=slope, intercept=intercept)  # fmt: skip
    rounding = np.spacing(np.float32(np.abs(exact).max()))
    assert volume.image.dtype == np.float32
    assert np.abs(volume.image - exact).max() <= rounding
    assert np.array_equal(physical(stored, slope, intercept), volume.image)
    record = store.StoredVolume(
        key="0000", subject="", visit="", path="", slope=slope, intercept=intercept, scale=50.0,
        slice_index=(0, 1, 2), affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0), shape=(3, 4, 5),
        dtype=stored.dtype,
    )  # fmt: skip
    assert np.abs(store.normalised(stored, record) - exact / 50).max() <= rounding / 25


@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_8_a_file_with_a_large_offset_keeps_its_mean(tmp_path, dtype):
    """Issue 11: 155.59 became 153.42."""
    offset = 8_000_000 if dtype == "float32" else 2_000_000_000
    rng = np.random.default_rng(3)
    stored = (offset + rng.integers(0, 3000, (16, 16, 5))).astype(dtype)
    path = tmp_path / "in.nii"
    content = bytearray(nibabel.Nifti1Image(stored, np.diag([1, 1, 3.0, 1])).to_bytes())
    slope, intercept = np.float32(0.1), np.float32(-0.1) * np.float32(offset)
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(content)
    exact = stored.astype(np.float64) * float(slope) + float(intercept)
    volume = read_nifti(path)
    assert volume.image.mean(dtype=np.float64) == pytest.approx(exact.mean(), rel=1e-6)
    cut = slicing.cut(volume, slicing.Cut(percentile=90.0, foreground=0.01))
    assert cut.scale == pytest.approx(np.percentile(exact, 90), rel=1e-5)
    degrade(path, tmp_path / "lr.nii")
    found = nibabel.load(tmp_path / "lr.nii").get_fdata()
    assert found.mean() == pytest.approx(exact.mean(), rel=1e-3)


def test_8_foreground_sees_the_exact_values():
    """Tissue of 30 in air of 0, both beside an offset at which float32 steps by 128."""
    stored = np.full((4, 10, 10), 2_000_000_000, np.int32)
    stored[1:3] += 30
    stored[2, :, :5] += 30
    volume = Volume(stored=stored, affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0),
                    intercept=-2_000_000_000.0)  # fmt: skip
    assert slicing.cut(volume, slicing.Cut(foreground=0.5)).slice_index == [1, 2]


# line 12: HDF5


def knee(path: Path) -> Path:
    """A small file in fastMRI's layout."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace_of(rng.random((2, 640, 372)) + 0j).astype(np.complex64)
        file["ismrmrd_header"] = phantom_knee.header(2)
        file.attrs.update(acquisition="CORPD_FBK", patient_id="0")
    return path


def as_group(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)["inside"] = np.ones(3)


@pytest.mark.parametrize("name", ["kspace", "ismrmrd_header"])
def test_12_a_group_in_the_place_of_a_dataset(tmp_path, name):
    path = knee(tmp_path / "file1.h5")
    assert read_fastmri_file(path).stored.shape[0] == 2
    with h5py.File(path, "r+") as file:
        as_group(file, name)
    refused(lambda: read_fastmri_file(path), f"file1.h5: '{name}' is a group.*holds inside")
    if name == "kspace":
        refused(lambda: describe(path), "file1.h5: 'kspace' is a group")
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.SoftLink("/nowhere")
    refused(lambda: read_fastmri_file(path), f"'{name}' is a link that leads nowhere")


@pytest.mark.parametrize("name", ["volumes/0000/data", "volumes/0000/labels", "volumes"])
def test_12_a_slice_store_with_a_group_or_dataset_in_the_wrong_place(tmp_path, name):
    path = tmp_path / "train.h5"
    with store.new_store(path) as file:
        file.create_group("volumes")
        array = noise("int16", (2, 12, 12))
        sliced = store.Sliced(
            data=array, scale=1.0, slope=1.0, intercept=0.0, slice_index=[0, 1],
            affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0), labels=(array > 0).astype(np.uint8),
        )  # fmt: skip
        store.write_volume(file, 0, sliced, subject="s", visit="", path="s.nii")
        store.describe(file, dataset="d")
    assert len(store.read_store(path)) == 1
    with h5py.File(path, "r+") as file:
        if name == "volumes":
            del file[name]
            file[name] = np.ones(3)
        else:
            as_group(file, name)
    refused(lambda: store.read_store(path), "train.h5 is damaged.*slice again")


def test_12_and_16_score_names_what_a_file_holds(tmp_path):
    ref = np.random.default_rng(0).random((3, 20, 24))
    for suffix in ("h5", "hdf5", "HDF5"):
        path = tmp_path / f"r.{suffix}"
        with h5py.File(path, "w") as file:
            file["a/target"], file["a/other"] = ref, ref + 1
            file["a/link"] = h5py.SoftLink("/a/target")
            file["a/lost"] = h5py.SoftLink("/a/nothing")
            file["numbers"] = np.ones(4)
        good = f"{path}:a/target"
        for name in ("a/target", "/a/target", "a/link"):
            assert score(f"{path}:{name}", good)["psnr"] == definitions.PSNR_CAP
        for name, message in (
            ("a", r"'a' is a group.*holds link, lost, other, target"),
            ("a/lost", "link that leads nowhere"),
            ("b", r"it has no 'b'.*a/other, a/target"),
            ("numbers", r"float64 of shape \(4,\)"),
        ):
            refused(lambda name=name, path=path, good=good: score(f"{path}:{name}", good), message)
    odd = tmp_path / "odd.h5:name.npy"  # a file's own name comes first
    np.save(odd, ref)
    assert score(odd, odd)["n_slices"] == 3


# line 16


def packed_by(path: Path, name: str, number: int, shape: tuple[int, ...], kind: str) -> None:
    """A chunked dataset that says it is packed by a filter, and whose chunks are."""
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple(shape)
        packing = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        packing.set_chunk(shape)
        packing.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (1,))
        dtype = h5py.h5t.py_create(np.dtype(kind))
        found = h5py.h5d.create(file.id, name.encode(), dtype, space, packing)
        found.write_direct_chunk((0,) * len(shape), b"packed" * 9, 0)


@pytest.mark.parametrize(
    ("number", "known"),
    [(32001, "blosc"), (32015, "zstd"), (32008, "bitshuffle"), (40123, "number")],
)
def test_16_a_filter_that_is_not_installed_is_named(tmp_path, number, known):
    """Blosc, as many tools write it: neither 'no HDF5' nor 'corrupt'."""
    packed_by(tmp_path / "p.h5", "reconstruction", number, (3, 20, 24), "f4")
    message = refused(
        lambda: score(tmp_path / "p.h5", tmp_path / "p.h5"),
        f"'reconstruction' is packed by the filter {known}.*repack it",
    )
    assert "not an HDF5" not in message and "corrupt" not in message
    path = knee(tmp_path / "file1.h5")
    with h5py.File(path, "r+") as file:
        del file["kspace"]
    packed_by(path, "kspace", number, (2, 640, 372), "c8")
    for run in (lambda: read_fastmri_file(path), lambda: describe(path)):
        assert "corrupt" not in refused(run, f"'kspace' is packed by the filter {known}")


def test_16_matlabs_complex_numbers_are_read(tmp_path, capfd):
    """-v7.3 files hold pairs of real and imag."""
    rng = np.random.default_rng(0)
    wave = rng.normal(size=(3, 20, 24)) + 1j * rng.normal(size=(3, 20, 24))
    pairs = np.empty(wave.shape, [("real", "<f8"), ("imag", "<f8")])
    pairs["real"], pairs["imag"] = wave.real, wave.imag
    for suffix, save in (("h5", None), ("npy", np.save)):
        path = tmp_path / f"m.{suffix}"
        if save:
            save(path, pairs)
        else:
            with h5py.File(path, "w") as file:
                file["image"] = pairs
        np.save(tmp_path / "abs.npy", np.abs(wave))
        assert score(path, tmp_path / "abs.npy")["psnr"] == definitions.PSNR_CAP
        assert f"m.{suffix}: complex values, their magnitude is used" in capfd.readouterr().err
    path = knee(tmp_path / "file1.h5")
    before = read_fastmri_file(path).stored
    with h5py.File(path, "r+") as file:
        kspace = file["kspace"][:]
        del file["kspace"]
        pairs = np.empty(kspace.shape, [("real", "<f4"), ("imag", "<f4")])
        pairs["real"], pairs["imag"] = kspace.real, kspace.imag
        file["kspace"] = pairs
    assert np.array_equal(read_fastmri_file(path).stored, before)
    rows = np.zeros((3, 20, 24), [("real", "<f8"), ("other", "<f8")])
    np.save(tmp_path / "odd.npy", rows)
    refused(lambda: score(tmp_path / "odd.npy", tmp_path / "odd.npy"), "give numbers")


@pytest.mark.parametrize(("unit", "size"), [("micron", 1000.0), ("mm", 1.0), ("meter", 1e-3)])
@pytest.mark.parametrize("position", ["sform", "qform"])
def test_16_the_unit_of_the_header_counts(tmp_path, unit, size, position):
    """A voxel of 500 microns is one of half a millimetre, and stays so in the output."""
    affine = np.diag([0.5, 0.7, 3.0, 1.0])
    affine[:3, 3] = 10, -20, 30
    there = affine.copy()
    there[:3] *= size
    image = nibabel.Nifti1Image(noise("int16"), there)
    image.header.set_xyzt_units(unit, "sec")
    image.set_sform(there, 1 if position == "sform" else 0)
    image.set_qform(there, 1 if position == "qform" else 0)
    nibabel.save(image, tmp_path / "in.nii")
    volume = read_nifti(tmp_path / "in.nii")
    assert volume.voxel_size == pytest.approx((3.0, 0.7, 0.5), rel=1e-5)
    assert np.allclose(volume.affine[:, [2, 1, 0, 3]], affine, rtol=1e-5)
    enhance(tmp_path / "in.nii", tmp_path / "out.nii", "bicubic", scale=2)
    out = nibabel.load(tmp_path / "out.nii")
    assert out.header.get_xyzt_units()[0] == unit
    assert read_nifti(tmp_path / "out.nii").voxel_size == pytest.approx((3, 0.35, 0.25), rel=1e-5)
    # the same scan in millimetres lies at the same place
    nibabel.save(nibabel.Nifti1Image(noise("int16"), affine), tmp_path / "mm.nii")
    assert score(tmp_path / "in.nii", tmp_path / "mm.nii")["psnr"] == definitions.PSNR_CAP


def test_16_impossible_sizes_name_the_unit(tmp_path):
    image = nibabel.Nifti1Image(noise("int16"), np.diag([1, 1, 3.0, 1]) * 1e-2)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "in.nii")
    refused(
        lambda: read_nifti(tmp_path / "in.nii"), r"mm is impossible \(its header says microns\)"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1e43, 1.0], r"values up to 1e\+43, beyond the 3\.4e\+38 of float32; divide"),
        ([-1e300, 1.0], r"values up to 1e\+300, beyond"),
        ([1e-60, 0.0], r"differ by less than float32 can tell"),
        ([1e9, 1e9 + 1], r"differ by less than float32 can tell"),
        ([np.inf, 1e43], r"1 of 64 voxels are NaN or infinite"),
        ([np.nan, 1.0], r"1 of 64 voxels are NaN or infinite"),
    ],
)
def test_16_finite_values_are_not_called_infinite(tmp_path, values, message):
    array = np.full((4, 4, 4), values[1])
    array[0, 0, 0] = values[0]
    refused(lambda: checked(array, "scan"), message)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    refused(lambda: read_nifti(tmp_path / "scan.nii"), message)


def test_16_a_slope_that_leaves_float32_is_told(tmp_path):
    content = bytearray(nibabel.Nifti1Image(noise("int16"), np.eye(4)).to_bytes())
    content[112:120] = np.array([1e36, 0], "<f4").tobytes()
    (tmp_path / "in.nii").write_bytes(content)
    refused(lambda: read_nifti(tmp_path / "in.nii"), r"in.nii has values up to 3.28e\+40, beyond")


def test_16_large_finite_arrays_are_scored(tmp_path):
    ref = np.random.default_rng(0).random((2, 16, 16)) * 1e43
    np.save(tmp_path / "r.npy", ref)
    np.save(tmp_path / "p.npy", ref * 1.01)
    expected = definitions.score(ref * 1.01e-43, ref * 1e-43, named("slice"))
    assert score(tmp_path / "p.npy", tmp_path / "r.npy")["psnr"] == pytest.approx(expected["psnr"])


def test_16_dicom_is_named(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (series / "IM0001").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 99)
    (tmp_path / "scan.nii").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 400)
    for run in (
        lambda path: read_nifti(path),
        lambda path: enhance(path, tmp_path / "out.nii", "bicubic", scale=2),
        lambda path: degrade(path, tmp_path / "out.nii"),
        lambda path: score(path, path),
    ):
        refused(lambda run=run: run(series), r"series (is a folder|holds no scan).*DICOM.*dcm2niix")
        refused(lambda run=run: run(tmp_path / "scan.nii"), r"scan\.nii is DICOM.*dcm2niix")
    refused(lambda: score(series / "IM0001", series / "IM0001"), "IM0001 is not one of")
