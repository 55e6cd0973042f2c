"""`mrsr score` on files. Run: pytest tests/scan/test_score.py"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from mrsr import cli
from mrsr.errors import UserError, one_line
from mrsr.metrics import definitions
from mrsr.params import jobs, schema
from mrsr.scan.score import score


@pytest.fixture
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ref = 400 * rng.random((3, 20, 24)).astype(np.float32)
    ref[0] = 0
    return ref + 10 * rng.standard_normal(ref.shape).astype(np.float32), ref


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """(slices, h, w) in the format of the name; NIfTI as (w, h, slices), thick slices last."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["reconstruction"] = array
            file["kspace"] = array.astype(np.complex64)
    else:
        affine = np.diag([1, 1, 5.0, 1]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


@pytest.mark.parametrize("name", schema.PRESETS)
def test_every_format_gives_the_same(tmp_path, arrays, name):
    pred, ref = arrays
    expected = definitions.score(pred, ref, jobs.preset(name))
    for left in ("p.npy", "p.h5", "p.nii.gz"):
        for right in ("r.nii", "r.npy"):
            result = score(save(tmp_path / left, pred), save(tmp_path / right, ref), name)
            assert {key: result[key] for key in expected} == expected
            assert (result["preset"], result["n_slices"]) == (name, 3)
            assert result["slices_without_signal"] == 1


def test_intensities_are_not_rescaled(tmp_path, arrays):
    ref = arrays[1]
    result = score(save(tmp_path / "p.npy", 2 * ref), save(tmp_path / "r.npy", ref), "slice")
    assert result["nmse"] == pytest.approx(1)


def test_one_slice_and_a_named_dataset(tmp_path, arrays):
    pred, ref = arrays
    np.save(tmp_path / "p.npy", pred[1])
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["a/target"], file["a/other"] = ref[1], pred[1]
    result = score(tmp_path / "p.npy", Path(f"{tmp_path}/r.h5:a/target"), "slice")
    expected = definitions.score(pred[1:2], ref[1:2], jobs.preset("slice"))
    assert result["psnr"] == expected["psnr"]
    with pytest.raises(UserError, match=r"r.h5:NAME.*a/other, a/target"):
        score(tmp_path / "p.npy", tmp_path / "r.h5", "slice")


def test_nifti_slices_follow_the_reference(tmp_path, arrays):
    """Another tool's file without a voxel size of its own is cut along the reference's axis."""
    pred, ref = arrays
    ref_path = save(tmp_path / "r.nii", ref)
    near = np.diag([1, 1, 5.0, 1])
    near[0, 3] = 0.3
    assert score(save(tmp_path / "p.nii", pred, near), ref_path, "slice")["psnr"] > 0
    with pytest.raises(UserError, match="apart by their affines"):
        score(save(tmp_path / "p.nii", pred, np.diag([-1, 1, 5.0, 1])), ref_path, "slice")


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"bad{kind}"
    match kind:
        case ".npy":
            path.write_bytes(b"nothing")
        case "-object.npy":
            np.save(path, np.array([{}], dtype=object), allow_pickle=True)
        case "-text.npy":
            np.save(path, np.array(["a"]))
        case "-nan.npy":
            np.save(path, np.full((3, 20, 24), np.nan))
        case "-shape.npy":
            np.save(path, np.ones((3, 20, 25)))
        case "-4d.npy":
            np.save(path, np.ones((1, 3, 20, 24)))
        case ".h5" | ".nii.gz" | ".txt":
            path.write_bytes(b"nothing")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (".npy", "not a NumPy array"),
        ("-object.npy", "not a NumPy array"),
        ("-text.npy", "give numbers"),
        ("-nan.npy", "NaN or infinite"),
        ("-shape.npy", "3x20x25.*3x20x24"),
        ("-4d.npy", "give numbers"),
        (".h5", "not an HDF5 file"),
        (".nii.gz", "bad.nii.gz"),
        (".txt", "not one of"),
        ("-missing.npy", "no file"),
        ("-missing.h5", "no file"),
    ],
)
def test_bad_files_get_one_line(tmp_path, arrays, kind, message):
    ref = save(tmp_path / "ref.npy", arrays[1])
    with pytest.raises(UserError, match=message) as caught:
        score(broken(tmp_path, kind), ref, "slice")
    assert one_line(str(caught.value)) == str(caught.value)
    with pytest.raises(UserError, match="no metrics preset"):
        score(ref, ref, "best")


@pytest.mark.parametrize(
    "content",
    [
        b"train:\n  lr: 0.1\n",
        b"- 1\n- 2\n",
        b"\xff\xfea\x00:\x00",
        "titre: été".encode("latin-1"),
        b"{unclosed",
        b"",
    ],
)
def test_line_16_score_beside_the_settings_of_another_project(
    tmp_path: Path, arrays: tuple[np.ndarray, np.ndarray], content: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    files = [str(save(tmp_path / f"{n}.npy", one)) for n, one in enumerate(arrays)]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes(content)
    done = CliRunner().invoke(cli.app, ["score", *files], catch_exceptions=False)
    assert json.loads(done.stdout)["psnr"] == score(*files)["psnr"]
    assert done.stderr.startswith("mrsr: built-in preset 'slice'; not mrsr's settings: params.yaml")
    assert done.stderr.count("\n") == 1
    # a preset that only the file could have, and a file that was asked for
    for words in (["--preset", "mine"], ["--params", "./params.yaml", "--preset", "mine"]):
        with pytest.raises(UserError, match=r"params\.yaml"):
            CliRunner().invoke(cli.app, ["score", *files, *words], catch_exceptions=False)
