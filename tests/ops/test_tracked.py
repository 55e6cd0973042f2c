"""Line 15 of issue 11: `mrsr track` writes stages of what an experiment reads and makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import builders
from mrsr.errors import UserError
from mrsr.ops import tracked
from mrsr.params import loading


def written(folder: Path, names: list[str], tables: dict[str, Any]) -> dict[str, Any]:
    tables["params"]["tracked"] = names
    builders.write_parameters(folder, tables)
    tracked.write()
    return yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return builders.parameters(*builders.EXPERIMENTS)


def test_line_15_every_experiment_of_the_project_can_be_tracked(
    tmp_path: Path, tables: dict[str, Any]
) -> None:
    stages = written(tmp_path, list(builders.EXPERIMENTS), tables)
    assert {name for name in stages if name.startswith("raw-")} == {
        "raw-phantom", "raw-openms", "raw-ixi", "raw-fastmri",
    }  # fmt: skip
    made = {path for stage in stages.values() for out in stage["outs"] for path in out}
    for name in builders.EXPERIMENTS:
        resolved = loading.load("params.yaml", name)
        if name in ("demo", "study"):  # each check reads all experiments anew
            tracked.check_tracked(resolved)
        needed = {f"data/raw/{source}" for source in resolved.sources}
        assert set(stages[f"slices-{name}"]["deps"]) == needed
    # whatever a stage depends on is made by another, or is code
    for name, stage in stages.items():
        for path in stage.get("deps", []):
            assert path in made or path.startswith(("src/", "workflow/")), (name, path)


def test_line_15_bicubic_alone_has_no_checkpoints(tmp_path: Path, tables: dict[str, Any]) -> None:
    block = {"datasets": ["openms_t1"], "scales": [2], "methods": ["bicubic"]}
    tables["plain"] = {
        "description": "x", "grid": [block], "tables": {"table1": ["openms_t1"]},
    }  # fmt: skip
    stages = written(tmp_path, ["plain"], tables)
    names = ("slices", "metrics", "tables", "figures", "report")
    assert list(stages) == ["raw-openms", *(f"{name}-plain" for name in names)]
    text = (tmp_path / "dvc.yaml").read_text()
    assert "plain/checkpoints" not in text
    assert yaml.safe_load(text)["plots"] == ["results/plain/tables/psnr.png"]


def test_a_slice_chosen_in_params_yaml_is_recorded(tmp_path: Path, tables: dict[str, Any]) -> None:
    assert "figures" not in written(tmp_path, ["demo"], tables)["figures-demo"]["params"]
    tables["params"]["figures"] = {"slices": {"phantom_t1": "a.nii.gz:3"}}
    stages = written(tmp_path, ["demo"], tables)
    assert "figures" in stages["figures-demo"]["params"]
    assert "figures" in stages["report-demo"]["params"]
    assert "figures" not in stages["tables-demo"]["params"]


def test_artifacts_name_the_networks_but_no_ablation(
    tmp_path: Path, tables: dict[str, Any]
) -> None:
    from gto.constants import assert_name_is_valid

    written(tmp_path, list(builders.EXPERIMENTS), tables)
    named = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["artifacts"]
    for name, what in named.items():
        assert_name_is_valid(name)
        assert what["type"] == "model" and "for research only" in what["desc"]
    methods = {name.removeprefix("demo-phantom-t1-x2-") for name in named if "demo-" in name}
    assert {"srcnn", "srresnet", "proposed"} <= methods
    assert not methods & {"bicubic", "autoencoder", "no-vit", "vit-only"}
    resolved = loading.load("params.yaml", "paper")
    wanted = [
        cell
        for cell in resolved.trainings()
        if resolved.methods[cell.method].kind not in ("ablation", "control")
    ]
    paths = [what["path"] for what in named.values()]
    assert len([path for path in paths if path.startswith("results/paper/")]) == len(wanted)


def test_line_19_all_files_of_an_experiment_are_recorded(
    tmp_path: Path, tables: dict[str, Any]
) -> None:
    own = tmp_path / "studies" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("{like: pretexts_1, description: mine}")
    stages = written(tmp_path, ["studies/mine.yaml"], tables)
    files = [entry for entry in stages["checkpoints-mine"]["params"] if isinstance(entry, dict)]
    assert [next(iter(entry)) for entry in files] == [
        "studies/mine.yaml",
        "workflow/experiments/pretexts_1.yaml",
        "workflow/experiments/pretexts_0.yaml",
        "workflow/experiments/demo.yaml",
        "workflow/sizes/small.yaml",
    ]
    assert "experiment=studies/mine.yaml" in stages["slices-mine"]["cmd"]


def test_line_15_a_source_depends_on_the_files_that_its_settings_name(
    tmp_path: Path, tables: dict[str, Any]
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "people.csv").write_text("file,subject,split\n")
    tables["params"]["data"]["sources"]["folder"] = {"path": "scans", "split": "people.csv"}
    block = {"datasets": ["folder"], "scales": [2], "methods": ["bicubic"]}
    tables["own"] = {"description": "x", "grid": [block], "tables": {"table1": ["folder"]}}
    assert written(tmp_path, ["own"], tables)["raw-folder"]["deps"] == ["scans", "people.csv"]


def test_line_15_what_does_not_fit_is_told(
    tmp_path: Path, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, ["demo"], tables)
    with pytest.raises(UserError, match=r"'smoke' is not under `tracked:` in params.yaml \(demo\)"):
        tracked.check_tracked(loading.load("params.yaml", "smoke"))
    tables["demo"]["grid"][0]["datasets"] = ["openms_t1"]
    tables["demo"]["tables"]["table2"] = ["openms_t1"]
    builders.write_parameters(tmp_path, tables)
    changed = loading.load("params.yaml", "demo")
    tracked.check_stages(changed)  # nobody records anything
    monkeypatch.setenv("DVC_STAGE", "slices-demo")
    with pytest.raises(UserError, match=r"dvc\.yaml does not fit experiment 'demo' as it is now"):
        tracked.check_stages(changed)
    (tmp_path / "dvc.yaml").unlink()
    with pytest.raises(UserError, match="run `mrsr track`"):
        tracked.check_stages(changed)


def test_the_projects_dvc_yaml_is_what_track_writes(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    tracked.write(tmp_path / "dvc.yaml")
    assert (tmp_path / "dvc.yaml").read_bytes() == (root / "dvc.yaml").read_bytes()
