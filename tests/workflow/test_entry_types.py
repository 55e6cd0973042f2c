"""Entries of methods by what they learn from: types, guides, recipes, cells that cannot be.

Run: pytest tests/workflow/test_entry_types.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrsr.errors import UserError
from mrsr.params import declared, loading
from project import ROOT

MODELS = {
    "toy_plain": "def build(scale, width=3): ...",
    "toy_guided": "GUIDED = True\n\n\ndef build(scale, width=3): ...",
    "toy_twice": "SCALES = (2,)\n\n\ndef build(scale, width=3): ...",
}


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """params.yaml with methods of its own, whose models lie in a folder outside the package."""
    (tmp_path / "models").mkdir()
    for name, text in MODELS.items():
        (tmp_path / "models" / f"{name}.py").write_text(text)
    monkeypatch.setattr(declared, "PACKAGE_FOLDERS", (*declared.PACKAGE_FOLDERS, tmp_path))
    made = yaml.load((ROOT / "params.yaml").read_text(), Loader=loading._UniqueKeys)
    made["methods"] = {
        "bicubic": {},
        "plain": {"model": "toy_plain", "losses": {"l1": 1}},
        "guided": {"model": "toy_guided", "type": "guided", "losses": {"l1": 1, "guide": 0.5}},
        "joint": {
            "model": "toy_plain", "type": "joint", "acceleration": 4,
            "losses": {"l1": 1, "reconstruction": 1},
        },
        "own": {"model": "toy_plain", "type": "self", "losses": {"l1": 1}},
        "twice": {"model": "toy_twice", "losses": {"l1": 1}},
    }  # fmt: skip
    block = {"datasets": ["phantom_t1", "phantom_t2"], "scales": [2, 4]}
    made["experiments"] = {
        "toys": {
            "description": "what is tested",
            "grid": [{**block, "methods": list(made["methods"])}],
            "tables": {"table1": ["phantom_t1", "phantom_t2"]},
        }
    }
    made["experiment"] = "toys"
    return made


def load(tmp_path: Path, document: dict[str, Any]) -> loading.InForce:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return loading.load(file)


def refused(tmp_path: Path, document: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, document)
    message = str(caught.value)
    assert "\n" not in message
    return message.partition("params.yaml: ")[2]


def test_jobs_are_told_the_type(tmp_path: Path, document: dict[str, Any]) -> None:
    in_force = load(tmp_path, document)
    told = {
        method: (settings["type"], settings["acceleration"], settings["recipe"])
        for method in document["methods"]
        for settings in (
            in_force.train_settings("phantom_t2", 2, method),
            in_force.evaluate_settings("phantom_t2", 2, method),
        )
    }
    assert told == {
        "bicubic": ("single", 1, "common"),
        "plain": ("single", 1, "common"),
        "guided": ("guided", 1, "common"),
        "joint": ("joint", 4, "common"),
        "own": ("self", 1, "common"),
        "twice": ("single", 1, "common"),
    }


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        ("plain", {"type": "guided"}, "methods.plain.type: model 'toy_plain' takes no guide"),
        ("guided", {"type": "single"}, "methods.guided.type: model 'toy_guided' takes a guide"),
        ("guided", {"type": "self"}, "methods.guided.type"),
        ("plain", {"type": "twin"}, "methods.plain.type"),
        ("plain", {"acceleration": 4}, "methods.plain.acceleration: only methods of type joint"),
        ("guided", {"acceleration": 2}, "methods.guided.acceleration"),
        ("joint", {"acceleration": 0}, "methods.joint.acceleration"),
        ("plain", {"recipe": "mine"}, "methods.plain.recipe"),
        ("plain", {"published": {"stepz": 3}}, "methods.plain.published.stepz: unknown key"),
        ("plain", {"published": {"steps": 0}}, "methods.plain.published.steps"),
        ("plain", {"published": {"losses": {"l7": 1}}}, "methods.plain.published.losses.l7: no"),
        ("plain", {"published": {"losses": {"l1": -1}}}, "methods.plain.published.losses.l1"),
        ("plain", {"published": {"losses": {"l1": "x"}}}, "methods.plain.published.losses.l1"),
        ("plain", {"published": {"losses": ["l1"]}}, "methods.plain.published.losses: must be a"),
        ("plain", {"published": 3}, "methods.plain.published"),
    ],
)
def test_a_mistake_is_told_by_its_path(
    tmp_path: Path, document: dict[str, Any], method: str, change: dict[str, Any], told: str
) -> None:
    document["methods"][method] |= change
    assert refused(tmp_path, document).startswith(told)


def test_an_unused_entry_is_checked_too(tmp_path: Path, document: dict[str, Any]) -> None:
    document["methods"]["spare"] = {"like": "guided", "type": "single"}
    assert refused(tmp_path, document).startswith("methods.spare.type")


def test_like_inherits_type_and_recipe(tmp_path: Path, document: dict[str, Any]) -> None:
    document["methods"]["joint"]["published"] = {"steps": 9}
    document["methods"]["more"] = {"like": "joint", "acceleration": 2, "recipe": "published"}
    document["experiments"]["toys"]["grid"][0]["methods"] = ["joint", "more"]
    rows = load(tmp_path, document).rows
    assert (rows["more"].type, rows["more"].acceleration) == ("joint", 2)
    assert (rows["more"].recipe, rows["more"].training.steps) == ("published", 9)
    assert rows["joint"].recipe == "common"


def test_cells_that_cannot_be_are_absent_with_their_reason(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    in_force = load(tmp_path, document)
    without = "it needs a registered second contrast, which the dataset does not have"
    assert in_force.absent == {
        ("phantom_t1", 2, "guided"): without,
        ("phantom_t1", 4, "guided"): without,
        ("phantom_t1", 4, "twice"): "it is designed for 2x only",
        ("phantom_t2", 4, "twice"): "it is designed for 2x only",
    }
    cells = {(cell.dataset, cell.scale, cell.method) for cell in in_force.cells}
    assert len(cells) == 2 * 2 * 6 - 4 and not cells & set(in_force.absent)
    assert in_force.guided("phantom_t2") and not in_force.guided("phantom_t1")
    table = in_force.table_settings()
    assert {"dataset": "phantom_t1", "scale": 2, "method": "guided", "reason": without} in table[
        "absent"
    ]
    assert len(table["absent"]) == 4
    json.dumps(table, allow_nan=False)


def test_nothing_but_absent_cells_is_refused(tmp_path: Path, document: dict[str, Any]) -> None:
    block = {"datasets": ["phantom_t1"], "scales": [2], "methods": ["guided"]}
    document["experiments"]["toys"]["grid"] = [block]
    told = refused(tmp_path, document)
    assert told.startswith("experiments.toys.grid: it needs a registered second contrast")


def test_what_slicing_a_guide_is_handed(tmp_path: Path, document: dict[str, Any]) -> None:
    document["data"]["datasets"]["phantom_t1"]["normalise"] = {"percentile": 99}
    in_force = load(tmp_path, document)
    handed = in_force.guide_settings("phantom_t2")
    assert (handed["dataset"], handed["guide"]) == ("phantom_t2", "phantom_t1")
    assert (handed["contrast"], handed["guide_contrast"]) == ("T2", "T1")
    assert handed["normalise"]["percentile"] == 99
    assert "guide" not in in_force.slice_settings("phantom_t2")


@pytest.mark.parametrize(
    ("guide", "told"),
    [
        ("openms_t1", "data.datasets.phantom_t2.guide: 'openms_t1' is not another contrast"),
        ("phantom_t2", "data.datasets.phantom_t2.guide: 'phantom_t2' is not another contrast"),
        ("nosuch", "data.datasets.phantom_t2.guide: no dataset 'nosuch'"),
    ],
)
def test_a_guide_is_another_contrast_of_the_source(
    tmp_path: Path, document: dict[str, Any], guide: str, told: str
) -> None:
    document["data"]["datasets"]["phantom_t2"]["guide"] = guide
    assert refused(tmp_path, document).startswith(told)


def test_recipes(tmp_path: Path, document: dict[str, Any]) -> None:
    document["methods"]["plain"] |= {
        "train": {"steps": 11, "optimizer": {"lr": 0.25}},
        "published": {
            "losses": {"l2": 2}, "steps": 7, "optimizer": {"name": "sgd"}, "note": "from a talk",
        },
    }  # fmt: skip
    document["methods"]["twice"]["published"] = {"note": "nothing is known"}
    document["methods"]["own"]["recipe"] = "published"  # it has none
    common = load(tmp_path, document).rows
    assert (common["plain"].recipe, common["plain"].losses) == ("common", {"l1": 1.0})
    assert (common["plain"].training.steps, common["plain"].training.optimizer.lr) == (11, 0.25)

    document["experiments"]["toys"]["recipe"] = "published"
    in_force = load(tmp_path, document)
    row = in_force.rows["plain"]
    assert (row.recipe, row.losses, row.training.steps) == ("published", {"l2": 2.0}, 7)
    # over the entry's own `train`, over `sr`
    assert (row.training.optimizer.name, row.training.optimizer.lr) == ("sgd", 0.25)
    assert row.training.batch == common["plain"].training.batch
    for name in ("twice", "own", "guided"):
        assert in_force.rows[name].recipe == "common"
        assert in_force.rows[name].training == common[name].training
        assert in_force.train_settings("phantom_t2", 2, name)["recipe"] == "common"
    assert in_force.train_settings("phantom_t2", 2, "plain")["recipe"] == "published"

    document["methods"]["plain"]["recipe"] = "common"  # an entry's own choice wins
    assert load(tmp_path, document).rows["plain"] == common["plain"]


def test_full_options_are_those_before_the_experiment(
    tmp_path: Path, document: dict[str, Any]
) -> None:
    document["methods"]["plain"]["options"] = {"width": 64}
    document["methods"]["wide"] = {"like": "plain"}
    document["experiments"]["toys"]["grid"][0]["methods"] = ["plain", "wide", "guided"]
    document["experiments"]["toys"]["set"] = {"methods": {"plain": {"options": {"width": 5}}}}
    in_force = load(tmp_path, document)
    for name in ("plain", "wide"):
        settings = in_force.evaluate_settings("phantom_t1", 2, name)
        assert settings["model"]["options"] == {"width": 5}
        assert settings["full"] == {"options": {"width": 64}}
    assert in_force.evaluate_settings("phantom_t2", 2, "guided")["full"] == {"options": {}}


def test_the_packages_files_win_over_those_outside(tmp_path: Path, document: Any) -> None:
    (tmp_path / "models" / "srcnn.py").write_text("GUIDED = True\n\n\ndef build(scale, x): ...")
    assert "x" not in (declared.model_options("srcnn") or [])
    assert not declared.model_is_guided("srcnn")
    assert declared.model_options("toy_plain") == ["width"]
