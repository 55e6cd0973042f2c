"""Entries of methods by what they learn from: types, guides, recipes, cells that cannot be.

Run: pytest tests/workflow/test_entry_types.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import Table, load, parameters, refused
from mrsr.params import declared
from mrsr.params.experiment import Cell
from mrsr.params.jobs import Absent

TOYS = "workflow/experiments/toys.yaml: "
MODELS = {
    "toy_plain": "def build(scale, width=3): ...",
    "toy_guided": "GUIDED = True\n\n\ndef build(scale, width=3): ...",
    "toy_twice": "SCALES = (2,)\n\n\ndef build(scale, width=3): ...",
}


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Table]:
    """params.yaml with methods of its own, whose models lie in a folder outside the package."""
    (tmp_path / "models").mkdir()
    for name, text in MODELS.items():
        (tmp_path / "models" / f"{name}.py").write_text(text)
    monkeypatch.setattr(declared, "PACKAGE_FOLDERS", (*declared.PACKAGE_FOLDERS, tmp_path))
    params = parameters()["params"]
    params["methods"] = {
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
    toys = {
        "description": "what is tested",
        "grid": [{**block, "methods": list(params["methods"])}],
        "tables": {"table1": ["phantom_t1", "phantom_t2"]},
    }
    return {"params": params | {"experiment": "toys"}, "toys": toys}


def test_jobs_are_told_the_type(tmp_path: Path, tables: dict[str, Table]) -> None:
    resolved = load(tmp_path, tables)
    for asked in (resolved.super_resolution, resolved.evaluation):
        jobs = {method: asked("phantom_t2", 2, method) for method in resolved.methods}
        told = {key: (job.type, job.acceleration, job.recipe) for key, job in jobs.items()}
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
    tmp_path: Path, tables: dict[str, Table], method: str, change: dict[str, Any], told: str
) -> None:
    tables["params"]["methods"][method] |= change
    assert refused(tmp_path, tables).startswith(f"params.yaml: {told}")


def test_an_unused_entry_is_checked_too(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["params"]["methods"]["spare"] = {"like": "guided", "type": "single"}
    assert refused(tmp_path, tables).startswith("params.yaml: methods.spare.type")


def test_like_inherits_type_and_recipe(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["params"]["methods"]["joint"]["published"] = {"steps": 9}
    tables["params"]["methods"]["more"] = {
        "like": "joint",
        "acceleration": 2,
        "recipe": "published",
    }
    tables["toys"]["grid"][0]["methods"] = ["joint", "more"]
    methods = load(tmp_path, tables).methods
    assert (methods["more"].type, methods["more"].acceleration) == ("joint", 2)
    assert (methods["more"].recipe, methods["more"].training.steps) == ("published", 9)
    assert methods["joint"].recipe == "common"


def test_cells_that_cannot_be_are_absent_with_their_reason(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    resolved = load(tmp_path, tables)
    without = "it needs a registered second contrast, which the dataset does not have"
    assert resolved.absent == {
        Cell("phantom_t1", 2, "guided"): without,
        Cell("phantom_t1", 4, "guided"): without,
        Cell("phantom_t1", 4, "twice"): "it is designed for 2x only",
        Cell("phantom_t2", 4, "twice"): "it is designed for 2x only",
    }
    cells = set(resolved.cells)
    assert len(cells) == 2 * 2 * 6 - 4 and not cells & set(resolved.absent)
    assert resolved.guided("phantom_t2") and not resolved.guided("phantom_t1")
    absent = resolved.tables().absent
    assert Absent(dataset="phantom_t1", scale=2, method="guided", reason=without) in absent
    assert len(absent) == 4


def test_nothing_but_absent_cells_is_refused(tmp_path: Path, tables: dict[str, Table]) -> None:
    block = {"datasets": ["phantom_t1"], "scales": [2], "methods": ["guided"]}
    tables["toys"]["grid"] = [block]
    told = refused(tmp_path, tables)
    assert told.startswith(f"{TOYS}grid: it needs a registered second contrast")


def test_what_slicing_a_guide_is_handed(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["params"]["data"]["datasets"]["phantom_t1"]["normalise"] = {"percentile": 99}
    resolved = load(tmp_path, tables)
    handed = resolved.guides("phantom_t2")
    assert (handed.dataset, handed.guide) == ("phantom_t2", "phantom_t1")
    assert (handed.contrast, handed.guide_contrast) == ("T2", "T1")
    assert handed.normalise.percentile == 99
    assert not hasattr(resolved.slicing("phantom_t2"), "guide")


@pytest.mark.parametrize(
    ("guide", "told"),
    [
        ("openms_t1", "data.datasets.phantom_t2.guide: 'openms_t1' is not another contrast"),
        ("phantom_t2", "data.datasets.phantom_t2.guide: 'phantom_t2' is not another contrast"),
        ("nosuch", "data.datasets.phantom_t2.guide: no dataset 'nosuch'"),
    ],
)
def test_a_guide_is_another_contrast_of_the_source(
    tmp_path: Path, tables: dict[str, Table], guide: str, told: str
) -> None:
    tables["params"]["data"]["datasets"]["phantom_t2"]["guide"] = guide
    assert refused(tmp_path, tables).startswith(f"params.yaml: {told}")


def test_recipes(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["params"]["methods"]["plain"] |= {
        "train": {"steps": 11, "optimizer": {"lr": 0.25}},
        "published": {
            "losses": {"l2": 2}, "steps": 7, "optimizer": {"name": "sgd"}, "note": "from a talk",
        },
    }  # fmt: skip
    tables["params"]["methods"]["twice"]["published"] = {"note": "nothing is known"}
    common = load(tmp_path, tables).methods
    assert (common["plain"].recipe, common["plain"].losses) == ("common", {"l1": 1.0})
    assert (common["plain"].training.steps, common["plain"].training.optimizer.lr) == (11, 0.25)

    tables["toys"]["recipe"] = "published"
    resolved = load(tmp_path, tables)
    method = resolved.methods["plain"]
    assert (method.recipe, method.losses, method.training.steps) == ("published", {"l2": 2.0}, 7)
    # over the entry's own `train`, over `sr`
    assert (method.training.optimizer.name, method.training.optimizer.lr) == ("sgd", 0.25)
    assert method.training.batch == common["plain"].training.batch
    for name in ("twice", "own", "guided"):
        assert resolved.methods[name].recipe == "common"
        assert resolved.methods[name].training == common[name].training
        assert resolved.super_resolution("phantom_t2", 2, name).recipe == "common"
    assert resolved.super_resolution("phantom_t2", 2, "plain").recipe == "published"

    tables["params"]["methods"]["plain"]["recipe"] = "common"  # an entry's own choice wins
    tables["params"]["methods"]["guided"]["published"] = {"steps": 9}
    assert load(tmp_path, tables).methods["plain"] == common["plain"]


def test_full_options_are_those_before_the_experiment(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    tables["params"]["methods"]["plain"]["options"] = {"width": 64}
    tables["params"]["methods"]["wide"] = {"like": "plain"}
    tables["toys"]["grid"][0]["methods"] = ["plain", "wide", "guided"]
    tables["toys"]["set"] = {"methods": {"plain": {"options": {"width": 5}}}}
    resolved = load(tmp_path, tables)
    for name in ("plain", "wide"):
        job = resolved.evaluation("phantom_t1", 2, name)
        assert job.model.options == {"width": 5}
        assert job.full_options == {"width": 64}
    assert resolved.evaluation("phantom_t2", 2, "guided").full_options == {}


def test_the_packages_files_win_over_those_outside(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    (tmp_path / "models" / "srcnn.py").write_text("GUIDED = True\n\n\ndef build(scale, x): ...")
    assert "x" not in (declared.model_options("srcnn") or [])
    assert not declared.model_is_guided("srcnn")
    assert declared.model_options("toy_plain") == ["width"]
