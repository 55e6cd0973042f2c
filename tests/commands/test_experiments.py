"""`mrsr experiments`: every file is listed, one that does not load does not hide the others.

Run: pytest tests/commands/test_experiments.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mrsr import cli
from mrsr.commands.experiments import UNKNOWN
from mrsr.params import loading

OWN = {
    "like": "demo",
    "description": "two networks",
    "about": "three minutes on a laptop",
    "grid": [
        {"datasets": ["phantom_t1"], "scales": [2, 4], "methods": ["bicubic", "srcnn"]},
        {"datasets": ["openms_t1"], "scales": [2], "methods": ["srcnn"]},
    ],
    "tables": {"table1": ["phantom_t1", "openms_t1"]},
}


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml, three experiments, and one of your own beside them."""
    (tmp_path / loading.EXPERIMENTS).mkdir(parents=True)
    files = (loading.EXPERIMENTS / f"{name}.yaml" for name in ("demo", "openms_ablation", "smoke"))
    for file in ("params.yaml", *files):
        shutil.copy(root / file, tmp_path / file)
    shutil.copytree(root / loading.SIZES, tmp_path / loading.SIZES)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `mrsr experiments`."""
    monkeypatch.setattr("sys.argv", ["mrsr", "experiments", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0), *capsys.readouterr()


def test_json_tells_what_runs_the_data_and_the_time(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = listed(monkeypatch, capsys, "own.yaml", "--json")
    found = {entry["name"]: entry for entry in json.loads(out)}
    assert (code, err) == (0, "")
    assert list(found) == [*loading.names(project / "params.yaml"), "own"]
    assert found["own"] == {
        "name": "own",
        "description": "two networks",
        "datasets": ["phantom_t1", "openms_t1"],
        "scales": [2, 4],
        "methods": ["bicubic", "srcnn"],
        "runs": {"phantom_t1": {"2x": 2, "4x": 2}, "openms_t1": {"2x": 1}},
        "sources": ["phantom", "openms"],
        "about": "three minutes on a laptop",
    }
    # the ViT learns from the phantom's labels, so the ablation needs it beside the open scans
    assert found["openms_ablation"]["sources"] == ["openms", "phantom"]


def test_the_table_has_a_row_each_and_fits_80_columns(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = listed(monkeypatch, capsys, "own.yaml")
    lines = out.splitlines()
    first = [line.split()[0] for line in lines if line[1:2].strip() not in ("", "─")]
    assert first == ["experiment", *loading.names(project / "params.yaml"), "own"]
    assert code == 0 and max(map(len, lines)) <= 80
    monkeypatch.setenv("COLUMNS", "200")
    wide = listed(monkeypatch, capsys, "own.yaml")[1]
    assert "phantom_t1, openms_t1 at 2x, 4x: 2 methods" in wide


def test_an_experiment_that_does_not_load_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / loading.EXPERIMENTS / "demo_broken.yaml").write_text("like: demo\ngird: []\n")
    code, out, err = listed(monkeypatch, capsys, "own.yaml", "missing.yaml", "--json")
    names = [entry["name"] for entry in json.loads(out)]
    assert code == 2 and "own" in names and "smoke" in names and "demo_broken" not in names
    broken, missing = err.splitlines()
    assert "demo_broken.yaml: gird: unknown key" in broken
    assert missing.startswith("mrsr: error: no experiment 'missing.yaml'")


def test_a_mistake_in_params_is_said_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("metrics:", "metrics:\n  presett: slice", 1))
    code, out, err = listed(monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert err == "mrsr: error: params.yaml: metrics.presett: unknown key\n"


def test_a_time_that_nobody_measured_is_not_made_up(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "own.yaml").write_text(yaml.safe_dump({**OWN, "about": ""}))
    _, out, _ = listed(monkeypatch, capsys, "own.yaml", "--json")
    assert json.loads(out)[-1]["about"] == UNKNOWN
