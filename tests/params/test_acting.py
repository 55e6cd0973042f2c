"""Lines 18 and 23 of issue 11: an experiment is what it says, in the steps and sizes it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import builders
from builders import Table, load, parameters, put, refused
from mrsr.errors import UserError
from mrsr.method import losses
from mrsr.params import declared, loading

FILE = "workflow/experiments/mine.yaml: "


@pytest.fixture
def tables() -> dict[str, Table]:
    """params.yaml, and an experiment of the whole method at the small size."""
    tables = parameters("demo")
    tables["mine"] = {
        "description": "mine",
        "size": "small",
        "grid": [{"datasets": ["phantom_t1"], "scales": [2], "methods": ["bicubic", "proposed"]}],
        "tables": {"table1": ["phantom_t1"]},
        "vit_data": {"labelled": ["phantom_t1"], "pool": ["phantom_t1", "phantom_knee"]},
    }
    return tables


# --- line 18: a setting that cannot act -----------------------------------------------------------


def test_line_18_a_short_run_does_not_drop_the_feature_losses(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    put(tables["mine"], "set sr steps", 20)
    told = refused(tmp_path, tables, "mine")
    assert told.startswith(
        f"{FILE}methods.proposed: its losses adversarial, vit, structure, texture never act: "
        "adversarial.warmup is 50, and the training has 20 steps; "
    )
    put(tables["mine"], "set sr adversarial warmup", 19)
    assert load(tmp_path, tables, "mine").methods["proposed"].training.steps == 20


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("set sr adversarial warmup", 300, "methods.proposed: its losses adversarial, "),
        ("set methods proposed train", {"adversarial": {"warmup": 900}}, "methods.proposed: its "),
        (
            "set methods proposed train",
            {"features": {"random": ["vit"]}},
            "",  # a control: the loss is there
        ),
        (
            "set methods proposed",
            {"train": {"features": {"random": ["vit"]}}, "losses": {"vit": 0}},
            "methods.proposed.train.features.random: no loss of weight above 0 uses 'vit'",
        ),
        (
            "set methods srresnet train",
            {"adversarial": {"warmup": 3}},
            "set.methods.srresnet.train.adversarial: no loss of the method uses it",
        ),
        (
            "set methods srgan train",
            {"features": {"target": "hr"}},
            "set.methods.srgan.train.features: no loss of the method uses it",
        ),
        (
            "set methods srcnn train",
            {"patch": 32, "patch_lr": 16},
            "set.methods.srcnn.train.patch: patch_lr takes its place",
        ),
        (
            "set methods csn recipe",
            "published",
            "set.methods.csn.recipe: the method has no published recipe",
        ),
        ("recipe", "published", "recipe: no method of the grid has a published recipe"),
        (
            "set autoencoder discriminator",
            {"warmup": 160},
            "autoencoder.discriminator.warmup: the terms adversarial and swap never act",
        ),
    ],
)
def test_line_18_a_setting_that_cannot_act_is_refused(
    tmp_path: Path, tables: dict[str, Table], path: str, value: Any, told: str
) -> None:
    put(tables["mine"], path, value)
    if told:
        assert refused(tmp_path, tables, "mine").startswith(FILE + told)
    else:
        load(tmp_path, tables, "mine")


def test_line_18_every_loss_that_can_be_late_is_known_without_torch() -> None:
    assert declared.learned_losses() == losses.LEARNED


@pytest.mark.parametrize("name", losses.LEARNED)
def test_line_18_a_training_by_hand_refuses_it_too(name: str) -> None:
    weights = {"l1": 1.0, name: 1.0}
    assert losses.warmup(weights, 9, 10) == 9
    for steps in (10, 11):
        with pytest.raises(UserError, match=rf"losses {name} would never act: .* is {steps}, "):
            losses.warmup(weights, steps, 10)
    assert losses.warmup({"l1": 1.0}, 99, 10) == 0  # no term waits for it


def test_line_18_every_experiment_of_the_project_is_what_it_says() -> None:
    for name in builders.EXPERIMENTS:
        for method in loading.load(builders.ROOT / "params.yaml", name).methods.values():
            if set(method.losses) & set(losses.LEARNED):
                assert method.training.adversarial.warmup < method.training.steps, (name, method)


# --- line 23: sizes, names ------------------------------------------------------------------------


def test_line_23_a_size_is_picked_in_one_word(tmp_path: Path, tables: dict[str, Table]) -> None:
    steps = {}
    for size in ("tiny", "small", "paper"):
        tables["mine"]["size"] = size
        given = load(tmp_path, tables, "mine")
        trainings = (given.params.vit.segmentation, given.params.vit.finetuning)
        steps[size] = [
            each.steps for each in (*trainings, given.params.autoencoder, given.params.sr)
        ]
    full = loading.load(builders.ROOT / "params.yaml", "paper").params
    assert (
        steps["paper"]
        == [20000, 20000, 18750, 18750]
        == [
            full.vit.segmentation.steps,
            full.vit.finetuning.steps,
            full.autoencoder.steps,
            full.sr.steps,
        ]
    )
    assert steps["tiny"] == [2, 2, 2, 2]
    assert all(small <= 300 for small in steps["small"])
    # what the experiment sets comes on top, and `like` takes the size over
    tables["more"] = {"like": "mine", "description": "more", "set": {"sr": {"batch": 3}}}
    tables["mine"]["size"] = "small"
    more = load(tmp_path, tables, "more").params
    assert (more.sr.batch, more.sr.steps) == (3, 300)
    tables["more"]["size"] = "tiny"
    assert load(tmp_path, tables, "more").params.sr.steps == 2


def test_line_23_steps_alone_do_not_start_the_papers_trainings(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    del tables["mine"]["size"]
    put(tables["mine"], "set sr", {"steps": 20, "adversarial": {"warmup": 5}})
    assert refused(tmp_path, tables, "mine") == (
        f"{FILE}size: set.sr.steps is 20, but the vision transformer 20,000 steps in 3D, its "
        "encoder 20,000, each auto-encoder 18,750 would be trained; pick one of paper, small, tiny"
    )
    tables["mine"]["size"] = "paper"  # who asks for it gets it
    assert load(tmp_path, tables, "mine").params.vit.segmentation.steps == 20000
    del tables["mine"]["size"]
    put(tables["mine"], "set vit", {"segmentation": {"steps": 3}, "finetuning": {"steps": 3}})
    assert "but each auto-encoder 18,750 would be" in refused(tmp_path, tables, "mine")
    put(tables["mine"], "set autoencoder", {"steps": 3})
    load(tmp_path, tables, "mine")


def test_line_23_methods_without_frozen_networks_need_no_size(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    del tables["mine"]["size"]
    tables["mine"]["grid"][0]["methods"] = ["bicubic", "srresnet"]
    put(tables["mine"], "set sr steps", 20)
    load(tmp_path, tables, "mine")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("size", "large", "size: no 'large'; known: paper, small, tiny"),
        ("vit", {"also": []}, "vit: the data of the vision transformer is now `vit_data:`"),
        (
            "tables",
            {"mine": ["phantom_t1"]},
            "tables.mine: the paper has two tables, and these are made; known: table1, table2",
        ),
        ("tables", {"table1": ["phantom_t1", "gone"]}, "tables.table1: no 'gone'; known: "),
        ("vit_data labelled", ["openms_t1"], "vit_data.labelled: 'openms_t1' has no labels "),
        ("vit_data labelled", ["ixi_t1"], "vit_data.labelled: 'ixi_t1' has no labels "),
        ("vit_data labelled", ["fastmri"], "vit_data.labelled: 'fastmri' has no labels "),
        ("vit_data labelled", ["phantom_knee"], "vit_data.labelled: 'phantom_knee' has no labels"),
    ],
)
def test_line_23_what_fails_in_a_job_is_refused_in_the_check(
    tmp_path: Path, tables: dict[str, Table], path: str, value: Any, told: str
) -> None:
    put(tables["mine"], path, value)
    assert refused(tmp_path, tables, "mine").startswith(FILE + told)


@pytest.mark.parametrize("dataset", ["phantom_t1", "phantom_t2", "phantom_pd", "folder"])
def test_line_23_datasets_that_may_have_labels_pass(
    tmp_path: Path, tables: dict[str, Table], dataset: str
) -> None:
    tables["mine"]["vit_data"]["labelled"] = [dataset]
    load(tmp_path, tables, "mine")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("srr: {steps: 2}", "srr: unknown key; known: "),
        ("sr: {stepz: 2}", "sr.stepz: unknown key"),
        ("sr: {steps: 0}", "sr.steps: "),
    ],
)
def test_line_23_a_size_is_checked_whether_used_or_not(
    tmp_path: Path, tables: dict[str, Table], content: str, told: str
) -> None:
    builders.write_parameters(tmp_path, tables)
    (tmp_path / loading.SIZES / "huge.yaml").write_text(content)
    assert refused(tmp_path, tables, "demo").startswith(f"workflow/sizes/huge.yaml: {told}")
