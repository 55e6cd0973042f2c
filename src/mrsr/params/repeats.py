"""An experiment's `folds` and `seeds`: a dataset of its grid stands for several, all alike.

`folds: {openms_t1: [a, b, c]}` makes `openms_t1_fold1` ... `_fold3`: of fold n subject n is tested,
the next one validates, the others train. `seeds: [0, 1]` makes `openms_t1_seed0` and `_seed1`,
which have the same slices and another `sr.seed`. Both together make `openms_t1_fold1_seed0` and so
on. Everything else treats them as datasets; tables and comparisons put them together again, by name
(`origin`), averaged within a subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mrsr.params.declared import at
from mrsr.params.schema import Dataset, Experiment, Params
from mrsr.params.schema.data import SplitBySubjects

FEWEST = 3  # one subject each to test, to validate and to train
_NAME = re.compile(r"(?P<dataset>.+?)(?:_fold(?P<fold>[0-9]+))?(?:_seed(?P<seed>[0-9]+))?")


@dataclass(frozen=True)
class Origin:
    """What a dataset of a grid repeats; fold (from 1) and seed are None where it does not."""

    dataset: str
    fold: int | None = None
    seed: int | None = None


def origin(name: str) -> Origin:
    """The dataset, fold and seed that a name tells; the name itself where it tells none."""
    found = _NAME.fullmatch(name)
    if not found:
        return Origin(name)
    fold, seed = found["fold"], found["seed"]
    return Origin(found["dataset"], int(fold) if fold else None, int(seed) if seed else None)


def frozen_home(name: str) -> str:
    """The dataset whose auto-encoder serves this one: that of its fold, whatever the seed."""
    of = origin(name)
    return name if of.seed is None else f"{of.dataset}_fold{of.fold}" if of.fold else of.dataset


def expand(params: Params, experiment: Experiment) -> tuple[Params, Experiment]:
    """The grid with its datasets repeated, and params.yaml with an entry for each.

    Raises:
        ValueError: a dataset of `folds` is not in the grid, has too few subjects or one twice; a
            dataset or the ViT's pool would let a network see a subject that it is tested on.
    """
    datasets = dict(params.data.datasets)
    for name in datasets:
        if origin(name).dataset != name:
            raise at(f"data.datasets.{name}", "only folds and seeds make names that end so")
    if not experiment.folds and not experiment.seeds:
        return params, experiment
    used = {name for block in experiment.grid for name in block.datasets}
    for name, subjects in experiment.folds.items():
        _check_fold(name, subjects, used, experiment)
    if len(set(experiment.seeds)) < len(experiment.seeds):
        raise at("seeds", "one of them stands there twice")
    for block in experiment.grid:
        for key in block.methods:
            if params.methods[key].trained_on:
                raise at("grid", f"{key} is trained on another dataset; it takes no folds or seeds")

    made: dict[str, list[str]] = {}
    for name in sorted(used):
        parts = _folds(name, datasets[name], experiment.folds.get(name, ()))
        for part, entry in parts.items():
            datasets[part] = entry
            for seed in experiment.seeds:
                datasets[f"{part}_seed{seed}"] = entry
        seeds = [f"_seed{seed}" for seed in experiment.seeds] or [""]
        made[name] = [f"{part}{seed}" for part in parts for seed in seeds]
    grid = tuple(
        replace(block, datasets=tuple(each for name in block.datasets for each in made[name]))
        for block in experiment.grid
    )
    return replace(params, data=replace(params.data, datasets=datasets)), replace(
        experiment, grid=grid
    )


def _check_fold(
    name: str, subjects: tuple[str, ...], used: set[str], experiment: Experiment
) -> None:
    if name not in used:
        raise at(f"folds.{name}", "the grid does not have this dataset", sorted(used))
    if len(set(subjects)) < len(subjects):
        raise at(f"folds.{name}", "a subject stands there twice")
    if len(subjects) < FEWEST:
        raise at(f"folds.{name}", f"must have {FEWEST} subjects or more")
    if experiment.vit_data is not None:
        for key in ("pool", "labelled"):
            if name in getattr(experiment.vit_data, key):
                raise at(
                    f"vit_data.{key}",
                    f"'{name}' has folds: the vision transformer would see the subjects that they "
                    "test; give other datasets, such as phantom_t1",
                )


def _folds(name: str, entry: Dataset, subjects: tuple[str, ...]) -> dict[str, Dataset]:
    """The dataset itself, or its folds by name."""
    if not subjects:
        return {name: entry}
    folds = {}
    for number, tested in enumerate(subjects):
        validating = subjects[(number + 1) % len(subjects)]
        split = SplitBySubjects(
            kind="subjects",
            train=tuple(one for one in subjects if one not in (tested, validating)),
            validation=(validating,),
            test=(tested,),
        )
        label = f"{entry.label or name}, fold {number + 1}"
        folds[f"{name}_fold{number + 1}"] = replace(entry, split=split, label=label)
    return folds
