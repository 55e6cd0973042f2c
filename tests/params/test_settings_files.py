"""The settings files of jobs: written when they differ, refused when changed, and what re-runs.

Run: pytest tests/params/test_settings_files.py
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import Table, load, parameters, put
from mrsr import cli
from mrsr.errors import BAD_INPUT, UserError
from mrsr.metrics import evaluate
from mrsr.params import jobs
from mrsr.params.settings_files import SettingsFiles
from mrsr.training import train_autoencoder, train_self, train_sr, train_vit

CELL = "phantom_t1/x2"
EXAMPLES = "examples/phantom_t1_x2"
TRAININGS = {f"checkpoints/{CELL}/{name}" for name in ("srcnn", "srresnet", "proposed")}
MEASURED = {f"metrics/{CELL}/{name}" for name in ("bicubic", "srcnn", "srresnet", "proposed")}
VIT = {"checkpoints/vit/segmentation", "checkpoints/vit/organ"}


@pytest.fixture
def tables() -> dict[str, Table]:
    tables = parameters("smoke")
    tables["params"]["experiment"] = "smoke"
    return tables


@pytest.fixture
def files(tmp_path: Path, tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings files of smoke, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return SettingsFiles(load(tmp_path, tables))


def arguments(files: SettingsFiles) -> dict[str, str]:
    return {name: files.argument(name) for name in files.jobs}


def test_every_job_has_a_file_of_its_own(files: SettingsFiles) -> None:
    others = {"tracking", "tables", "raw/phantom", "slices/phantom_t1", "slices/phantom_knee"}
    others |= {f"checkpoints/{CELL}/autoencoder", EXAMPLES, "figures", "report"}
    assert set(files.jobs) == TRAININGS | MEASURED | VIT | others
    assert len(set(arguments(files).values())) == len(files.jobs)
    files.write()
    for name, argument in arguments(files).items():
        path, _, digest = argument.removeprefix("@").partition("#")
        assert (
            path == f"{'data' if name.startswith('raw') else 'results/smoke/settings'}/{name}.json"
        )
        assert len(digest) == 12 and isinstance(json.loads(Path(path).read_text()), dict)


def test_files_are_written_only_where_they_differ(
    files: SettingsFiles, tmp_path: Path, tables: dict[str, Table]
) -> None:
    def times() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*/*.json")}

    files.write()
    before = times()
    files.write()
    assert times() == before
    changed = tmp_path / "results/smoke/settings/checkpoints" / CELL / "srcnn.json"
    for content in ("{}", "half a f"):
        changed.write_text(content)
        files.write()
        assert {path for path, time in times().items() if time != before[path]} == {str(changed)}
    put(tables["smoke"], "set methods srcnn options features", [4, 4])
    again = SettingsFiles(load(tmp_path, tables))
    again.write()
    assert json.loads(changed.read_text())["model"]["options"]["features"] == [4, 4]


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("set methods srresnet losses", {"l1": 0.5}, {f"checkpoints/{CELL}/srresnet"}),
        ("set methods srresnet train", {"steps": 3}, {f"checkpoints/{CELL}/srresnet"}),
        ("set sr steps", 3, TRAININGS),
        ("set sr adversarial base", 8, {f"checkpoints/{CELL}/proposed"}),
        ("set autoencoder weights", {"swap": 0.5}, {f"checkpoints/{CELL}/autoencoder"}),
        ("set vit segmentation steps", 3, {"checkpoints/vit/segmentation"}),
        ("set vit finetuning seed", 1, {"checkpoints/vit/organ"}),
        ("set vit classes", 6, {"checkpoints/vit/segmentation"}),
        ("set metrics preset", "volume", MEASURED | {"tables", EXAMPLES, "report"}),
        ("set metrics threads", 2, MEASURED | {EXAMPLES}),
        ("set data datasets phantom_knee max_slices", 5, {"slices/phantom_knee"}),
        ("set data datasets phantom_t1 label", "Brain", {"tables", "figures", "report"}),
        (
            "set methods srcnn options",
            {"features": [4, 4]},
            {f"checkpoints/{CELL}/srcnn", f"metrics/{CELL}/srcnn", EXAMPLES},
        ),
        (
            "set methods srcnn label",
            "Small",
            {f"metrics/{CELL}/srcnn", "tables", EXAMPLES, "figures", "report"},
        ),
        ("set methods edsr", {"losses": {"l2": 1}}, set()),  # another experiment's
        ("set data datasets openms_t1", {"crop": [64, 64]}, set()),
        ("description", "another", {"report"}),
        ("set figures slices", {"phantom_t1": "a.nii.gz:3"}, {EXAMPLES}),
    ],
)
def test_a_change_reaches_the_jobs_that_read_it_and_no_other(
    files: SettingsFiles, tmp_path: Path, tables: dict[str, Table], path: str, value: Any,
    expected: set[str],
) -> None:  # fmt: skip
    before = arguments(files)
    put(tables["smoke"], path, value)
    after = arguments(SettingsFiles(load(tmp_path, tables)))
    assert {name for name in before if before[name] != after[name]} == expected


def test_raw_data_changes_with_its_source(
    files: SettingsFiles, tmp_path: Path, tables: dict[str, Table]
) -> None:
    before = arguments(files)
    tables["params"]["data"]["sources"]["phantom"]["seed"] = 5
    after = arguments(SettingsFiles(load(tmp_path, tables)))
    assert {name for name in before if before[name] != after[name]} == {"raw/phantom"}


def _mrsr(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mrsr", *arguments])
        cli.main()


STORES = ("--train", "a.h5", "--validation", "b.h5", "--test", "c.h5")
OUT = ("--out", "out/best.pt")
JOBS: dict[str, tuple[Callable[[list[str]], None], str, tuple[str, ...]]] = {
    "train_sr": (train_sr.main, f"checkpoints/{CELL}/srcnn", (*STORES, *OUT)),
    "train_self": (train_self.main, f"checkpoints/{CELL}/srcnn", ("--slices", "a.h5", *OUT)),
    "autoencoder": (train_autoencoder.main, f"checkpoints/{CELL}/autoencoder", (*STORES, *OUT)),
    "vit": (train_vit.main, "checkpoints/vit/segmentation", (*STORES, *OUT)),
    "pretext": (train_vit.main, "checkpoints/vit/organ", ("--start", "a.pt", *STORES, *OUT)),
    "evaluate": (evaluate.main, f"metrics/{CELL}/srcnn", ("--slices", "a.h5", *OUT)),
    "tables": (lambda given: _mrsr(["tables", *given]), "tables", ("--out", "out")),
    "raw": (lambda given: _mrsr(["raw", "phantom", *given]), "raw/phantom", OUT),
    "slices": (lambda given: _mrsr(["slices", "a", *given]), "slices/phantom_t1", OUT),
    "tracking": (lambda given: _mrsr(["tracking-init", *given]), "tracking", OUT),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_refuses_a_file_that_changed_after_it_was_planned(
    files: SettingsFiles, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    files.write()
    main, job, more = JOBS[name]
    argument = files.argument(job)
    path = Path(argument[1:].partition("#")[0])
    settings = json.loads(path.read_text())
    settings[next(iter(settings))] = "another"
    told = {
        json.dumps(settings): f"mrsr: error: the settings of {path} changed after this job was "
        "planned; start the workflow again\n",
        "[": f"mrsr: error: settings of {path} are not JSON",
        "": f"mrsr: error: settings of {path} are not JSON",
    }
    for content, line in told.items():
        path.write_text(content)
        with pytest.raises(SystemExit) as stop:
            main(["--settings", argument, *more])
        assert stop.value.code == BAD_INPUT
        said = capfd.readouterr().err
        assert said.startswith(line) and said.count("\n") == 1, said
    path.unlink()
    with pytest.raises(SystemExit) as stop:
        main(["--settings", argument, *more])
    assert stop.value.code == BAD_INPUT
    assert f"cannot read settings file {path}: No such file" in capfd.readouterr().err
    assert not Path("out").exists()


def test_without_a_digest_a_file_is_read_as_it_is(
    files: SettingsFiles, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A job typed by hand, with settings of one's own."""
    files.write()
    source = tmp_path / "results/smoke/settings/tracking.json"
    mine = Path(shutil.copy(source, tmp_path / "mine.json"))
    mine.write_text('{"enabled": false}')
    with pytest.raises(SystemExit) as stop:
        _mrsr(["tracking-init", "--settings", f"@{mine}", "--out", "ready"])
    assert not stop.value.code and Path("ready").read_text() == "ready\n"
    assert not Path("mlflow.db").exists()


