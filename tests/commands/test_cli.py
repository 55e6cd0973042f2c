"""The command line: what a user gets wrong is one line and an exit code, and leaves nothing behind.

Run: pytest tests/commands/test_cli.py
"""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import jsonschema
import nibabel
import numpy as np
import pytest

import builders
from mrsr import cli
from mrsr.errors import BAD_INPUT
from mrsr.metrics import evaluate
from mrsr.training import train_sr

SLICES = {
    "dataset": "own", "source": "folder", "contrast": "any", "organ": "brain", "crop": None,
    "central_slices": None, "max_slices": None, "max_volumes": None, "foreground": 0.0,
    "normalise": {"level": "volume", "percentile": 99.9}, "skip_bad": False,
    "split": {"kind": "subjects", "train": ["a"], "validation": ["b"], "test": ["c"]},
}  # fmt: skip


def save(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.diag([1, 1, 3, 1])), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder source of three good scans, prepared."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, name in enumerate("abc"):
        save(folder / f"{name}.nii.gz", np.random.default_rng(number).random((24, 20, 6)) + 1)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mrsr", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def sliced(monkeypatch: pytest.MonkeyPatch, scans: Path, **changes: object) -> tuple[int, Path]:
    source = json.dumps({"path": str(scans), "split": "", "organ": "brain", "seed": 0,
                         "fractions": [0.7, 0.1, 0.2]})  # fmt: skip
    manifest = scans.parent / "raw" / "manifest.csv"
    code = call(monkeypatch, "raw", "folder", "--settings", source, "--out", str(manifest))
    if code == 0:
        out = scans.parent / "slices"
        settings = json.dumps({**SLICES, **changes})
        options = ("--settings", settings, "--source-settings", source, "--out", str(out))
        code = call(monkeypatch, "slices", str(manifest), *options, "--workers", "1")
    return code, scans.parent / "slices"


def test_good_scans_give_three_stores(monkeypatch: pytest.MonkeyPatch, scans: Path) -> None:
    code, out = sliced(monkeypatch, scans)
    assert code == 0
    assert {"train.h5", "validation.h5", "test.h5"} <= {path.name for path in out.iterdir()}


def spoil_nan(path: Path) -> None:
    values = np.ones((24, 20, 6))
    values[3, 3, 3] = np.nan
    save(path, values)


def spoil_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def spoil_4d(path: Path) -> None:
    save(path, np.ones((24, 20, 6, 2)))


def spoil_empty(path: Path) -> None:
    save(path, np.zeros((24, 20, 6)))


def spoil_other(path: Path) -> None:
    path.write_bytes(gzip.compress(b"this is no scan" * 50))


@pytest.mark.parametrize("spoil", [spoil_nan, spoil_truncated, spoil_4d, spoil_empty, spoil_other])
def test_a_bad_scan_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, scans: Path, capsys: pytest.CaptureFixture[str], spoil
) -> None:
    spoil(scans / "b.nii.gz")
    code, out = sliced(monkeypatch, scans)
    assert code == BAD_INPUT
    errors = capsys.readouterr().err.strip().splitlines()
    assert sum(line.startswith("mrsr: error:") for line in errors) == 1
    assert "b.nii.gz" in errors[-1] and "Traceback" not in " ".join(errors)
    assert not out.exists() or not [path for path in out.rglob("*") if path.is_file()]


def test_skip_bad_reports_and_goes_on(monkeypatch: pytest.MonkeyPatch, scans: Path) -> None:
    for name in "de":  # as many good ones remain in every split
        save(scans / f"{name}.nii.gz", np.full((24, 20, 6), 2.0) + np.arange(6))
    spoil_nan(scans / "d.nii.gz")
    split = {"kind": "subjects", "train": ["a", "d"], "validation": ["b"], "test": ["c", "e"]}
    code, out = sliced(monkeypatch, scans, skip_bad=True, split=split)
    assert code == 0
    (skipped,) = json.loads((out / "skipped.json").read_text())
    assert "d.nii.gz" in json.dumps(skipped)


def test_smaller_than_the_crop(
    monkeypatch: pytest.MonkeyPatch, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = sliced(monkeypatch, scans, crop=[240, 240])
    assert code == BAD_INPUT
    assert "crop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("raw", "nosuch", "--settings", "{}"), "no source 'nosuch'"),
        (("raw", "phantom", "--settings", "not json"), "not JSON"),
        (
            ("slices", "absent.csv", "--settings", json.dumps(SLICES), "--out", "x"),
            "does not exist",
        ),
        (("params", "-e", "nosuch"), "run in the project's root"),
        (("score", "absent.nii.gz", "b.nii.gz"), "no file b.nii.gz"),
        (("enhance", "absent.nii.gz", "out.nii.gz", "-m", "absent.pt"), "absent.pt"),
        (("enhance", "a.nii.gz", "out.txt", "-m", "bicubic"), "must be named .nii"),
        (("tables", "--settings", "[]"), "settings must be a JSON object"),
        (("frozen", "absent", "--out", "x"), "absent"),
    ],
)
def test_mistakes_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == BAD_INPUT
    errors = capsys.readouterr().err
    assert told in errors and errors.count("\n") == 1
    assert not list(tmp_path.rglob("*.nii*"))


def test_schema_is_json_that_params_yaml_obeys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    params = json.loads(json.dumps(builders.parameters()["params"]))
    jsonschema.validate(params, schema)
    for path, value in (("sr stepz", 1), ("sr steps", 0), ("methods srcnn losses l7", 1)):
        wrong = copy.deepcopy(params)
        builders.put(wrong, path, value)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    described = [
        field for part in schema["$defs"].values() for field in part["properties"].values()
    ]
    assert all(field.get("description") or "$ref" in field for field in described)


@pytest.mark.parametrize("module", [train_sr, evaluate])
def test_jobs_without_their_settings(
    module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--settings", "{}", "--out", str(tmp_path / "out")]
    paths = {train_sr: ["--train", "a.h5", "--validation", "b.h5"], evaluate: ["--slices", "a.h5"]}
    with pytest.raises(SystemExit) as stop:
        module.main([*arguments, *paths[module]])
    assert stop.value.code == BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
