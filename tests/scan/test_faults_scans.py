"""Issue 11, lines 2, 9 and 12: which way a scan is sliced, headers, and outputs that cannot be.

Run: pytest tests/scan/test_faults_scans.py
"""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from builders import read
from mrsr import inference
from mrsr.cli import app
from mrsr.datasets import openms
from mrsr.errors import UserError, one_line
from mrsr.params.jobs import Slicing
from mrsr.raw.nifti import read_nifti
from mrsr.raw.volume import Volume, along
from mrsr.resampling import bicubic
from mrsr.scan.degrade import degrade
from mrsr.scan.enhance import enhance
from mrsr.scan.score import score
from mrsr.slices import slicing, store


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """Different along every axis, positive."""
    grid = np.meshgrid(*(np.arange(n) / 7 for n in shape), indexing="ij")
    return sum((100 + 60 * np.sin(axis * (1 + number))) for number, axis in enumerate(grid)).astype(
        np.float32
    )


def save(path: Path, shape: tuple[int, ...], zooms=(1.0, 1.0, 1.0)) -> Path:
    image = nibabel.Nifti1Image(smooth(shape), np.diag([*zooms, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def enhanced(source: Path, **options) -> nibabel.Nifti1Image:
    out = source.with_name("out.nii")
    enhance(source, out, "bicubic", scale=2, overwrite=True, **options)
    return nibabel.load(out)


# shape, voxel size, the axis that is sliced along
SHAPES = [
    ((192, 192, 1), (1.146, 1.146, 1.0), 2),
    ((1, 64, 48), (1.0, 1.0, 1.0), 0),
    ((40, 1, 52), (0.5, 0.5, 0.5), 1),
    ((40, 1, 52), (5.0, 0.5, 5.0), 1),
    ((40, 52, 1), (2.0, 3.0, 0.1), 2),
    ((40, 52, 2), (1.146, 1.146, 1.0), 1),  # two slices are a volume: by voxel size
    ((40, 52, 8), (1.0, 1.0, 4.0), 2),
    ((8, 52, 40), (4.0, 1.0, 1.0), 0),
    ((20, 24, 28), (1.0, 1.0, 1.0), 2),
    ((20, 24, 28), (1.2, 1.0, 1.0), 0),
]


@pytest.mark.parametrize(("shape", "zooms", "axis"), SHAPES)
def test_2_a_single_slice_is_never_cut_across_its_plane(tmp_path, shape, zooms, axis):
    source = save(tmp_path / "in.nii", shape, zooms)
    after = enhanced(source)
    assert after.shape == tuple(n if k == axis else 2 * n for k, n in enumerate(shape))
    plane = [k for k in range(3) if k != axis]
    slices = torch.from_numpy(np.moveaxis(smooth(shape), axis, 0))
    expected = bicubic(slices, tuple(2 * shape[k] for k in plane)).numpy()
    assert np.allclose(np.moveaxis(after.get_fdata(), axis, 0), expected, atol=1e-2)
    if all(shape[k] % 2 == 0 for k in plane):
        degrade(source, tmp_path / "lr.nii", scale=2)
        small = tuple(n if k == axis else n // 2 for k, n in enumerate(shape))
        assert nibabel.load(tmp_path / "lr.nii").shape == small
    if min(shape[k] for k in plane) >= 11:
        assert score(source, source)["n_slices"] == shape[axis]


@settings(max_examples=30, deadline=None)
@given(
    axis=st.integers(0, 2),
    order=st.sampled_from(list(itertools.permutations(range(3)))),
    zooms=st.tuples(*[st.floats(0.1, 9)] * 3),
    sizes=st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_2_an_axis_of_length_one_is_the_slice_axis(tmp_path_factory, axis, order, zooms, sizes):
    """Whatever the voxel sizes and the orientation."""
    shape = list(sizes)
    shape.insert(axis, 1)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(zooms)[:, list(order)]
    path = tmp_path_factory.mktemp("one") / "one.nii"
    nibabel.save(nibabel.Nifti1Image(smooth(tuple(shape)), affine), path)
    volume = read_nifti(path)
    assert volume.stored.shape[0] == 1
    assert volume.attributes["axes"].startswith(str(axis))
    assert "guessed" not in volume.attributes


@pytest.mark.parametrize("third", [1.0, 0.0, 7.0])
def test_2_a_2d_file_is_one_slice_and_comes_out_as_such(tmp_path, third):
    image = nibabel.Nifti1Image(smooth((30, 40)), np.diag([0.8, 0.6, third or 1, 1]))
    if third == 0:  # no thickness in the header, and no sform
        image.set_sform(None, 0)
        image.header["pixdim"][3] = 0
    (tmp_path / "flat.nii").write_bytes(image.to_bytes())
    after = enhanced(tmp_path / "flat.nii")
    assert after.shape == (60, 80)
    assert np.allclose(after.header.get_zooms(), [0.4, 0.3])
    expected = bicubic(torch.from_numpy(smooth((30, 40))), (60, 80)).numpy()
    assert np.allclose(after.get_fdata(), expected, atol=1e-2)
    before = nibabel.load(tmp_path / "flat.nii")
    ends = [
        nibabel.affines.apply_affine(one.affine, [[-0.5, -0.5, 0], [x - 0.5, y - 0.5, 0]])
        for one, (x, y) in ((before, (30, 40)), (after, (60, 80)))
    ]
    assert np.allclose(*ends, atol=1e-4)
    degrade(tmp_path / "out.nii", tmp_path / "back.nii", scale=2)
    assert nibabel.load(tmp_path / "back.nii").shape == (30, 40)
    assert score(tmp_path / "back.nii", tmp_path / "flat.nii")["n_slices"] == 1


@pytest.mark.parametrize(
    ("zooms", "said"),
    [
        ((1.0, 1.0, 1.0), "axis 2 (axial slices)"),
        ((1.2, 1.0, 1.0), "axis 0 (sagittal slices)"),
        ((0.94, 1.2, 0.94), None),
        ((1.146, 1.146, 1.0), "axis 1 (coronal slices)"),
        ((1.0, 1.0, 3.0), None),
    ],
)
def test_2_near_isotropic_scans_say_which_axis_was_taken(tmp_path, capfd, zooms, said):
    source = save(tmp_path / "in.nii", (20, 24, 28), zooms)
    for run in (
        lambda: enhanced(source),
        lambda: degrade(source, tmp_path / "lr.nii", overwrite=True),
        lambda: score(source, source),
    ):
        run()
        lines = [line for line in capfd.readouterr().err.splitlines() if "sliced along" in line]
        expected = (
            f"mrsr: in.nii: nearly isotropic voxels, sliced along {said}; --axis names another"
        )
        assert set(lines) == ({expected} if said else set())
    enhanced(source, axis=1)
    assert "sliced along" not in capfd.readouterr().err  # the person knows


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_2_the_axis_can_be_named(tmp_path, axis):
    source = save(tmp_path / "in.nii", (20, 24, 28), (1.0, 1.0, 4.0))
    shape = tuple(n if k == axis else 2 * n for k, n in enumerate((20, 24, 28)))
    more = ["--axis", str(axis)]
    run = CliRunner().invoke
    fine, coarse = str(tmp_path / "fine.nii"), str(tmp_path / "coarse.nii")
    done = run(app, ["enhance", str(source), fine, "-m", "bicubic", "--scale", "2", *more])
    assert done.exit_code == 0, done.output
    assert nibabel.load(fine).shape == shape
    assert run(app, ["degrade", fine, coarse, *more]).exit_code == 0
    assert nibabel.load(coarse).shape == (20, 24, 28)
    scored = run(app, ["score", coarse, str(source), *more])
    assert f'"n_slices": {(20, 24, 28)[axis]}' in scored.output
    rest = [one for one in (2, 1, 0) if one != axis]
    np.save(tmp_path / "a.npy", smooth((20, 24, 28)).transpose(axis, *rest))  # slices first
    assert score(tmp_path / "a.npy", source, axis=axis)["psnr"] == 100
    assert run(app, ["score", coarse, str(source), "--axis", "3"]).exit_code == 2
    with pytest.raises(UserError, match="axis is 3, it must be 0, 1 or 2"):
        enhanced(source, axis=3)


SPLIT = {"kind": "subjects", "train": ["patient01", "patient03"], "validation": ["patient04"],
         "test": ["patient12"]}  # fmt: skip


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_2_a_datasets_setting_names_the_axis(tmp_path, axis, capfd):
    for name in openms.SCANS:
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / "raw" / name, (12, 14, 16))
    given = {"dataset": "openms_t1", "source": "openms", "contrast": "T1", "organ": "brain"}
    job = read(Slicing, given | {"split": SPLIT, "slice_axis": axis})
    slicing.slice_dataset(tmp_path / "raw", job, tmp_path / "out", SimpleNamespace())
    (first, *_) = store.read_store(tmp_path / "out" / "train.h5")
    axis = 2 if axis is None else axis  # the source's own
    assert first.shape == ((12, 16, 14), (14, 16, 12), (16, 14, 12))[axis]
    found = store.read_slices(tmp_path / "out" / "train.h5", first)
    rest = [one for one in (2, 1, 0) if one != axis]
    assert np.array_equal(found, smooth((12, 14, 16)).transpose(axis, *rest))
    with pytest.raises(UserError, match="slice_axis: must be at most 2"):
        read(Slicing, given | {"split": SPLIT, "slice_axis": 3})


def test_2_slicing_says_what_it_guessed_and_takes_single_slices(tmp_path, capfd, monkeypatch):
    """Own scans, of any source that reads them by their voxels."""
    for name in openms.SCANS:
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        thin = "patient12" in name
        save(tmp_path / "raw" / name, (40, 44, 1) if thin else (12, 14, 16))
    monkeypatch.setattr(openms, "read_volume", lambda ref: read_nifti(ref.path, **ref.names))
    given = {"dataset": "openms_t1", "source": "openms", "contrast": "T1", "organ": "brain"}
    job = read(Slicing, given | {"split": SPLIT})
    slicing.slice_dataset(tmp_path / "raw", job, tmp_path / "out", SimpleNamespace())
    assert all(v.shape == (1, 44, 40) for v in store.read_store(tmp_path / "out" / "test.h5"))
    said = capfd.readouterr().err
    assert "volumes have nearly isotropic voxels and are sliced along axis 2 (axial slices)" in said
    assert "data.datasets.openms_t1.slice_axis names another" in said


def test_2_volumes_without_a_file_axis_refuse_the_setting():
    volume = Volume(stored=smooth((3, 4, 5)), affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="take slice_axis away"):
        along(volume, 1, "knee.h5")


@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 2), second=st.integers(0, 2))
def test_2_turning_a_volume_is_reading_it_along_that_axis(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("turn") / "in.nii"
    affine = np.array([[0, 2.0, 0, 5], [1, 0, 0, -3], [0, 0, -3, 9], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(smooth((4, 5, 6)), affine), path)
    turned = along(read_nifti(path, slice_axis=first), second, "in.nii")
    expected = read_nifti(path, slice_axis=second)
    assert np.array_equal(turned.stored, expected.stored)
    assert np.array_equal(turned.affine, expected.affine)
    assert turned.voxel_size == expected.voxel_size
    assert turned.attributes == expected.attributes


# line 9: fields of a header that nibabel reads past and could not write, beside a valid sform
HEADERS = {
    "qform is no rotation": {"quatern_b": 3.0},
    "qform is NaN": {"quatern_c": np.nan},
    "qform is infinite": {"quatern_d": np.inf},
    "qform offset is NaN": {"qoffset_x": np.nan},
    "unknown qform code": {"qform_code": 77},
    "unknown sform code": {"sform_code": 9},
    "both codes unknown": {"qform_code": -3, "sform_code": 123},
    "voxel size zero": {"pixdim": [1, 0, 0, 0, 1, 1, 1, 1]},
    "voxel size negative": {"pixdim": [1, -1, 2, -3, 1, 1, 1, 1]},
    "voxel size NaN": {"pixdim": [1, np.nan, 2, 3, 1, 1, 1, 1]},
    "qfac zero": {"pixdim": [0, 1, 2, 3, 1, 1, 1, 1]},
    "qfac NaN": {"pixdim": [np.nan, 1, 2, 3, 1, 1, 1, 1]},
    "unknown units": {"xyzt_units": 255},
    "unknown intent": {"intent_code": 12345},
    "unknown slice order": {"slice_code": 99},
    "odd slice range": {"slice_start": 7, "slice_end": 900},
    "display range NaN": {"cal_max": np.nan},
    "no qform": {"qform_code": 0, "quatern_b": 3.0},
}


def header_of(path: Path, fields: dict) -> Path:
    """(12, 14, 5) of 1 x 2 x 6 mm with a valid, tilted sform, and these bytes in the header."""
    image = nibabel.Nifti1Image(smooth((12, 14, 5)), np.eye(4))
    turn = np.deg2rad(15)
    rotation = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(rotation) * [1.0, 2.0, 6.0]
    affine[:3, 3] = 4, -5, 6
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    content = bytearray(image.to_bytes())
    offsets = image.header.template_dtype.fields
    for name, value in fields.items():
        kind, start = offsets[name][:2]
        raw = np.asarray(value).astype(kind.base).tobytes()
        content[start : start + len(raw)] = raw
    path.write_bytes(content)
    return path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # nibabel's own, on NaN
@pytest.mark.parametrize("kind", HEADERS)
def test_9_what_can_be_read_can_be_written(tmp_path, kind, capfd):
    source = header_of(tmp_path / "in.nii", HEADERS[kind])
    before = nibabel.load(source)
    degrade(source, tmp_path / "lr.nii", scale=2)
    for name, factor in (("lr.nii", 0.5), ("out.nii", 2)):
        after = enhanced(source) if name == "out.nii" else nibabel.load(tmp_path / name)
        shape = (int(12 * factor), int(14 * factor), 5)
        assert after.shape == shape
        ends = [[-0.5, -0.5, -0.5], [n - 0.5 for n in shape]]
        expected = nibabel.affines.apply_affine(before.affine, [ends[0], [11.5, 13.5, 4.5]])
        assert np.allclose(nibabel.affines.apply_affine(after.affine, ends), expected, atol=1e-3)
        for code in ("qform_code", "sform_code"):
            assert int(after.header[code]) == int(before.header[code])
        if int(after.header["qform_code"]):
            assert np.isfinite(after.get_qform()).all()
        zooms = np.array(after.header.get_zooms())
        assert np.isfinite(zooms).all() and (zooms > 0).all()
    rebuilt = "its qform is no rotation; the output's is made from the sform"
    if kind in ("qform is no rotation", "qform is NaN", "qform is infinite"):
        assert np.allclose(after.get_qform(), after.get_sform(), atol=1e-4)
        assert f"warning: in.nii: {rebuilt}" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "fields",
    [
        {"sform_code": 0, "quatern_b": 3.0},
        {"sform_code": 0, "quatern_b": np.nan},
        {"srow_x": [np.nan] * 4},
        {"sform_code": 0, "qoffset_x": np.inf},
        {"datatype": 31},
        {"bitpix": 77, "datatype": 1},
        {"scl_inter": np.nan, "scl_slope": 1},
        {"scl_slope": np.inf},
    ],
)
def test_9_what_cannot_be_read_is_one_line_before_any_work(tmp_path, fields, monkeypatch):
    monkeypatch.setattr(inference, "forward", None)
    source = header_of(tmp_path / "in.nii", fields)
    with pytest.raises(UserError, match=r"in\.nii") as caught:
        enhanced(source)
    assert one_line(str(caught.value)) == str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii"]


def outputs(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "folder.nii").mkdir()
    (folder / "full.nii").mkdir()
    (folder / "full.nii" / "mine").write_text("x")
    (folder / "file").write_text("x")
    (folder / "loop.nii").symlink_to(folder / "loop.nii")
    return {
        "folder": (folder / "folder.nii", "is a folder"),
        "folder with files": (folder / "full.nii", "is a folder"),
        "below a file": (folder / "file" / "out.nii", "cannot write .*Not a directory"),
        "far below a file": (folder / "file" / "a" / "out.nii", "cannot write .*Not a directory"),
        "too long": (folder / f"{'n' * 300}.nii", "cannot write .*name too long"),
        "another format": (folder / "out.mgz", "must be named"),
        "a link to itself": (folder / "loop.nii", "cannot write .*symbolic links"),
    }


@pytest.mark.parametrize(
    "kind",
    ["folder", "folder with files", "below a file", "far below a file", "too long",
     "another format", "a link to itself"],
)  # fmt: skip
def test_12_outputs_that_cannot_be_written_are_told_before_any_work(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("mrsr.raw.nifti.read_nifti", None)  # not even the scan is read
    source = save(tmp_path / "in.nii", (12, 14, 5))
    out, message = outputs(tmp_path)[kind]
    before = sorted(tmp_path.rglob("*"))
    for run in (
        lambda: enhance(source, out, "bicubic", scale=2, overwrite=True),
        lambda: degrade(source, out, overwrite=True),
    ):
        with pytest.raises(UserError, match=message) as caught:
            run()
        assert one_line(str(caught.value)) == str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("size", "kind"), [(16383, "Nifti1Image"), (16384, "Nifti2Image")])
def test_12_an_axis_that_nifti1_cannot_count_is_written_as_nifti2(
    tmp_path, size, kind, suffix, capfd
):
    image = nibabel.Nifti1Image(smooth((size, 4, 2)), np.diag([0.01, 1.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a long scan"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"mine"))
    image.set_qform(image.affine, 1)
    nibabel.save(image, tmp_path / "long.nii")
    out = tmp_path / f"out{suffix}"
    enhance(tmp_path / "long.nii", out, "bicubic", scale=2)
    after = nibabel.load(out)
    assert type(after).__name__ == kind
    assert after.shape == (2 * size, 8, 2)
    assert after.header.get_xyzt_units() == ("mm", "sec")
    assert bytes(after.header["descrip"]).rstrip(b"\0") == b"a long scan"
    assert [e.get_content() for e in after.header.extensions] == [b"mine"]
    assert np.allclose(after.get_qform(), after.get_sform(), atol=1e-4)
    expected = bicubic(torch.from_numpy(smooth((size, 4, 2)).transpose(2, 1, 0)), (8, 2 * size))
    assert np.allclose(after.get_fdata().transpose(2, 1, 0), expected.numpy(), atol=1e-2)
    assert ("written as NIfTI-2" in capfd.readouterr().err) == (kind == "Nifti2Image")
    assert read_nifti(out).stored.shape == (2, 8, 2 * size)
