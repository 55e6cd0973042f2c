"""Checks of params.yaml: types and bounds by pydantic, and that every name it refers to exists."""

from __future__ import annotations

import functools
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from mrsr.params.declared import at, check_source, labelled_organs, source_module
from mrsr.params.schema import ANATOMY, PRESETS, Dataset, Experiment, Params, Table

T = TypeVar("T")


@functools.cache
def adapter(kind: type) -> TypeAdapter[Any]:
    """The pydantic adapter that checks and converts a table into a class of the schema."""
    return TypeAdapter(kind)


def checked(kind: type[T], value: Any, where: str = "") -> T:
    """A table of YAML as a class of the schema.

    Raises:
        ValueError: the first problem, as 'dotted.path: what'.
    """
    known: type = kind
    try:
        return adapter(known).validate_python(value)
    except ValidationError as error:
        raise ValueError(_first_problem(error, where)) from None


def _first_problem(error: ValidationError, where: str) -> str:
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    path = ".".join(part for part in (where, path) if part)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "unexpected_keyword_argument":
        message = "unknown key"
    return f"{path}: {message}" if path else message


def check_params(params: Params) -> None:
    """Check that every source, guide and preset that params.yaml names exists.

    Raises:
        ValueError: one does not exist, as 'dotted.path: what'.
    """
    data = params.data
    for key, dataset in data.datasets.items():
        if dataset.source not in data.sources:
            raise at(f"data.datasets.{key}.source", f"no source '{dataset.source}'", data.sources)
        if dataset.guide is not None:
            _check_guide(key, dataset, data.datasets)
    for key, settings in data.sources.items():
        check_source(key, settings)
    presets = {**PRESETS, **params.metrics.presets}
    if params.metrics.preset not in presets:
        raise at("metrics.preset", f"no '{params.metrics.preset}'", presets)


def _check_guide(key: str, dataset: Dataset, datasets: dict[str, Dataset]) -> None:
    """Check that a guide is another contrast of the same source."""
    where = f"data.datasets.{key}.guide"
    guide = datasets.get(dataset.guide or "")
    if guide is None:
        raise at(where, f"no dataset '{dataset.guide}'", datasets)
    if guide.source != dataset.source or guide.contrast == dataset.contrast:
        raise at(where, f"'{dataset.guide}' is not another contrast of {dataset.source}")


def check_experiment(experiment: Experiment, params: Params) -> None:
    """Check that params.yaml has the datasets and methods of an experiment.

    Raises:
        ValueError: one is missing, as 'dotted.path: what'.
    """
    datasets = params.data.datasets
    if not experiment.grid:
        raise at("grid", "must have at least one block")
    for number, block in enumerate(experiment.grid):
        for name in block.datasets:
            if name not in datasets:
                raise at(f"grid.{number}.datasets", f"no '{name}'", datasets)
        for name in block.methods:
            if name not in params.methods:
                raise at(f"grid.{number}.methods", f"no method '{name}'", params.methods)
    for name, of_table in experiment.tables.items():
        for dataset in of_table:
            if dataset not in datasets:
                raise at(f"tables.{name}", f"no '{dataset}'", datasets)
    _check_tissues(params, experiment)
    if experiment.vit_data is None:
        return
    for key in ("labelled", "pool"):
        names = getattr(experiment.vit_data, key)
        if not names:
            raise at(f"vit_data.{key}", "must have at least one dataset")
        for name in names:
            if name not in datasets:
                raise at(f"vit_data.{key}", f"no dataset '{name}'", datasets)
    for name in experiment.vit_data.labelled:
        _check_labels(name, datasets[name], params.data.sources[datasets[name].source])
    organs = {datasets[name].organ for name in experiment.vit_data.pool}
    if len(organs) < 2 and "organ" in (params.vit.pretext, *experiment.vit_data.also):
        raise at(
            "vit_data.pool",
            f"it has only {organs.pop()}: the organ pretext task needs two organs; "
            "add a dataset of another organ, such as phantom_knee",
        )


def _check_tissues(params: Params, experiment: Experiment) -> None:
    """Check that there is something to measure `dice` on, if it is asked for."""
    if not set(params.metrics.more) & set(ANATOMY):
        return
    if experiment.vit_data is None:
        raise at("vit_data", "missing: metrics.more uses the vision transformer")
    measured = {name for block in experiment.grid for name in block.datasets}
    if not measured & set(experiment.vit_data.labelled):
        raise at(
            "metrics.more", "dice needs labels: vit_data.labelled has none of the grid's datasets"
        )


def _check_labels(name: str, dataset: Dataset, source: dict[str, Any]) -> None:
    """Check that the source of a dataset has labels for it, as far as its file says."""
    organs = labelled_organs(source_module(dataset.source, source))
    if organs is not None and dataset.organ not in organs:
        raise at(
            "vit_data.labelled",
            f"'{name}' has no labels (source '{dataset.source}', {dataset.organ}); give phantom_t1 "
            "or your own scans with labels (source folder)",
        )


def check_keys(document: dict[str, Any]) -> None:
    """Refuse keys of an experiment's file that a person may well try, with what to write.

    Raises:
        ValueError: as 'dotted.path: what'.
    """
    if "vit" in document:
        raise at("vit", "the data of the vision transformer is now `vit_data:`; rename the key")
    tables = document.get("tables")
    known = get_args(Table)
    for name in tables if isinstance(tables, dict) else ():
        if name not in known:
            raise at(f"tables.{name}", "the paper has two tables, and these are made", known)
