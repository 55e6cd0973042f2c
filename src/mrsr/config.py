"""params.yaml, typed and checked: the only reader of that file.

`load("params.yaml", "demo")` merges the experiment's `set:` block over the defaults, checks every
key, and gives an `InForce`: the resolved configuration of one experiment, and the settings that
each job is handed. No torch is imported here; what the models, losses and sources accept is read
from their files as text, so that a wrong key is refused in milliseconds, before any job starts.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mrsr.errors import UserError
from mrsr.settings import PACKAGE_FOLDERS

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Scale = Literal[2, 3, 4, 8]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Normalise(Section):
    """Intensities are divided by this percentile of the whole volume; nothing is clipped."""

    level: Literal["volume"] = "volume"
    percentile: Annotated[float, Field(gt=0, le=100)] = 99.9


class SplitBySource(Section):
    """The source says which split a volume is in (phantom, fastMRI, IXI's committed list)."""

    kind: Literal["source"]


class SplitBySubjects(Section):
    """Subjects listed by name."""

    kind: Literal["subjects"]
    train: list[str]
    validation: list[str]
    test: list[str]


class SplitByHash(Section):
    """A subject's split follows from a hash of its name: stable when subjects are added."""

    kind: Literal["hash"]
    fractions: tuple[Fraction, Fraction, Fraction] = (0.7, 0.1, 0.2)
    seed: int = 0


class SplitByCSV(Section):
    """A table with the columns subject and split."""

    kind: Literal["csv"]
    path: str


class SplitByCounts(Section):
    """Exact numbers of subjects, drawn once from a seed."""

    kind: Literal["counts"]
    train: Positive
    validation: Positive
    test: Positive
    seed: int = 0


Split = Annotated[
    SplitBySource | SplitBySubjects | SplitByHash | SplitByCSV | SplitByCounts,
    Field(discriminator="kind"),
]


class Dataset(Section):
    """One label of the tables: a contrast of a source, how it is cut and degraded."""

    source: Name
    contrast: str
    organ: str
    label: str = ""
    degradation: Literal["bicubic", "kspace"] = "bicubic"
    crop: tuple[Positive, Positive] | None = None
    central_slices: Positive | None = None
    max_slices: Positive | None = None
    max_volumes: Positive | None = None
    foreground: Fraction = 0.0
    normalise: Normalise = Normalise()
    split: Split
    skip_bad: bool = False


class Data(Section):
    """Where volumes come from, and the datasets made of them."""

    sources: dict[Name, dict[str, Any]]
    datasets: dict[Name, Dataset]


class Optimizer(Section):
    """Adam as printed; weight decay decoupled (AdamW) or coupled (as torch's Adam has it)."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 5e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    decoupled: bool = True


class Schedule(Section):
    """The learning rate as a pure function of the step."""

    kind: Literal["constant", "cosine", "step"] = "cosine"
    warmup: Count = 0
    floor: Fraction = 0.01
    every: Count = 0
    factor: Fraction = 0.5


class Training(Section):
    """Numbers of a super-resolution training."""

    steps: Positive
    batch: Positive
    micro_batch: Count = 0
    patch: Count
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip_gradient: Annotated[float, Field(ge=0)] = 0.0
    augment: bool = True
    seed: int = 0
    validate_every: Positive
    validation_slices: Count
    test_curve: bool = True
    checkpoint_every: Positive
    log_every: Positive
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    compile: bool = False
    channels_last: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    place: Literal["auto", "device", "host", "stream"] = "auto"
    threads: Positive = 1
    explode: Annotated[float, Field(gt=0)] = 1e4


class Preset(Section):
    """A metric convention, complete; it stands in every table's caption."""

    level: Literal["slice", "volume"]
    data_range: Literal["slice_max", "volume_max", "one"]
    border: Count = 0
    window: Literal["gaussian", "uniform"]
    window_size: Positive
    sigma: Annotated[float, Field(gt=0)] = 1.5
    k1: Annotated[float, Field(gt=0)] = 0.01
    k2: Annotated[float, Field(gt=0)] = 0.03
    covariance: Literal["population", "sample"]
    clip: bool = False


class Bootstrap(Section):
    """95 % percentile interval over subjects."""

    samples: Positive = 2000
    seed: int = 0


class Metrics(Section):
    """How results are measured."""

    preset: Name
    presets: dict[Name, Preset]
    bootstrap: Bootstrap = Bootstrap()
    batch: Positive = 8
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Positive = 1


class Tracking(Section):
    """MLflow; the store itself is chosen by MLFLOW_TRACKING_URI, sqlite:///mlflow.db without."""

    enabled: bool = True


class Method(Section):
    """One row of a table. `like` takes another entry and changes what is named here."""

    like: Name | None = None
    model: Name | None = None
    options: dict[str, Any] = {}
    losses: dict[str, Annotated[float, Field(ge=0)]] = {}
    label: str = ""
    citation: str = ""
    kind: Literal["baseline", "proposed", "ablation", "control", "added"] = "baseline"
    train: dict[str, Any] = {}


class Block(Section):
    """Every dataset x scale x method of a block is a cell of the results."""

    datasets: list[Name]
    scales: list[Scale]
    methods: list[Name]


class Experiment(Section):
    """Which cells to fill, in which tables they stand, and what differs from the defaults."""

    description: str
    grid: list[Block] = Field(min_length=1)
    tables: dict[Literal["table1", "table2"], list[Name]]
    set: dict[str, Any] = {}


class Params(Section):
    """params.yaml."""

    experiment: Name
    tracked: dict[Name, list[str]]
    data: Data
    sr: Training
    metrics: Metrics
    tracking: Tracking = Tracking()
    methods: dict[Name, Method]
    experiments: dict[Name, Experiment]

    @model_validator(mode="after")
    def _names_exist(self) -> Params:
        if self.experiment not in self.experiments:
            raise _at("experiment", f"no experiment '{self.experiment}'", self.experiments)
        for key, dataset in self.data.datasets.items():
            if dataset.source not in self.data.sources:
                raise _at(
                    f"data.datasets.{key}.source",
                    f"no source '{dataset.source}'",
                    self.data.sources,
                )
        for key, settings in self.data.sources.items():
            _check_source(key, settings)
        if self.metrics.preset not in self.metrics.presets:
            raise _at("metrics.preset", f"no '{self.metrics.preset}'", self.metrics.presets)
        for key, experiment in self.experiments.items():
            for number, block in enumerate(experiment.grid):
                where = f"experiments.{key}.grid.{number}"
                for name in block.datasets:
                    if name not in self.data.datasets:
                        raise _at(f"{where}.datasets", f"no '{name}'", self.data.datasets)
                for name in block.methods:
                    if name not in self.methods:
                        raise _at(f"{where}.methods", f"no method '{name}'", self.methods)
            if "sources" in experiment.set.get("data", {}):
                raise _at(f"experiments.{key}.set.data.sources", "raw data is shared by all")
        return self


def _at(path: str, problem: str, known: Any = None) -> ValueError:
    hint = f"; known: {', '.join(sorted(known))}" if known else ""
    return ValueError(f"{path}: {problem}{hint}")


# --- what the files of the package accept, read as text ----------------------------------------


def _package_file(folder: str, name: str) -> Path | None:
    for root in PACKAGE_FOLDERS:
        path = root / folder / f"{name}.py"
        if path.is_file():
            return path
    return None


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _literal(path: Path, name: str) -> Any:
    """The value of a module-level literal, without running the module."""
    for node in _tree(path).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        if isinstance(target, ast.Name) and target.id == name:
            return node.value
    return None


def source_settings(name: str) -> dict[str, Any]:
    """The settings a source knows, with their defaults: `SETTINGS` of datasets/<name>.py."""
    path = _package_file("datasets", name)
    if path is None:
        raise _at(f"data.sources.{name}", f"missing file src/mrsr/datasets/{name}.py")
    node = _literal(path, "SETTINGS")
    return ast.literal_eval(node) if node is not None else {}


def model_options(name: str) -> list[str] | None:
    """The options of models/<name>.py: parameters of its `build` after scale; None if no file."""
    path = _package_file("models", name)
    if path is None:
        return None
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == "build":
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            return [*names[1:], *(a.arg for a in node.args.kwonlyargs)]
    return []


def loss_names() -> list[str]:
    """The keys of `LOSSES` in losses.py."""
    path = _package_file("", "losses")
    node = _literal(path, "LOSSES") if path else None
    if not isinstance(node, ast.Dict):
        return []
    return [key.value for key in node.keys if isinstance(key, ast.Constant)]


def _check_source(name: str, given: dict[str, Any]) -> None:
    _check_like(f"data.sources.{name}", given, source_settings(name))


def _check_like(where: str, given: dict[str, Any], default: dict[str, Any]) -> None:
    """Every key of `given` stands in `default` and has a value of the same kind."""
    for key, value in given.items():
        if key not in default:
            raise _at(f"{where}.{key}", "unknown key", default)
        expected = default[key]
        if isinstance(expected, dict):
            if not isinstance(value, dict):
                raise _at(f"{where}.{key}", "must be a table")
            _check_like(f"{where}.{key}", value, expected)
        elif isinstance(expected, bool) or isinstance(value, bool):
            if not (isinstance(expected, bool) and isinstance(value, bool)):
                raise _at(f"{where}.{key}", f"must be of type {type(expected).__name__}")
        elif isinstance(expected, (int, float)):
            numeric = (int,) if isinstance(expected, int) else (int, float)
            if not isinstance(value, numeric) or value < 0:
                raise _at(f"{where}.{key}", f"must be a {type(expected).__name__} >= 0")
        elif not isinstance(value, type(expected)):
            raise _at(f"{where}.{key}", f"must be of type {type(expected).__name__}")


# --- resolving ----------------------------------------------------------------------------------


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` over `base`, table by table; lists and scalars are replaced."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


class Row(Section):
    """A method as it will be trained: `like` followed, recipe merged, zero weights dropped."""

    key: str
    model: str
    options: dict[str, Any]
    losses: dict[str, float]
    label: str
    citation: str
    kind: str
    training: Training

    @property
    def trained(self) -> bool:
        """A method without losses (bicubic) has nothing to train."""
        return bool(self.losses)


class Cell(Section):
    """One number of a table: a method on a dataset at a scale."""

    dataset: str
    scale: int
    method: str


def _chain(methods: dict[str, Method], key: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if key not in methods:
        raise _at(f"methods.{seen[-1]}.like", f"no method '{key}'", methods)
    if key in seen:
        raise _at(f"methods.{key}.like", f"goes in a circle: {' -> '.join((*seen, key))}")
    own = methods[key].model_dump(exclude_unset=True)
    like = own.pop("like", None)
    if like:
        return merge(_chain(methods, like, (*seen, key)), own)
    return {"model": key, **own}  # without `model:` the entry's own name is the file's name


def _resolve(params: Params, key: str) -> Row:
    entry = _chain(params.methods, key)
    model = entry["model"]
    known = model_options(model)
    if known is None:
        raise _at(f"methods.{key}.model", f"missing file src/mrsr/models/{model}.py")
    for option in entry.get("options", {}):
        if option not in known:
            raise _at(f"methods.{key}.options.{option}", f"model '{model}' has no such", known)
    losses = {name: weight for name, weight in entry.get("losses", {}).items() if weight > 0}
    for name in losses:
        if name not in loss_names():
            raise _at(f"methods.{key}.losses.{name}", "no such loss", loss_names())
    recipe = merge(params.sr.model_dump(mode="json"), entry.get("train", {}))
    try:
        training = Training.model_validate(recipe)
    except ValidationError as error:
        raise ValueError(_first(error, f"methods.{key}.train")) from None
    return Row(
        key=key,
        model=model,
        options=entry.get("options", {}),
        losses=losses,
        label=entry.get("label") or key,
        citation=entry.get("citation", ""),
        kind=entry.get("kind", "baseline"),
        training=training,
    )


def _first(error: ValidationError, prefix: str = "") -> str:
    """The first problem of a validation as 'dotted.path: what'."""
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    path = ".".join(part for part in (prefix, path) if part)
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("Extra inputs are not permitted", "unknown key")
    return f"{path}: {message}" if path else message


class InForce:
    """One experiment, resolved: its cells, and the settings that each job is handed."""

    def __init__(self, params: Params) -> None:
        """Resolve every method that the experiment uses.

        Raises:
            ValueError: a method's chain, model, option or loss does not exist.
        """
        self.params = params
        self.name = params.experiment
        self.experiment = params.experiments[params.experiment]
        cells: dict[tuple[str, int, str], Cell] = {}
        for block in self.experiment.grid:
            for dataset in block.datasets:
                for scale in block.scales:
                    for method in block.methods:
                        key = (dataset, int(scale), method)
                        cells[key] = Cell(dataset=dataset, scale=int(scale), method=method)
        self.cells = list(cells.values())
        # every entry is resolved, used or not: a mistake in any row is told at once
        rows = {key: _resolve(params, key) for key in params.methods}
        used = {cell.method for cell in self.cells}
        self.rows = {key: row for key, row in rows.items() if key in used}
        self.datasets = list(dict.fromkeys(cell.dataset for cell in self.cells))
        self.scales = sorted({cell.scale for cell in self.cells})
        self.sources = list(
            dict.fromkeys(params.data.datasets[name].source for name in self.datasets)
        )
        listed = {name for names in self.experiment.tables.values() for name in names}
        lost = [name for name in self.datasets if name not in listed]
        if lost:
            raise _at(f"experiments.{self.name}.tables", f"dataset '{lost[0]}' is in no table")

    def source_settings(self, source: str) -> dict[str, Any]:
        """What `mrsr raw` is handed: the source's defaults with params.yaml over them."""
        return merge(source_settings(source), self.params.data.sources[source])

    def slice_settings(self, dataset: str) -> dict[str, Any]:
        """What slicing is handed."""
        entry = self.params.data.datasets[dataset]
        fields = entry.model_dump(mode="json", exclude={"degradation", "label"})
        return {"dataset": dataset, **fields}

    def train_settings(self, dataset: str, scale: int, method: str) -> dict[str, Any]:
        """What train_sr is handed."""
        row = self.rows[method]
        return {
            "experiment": self.name,
            "dataset": dataset,
            "scale": scale,
            "method": method,
            "degradation": self.params.data.datasets[dataset].degradation,
            "model": {"name": row.model, "options": row.options},
            "losses": row.losses,
            **row.training.model_dump(mode="json"),
            "tracking": self.params.tracking.model_dump(),
        }

    def preset(self) -> dict[str, Any]:
        """The metric convention in force, with its name."""
        name = self.params.metrics.preset
        return {"name": name, **self.params.metrics.presets[name].model_dump(mode="json")}

    def evaluate_settings(self, dataset: str, scale: int, method: str) -> dict[str, Any]:
        """What evaluate is handed."""
        row = self.rows[method]
        metrics = self.params.metrics
        return {
            "experiment": self.name,
            "dataset": dataset,
            "scale": scale,
            "method": method,
            "label": row.label,
            "degradation": self.params.data.datasets[dataset].degradation,
            "model": {"name": row.model, "options": row.options},
            "preset": self.preset(),
            "bootstrap": metrics.bootstrap.model_dump(),
            "batch": metrics.batch,
            "device": metrics.device,
            "precision": metrics.precision,
            "threads": metrics.threads,
            "tracking": self.params.tracking.model_dump(),
        }

    def table_settings(self) -> dict[str, Any]:
        """What the tables are made from, beside the metrics files."""
        return {
            "experiment": self.name,
            "tables": dict(self.experiment.tables),
            "datasets": {
                name: self.params.data.datasets[name].label or name for name in self.datasets
            },
            "scales": self.scales,
            "methods": [
                {"key": r.key, "label": r.label, "citation": r.citation, "kind": r.kind}
                for r in self.rows.values()
            ],
            "preset": self.preset(),
        }

    def resolved(self) -> dict[str, Any]:
        """Everything in force, for people: `mrsr params`."""
        return {
            "experiment": self.name,
            "description": self.experiment.description,
            "data": {
                "sources": {name: self.source_settings(name) for name in self.sources},
                "datasets": {
                    name: self.params.data.datasets[name].model_dump(mode="json")
                    for name in self.datasets
                },
            },
            "sr": self.params.sr.model_dump(mode="json"),
            "metrics": self.params.metrics.model_dump(mode="json"),
            "tracking": self.params.tracking.model_dump(),
            "methods": {key: row.model_dump(mode="json") for key, row in self.rows.items()},
            "grid": [block.model_dump(mode="json") for block in self.experiment.grid],
            "tables": dict(self.experiment.tables),
        }


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; here a repeated key is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in written if written.count(key) > 1})
    if twice:
        raise UserError(
            f"params file, table at line {node.start_mark.line + 1}: key '{twice[0]}' stands twice"
        )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 1e-4 as a string; everybody means a number
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: str | Path = "params.yaml", experiment: str | None = None) -> InForce:
    """Read, merge the experiment's `set:` block, check, resolve.

    Args:
        path: the YAML file.
        experiment: overrides the file's own `experiment:`.

    Raises:
        UserError: one line with the file and the dotted path of the first problem.
    """
    path = Path(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; run in the project's root") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a table with the key 'experiment'")
    if experiment is not None:
        document["experiment"] = experiment
    try:
        # the file as written is checked first, so that a mistake is told where it stands
        asked = Params.model_validate(document)
        change = asked.experiments[asked.experiment].set
        unknown = sorted(set(change) - {"data", "sr", "metrics", "tracking", "methods"})
        if unknown:
            raise _at(f"experiments.{asked.experiment}.set.{unknown[0]}", "unknown key")
        if not change:
            return InForce(asked)
        try:
            return InForce(Params.model_validate(merge(document, change)))
        except ValidationError as error:
            raise ValueError(_first(error, f"experiments.{asked.experiment}.set")) from None
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def schema() -> dict[str, Any]:
    """JSON schema of params.yaml for editors, with the options of sources, models and losses."""
    result = Params.model_json_schema()
    result["title"] = "params.yaml of mrsr"
    method = result["$defs"]["Method"]["properties"]
    method["losses"]["propertyNames"] = {"enum": loss_names()}
    for folder in PACKAGE_FOLDERS[:1]:
        names = sorted(p.stem for p in (folder / "models").glob("[a-z]*.py"))
        method["model"]["examples"] = names
    return result
