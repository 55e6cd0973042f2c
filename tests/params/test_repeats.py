"""Folds and seeds: which datasets they make, and what those share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from mrsr.params.repeats import Origin, frozen_home, origin
from project import ROOT

PEOPLE = ["patient01", "patient03", "patient04", "patient12", "patient19", "patient20"]
EXPERIMENT = {
    "description": "folds", "like": "smoke", "vit_data": None,
    "grid": [{"datasets": ["openms_t1"], "scales": [2], "methods": ["bicubic", "srresnet"]}],
    "tables": {"table1": ["openms_t1"]},
}  # fmt: skip


def resolved(folder: Path, **changes: Any) -> Resolved:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({**EXPERIMENT, **changes}))
    return loading.load(ROOT / "params.yaml", file)


@given(
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
    st.none() | st.integers(1, 99),
    st.none() | st.integers(0, 99),
)
def test_a_name_tells_dataset_fold_and_seed(name: str, fold: int | None, seed: int | None) -> None:
    if origin(name) != Origin(name):
        return  # a name that params.yaml must not give
    made = name + (f"_fold{fold}" if fold else "") + (f"_seed{seed}" if seed is not None else "")
    assert origin(made) == Origin(name, fold, seed)
    assert frozen_home(made) == name + (f"_fold{fold}" if fold else "")


def test_each_subject_is_tested_once_by_a_network_that_has_not_seen_it(tmp_path: Path) -> None:
    found = resolved(tmp_path, folds={"openms_t1": PEOPLE})
    assert found.measured == [f"openms_t1_fold{n}" for n in range(1, 7)]
    tested = []
    for name in found.measured:
        split: Any = found.slicing(name).split
        parts = [*split.train, *split.validation, *split.test]
        assert sorted(parts) == sorted(PEOPLE) and len(split.train) == 4
        tested += split.test
    assert tested == PEOPLE
    assert found.tables().datasets == {"openms_t1": "Open MS T1W"}
    assert found.tables().repeats == {"openms_t1": 6}


def test_seeds_change_the_seed_of_the_training_alone(tmp_path: Path) -> None:
    grid = [{"datasets": ["phantom_t1"], "scales": [2], "methods": ["srresnet", "no_vit"]}]
    found = resolved(tmp_path, seeds=[3, 5], grid=grid, tables={"table1": ["phantom_t1"]})
    names = ["phantom_t1_seed3", "phantom_t1_seed5"]
    assert found.measured == names
    jobs = [found.super_resolution(name, 2, "srresnet") for name in names]
    assert [job.seed for job in jobs] == [3, 5]
    assert found.slicing(names[0]).split == found.slicing(names[1]).split
    # one auto-encoder, of the dataset itself, serves both, and it has slices
    assert found.autoencoders() == [("phantom_t1", 2)]
    assert found.datasets == [*names, "phantom_t1"]


def test_without_them_nothing_changes(tmp_path: Path) -> None:
    found = resolved(tmp_path)
    assert found.measured == found.datasets == ["openms_t1"] and found.tables().repeats == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": {"openms_t2": PEOPLE}}, "folds.openms_t2: the grid does not have this dataset"),
        ({"folds": {"openms_t1": PEOPLE[:2]}}, "folds.openms_t1: must have 3 subjects or more"),
        ({"folds": {"openms_t1": [*PEOPLE, PEOPLE[0]]}}, "a subject stands there twice"),
        ({"seeds": [1, 1]}, "seeds: one of them stands there twice"),
        ({"seeds": [-1]}, "seeds.0"),
        (
            {"folds": {"openms_t1": PEOPLE}, "vit_data":
             {"labelled": ["phantom_t1"], "pool": ["openms_t1", "phantom_knee"]}},
            "vit_data.pool: 'openms_t1' has folds: the vision transformer would see",
        ),
        (
            {"seeds": [0], "grid": [{"datasets": ["openms_t1"], "scales": [2],
                                     "methods": ["seran_all"]}]},
            "seran_all is trained on another dataset",
        ),
        (
            {"set": {"data": {"datasets": {"own_fold1": {
                "source": "openms", "contrast": "T1", "organ": "brain",
                "split": {"kind": "source"}}}}}},
            "only folds and seeds make names that end so",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(tmp_path, **changes)