def test_command_lines_are_short(tmp_path: Path) -> None:
    """That of the paper's tables, with all of its settings, would have 3,000 characters."""
    files = SettingsFiles(load(tmp_path, parameters("paper"), "paper"))
    assert max(map(len, arguments(files).values())) < 120


def test_line_5_what_a_setting_names_is_behind_the_digest(
    tmp_path: Path, tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that name no file keep their arguments; others change with the file, and only they."""
    monkeypatch.chdir(tmp_path)
    plain = arguments(SettingsFiles(load(tmp_path, tables)))
    assert not any("+" in argument for argument in plain.values())
    (tmp_path / "unetr.pt").write_bytes(b"weights")
    (tmp_path / "people.csv").write_text("subject,split\n")
    put(tables["params"], "vit weights", "unetr.pt")
    put(tables["params"], "data datasets phantom_t1 split", {"kind": "csv", "path": "people.csv"})
    named = {"checkpoints/vit/segmentation", "slices/phantom_t1"}
    before = arguments(SettingsFiles(load(tmp_path, tables)))
    assert {name for name in before if "+" in before[name]} == named
    (tmp_path / "people.csv").write_text("subject,split\na,train\n")
    (tmp_path / "unetr.pt").unlink()
    again = SettingsFiles(load(tmp_path, tables))
    after = arguments(again)
    assert {name for name in before if before[name] != after[name]} == named
    assert [before[name].split("+")[0] for name in before] == [
        after[name].split("+")[0] for name in after
    ]
    again.write()  # a job reads its settings whatever stands behind
    assert jobs.read(jobs.Slicing, after["slices/phantom_t1"]).dataset == "phantom_t1"


def test_line_23_a_source_like_another(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["params"]["data"]["sources"]["clinic"] = {"like": "folder", "path": "x"}
    put(tables["params"], "data datasets phantom_knee source", "clinic")
    files = SettingsFiles(load(tmp_path, tables))
    assert files.jobs["raw/clinic"]["like"] == "folder"
    assert files.jobs["raw/clinic"]["fractions"] == [0.7, 0.1, 0.2]
    for wrong, told in (
        (
            {"like": "nothing"},
            "data.sources.clinic.like: no source 'nothing'; known: fastmri, f",
        ),
        ({"like": "folder", "seeds": 1}, "data.sources.clinic.seeds: unknown key"),
        ({"path": "x"}, "data.sources.clinic: missing file"),
    ):
        tables["params"]["data"]["sources"]["clinic"] = wrong
        with pytest.raises(UserError, match=re.escape(told)):
            load(tmp_path, tables)
