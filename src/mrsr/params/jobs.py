"""The settings of each kind of job: its part of the resolved experiment.

`experiment.py` makes them where Snakemake runs, and `settings_files.py` writes each to a JSON file.
A job reads that file with the standard library alone (`read`), so a compute node needs neither
pydantic nor params.yaml. The job's command line has the file's name and the digest of its content
when the jobs were planned; a file that has changed since is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from mrsr.errors import UserError
from mrsr.params import schema
from mrsr.params.typed import build, digest, plain

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network: the file in models/, the options of its `build`, and its code's digest."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    code: str = ""  # see code.py; empty if it does not matter, as in a command by hand


@dataclass(frozen=True, kw_only=True)
class Slicing(schema.Cutting):
    """One dataset's slice stores."""

    dataset: str


@dataclass(frozen=True, kw_only=True)
class Guides:
    """The second contrast of a dataset's scans, on the grid of its slice stores."""

    dataset: str
    guide: str
    source: str
    contrast: str
    guide_contrast: str
    organ: str
    normalise: schema.Normalise = field(default_factory=schema.Normalise)
    slice_axis: int | None = None


@dataclass(frozen=True, kw_only=True)
class SuperResolution(schema.Training):
    """One super-resolution training; `adversarial` and `features` are None if unused."""

    experiment: str
    dataset: str
    scale: int
    method: str
    degradation: schema.Degradation
    normalise: schema.Normalise = field(default_factory=schema.Normalise)
    model: Model
    type: schema.Type = "single"
    acceleration: int = 1
    recipe: schema.Recipe = "common"
    losses: dict[str, float]
    adversarial: schema.Adversarial | None = None  # type: ignore[assignment]
    features: schema.Features | None = None  # type: ignore[assignment]
    tracking: schema.Tracking = field(default_factory=schema.Tracking)


@dataclass(frozen=True, kw_only=True)
class Segmentation(schema.Segmentation):
    """The vision transformer's 3D pre-training."""

    experiment: str
    phase: Literal["segmentation"] = "segmentation"
    code: str = ""
    network: schema.VitNetwork
    classes: int
    weights: str = ""
    weights_sha256: str = ""
    tracking: schema.Tracking = field(default_factory=schema.Tracking)


@dataclass(frozen=True, kw_only=True)
class Pretext(schema.VitTraining):
    """A pretext task that fine-tunes the vision transformer's encoder."""

    experiment: str
    phase: Literal["pretext"] = "pretext"
    code: str = ""
    pretext: schema.Pretext
    mask_ratio: float
    temperature: float
    scales: tuple[int, ...]
    degradations: dict[str, schema.Degradation]
    tracking: schema.Tracking = field(default_factory=schema.Tracking)


@dataclass(frozen=True, kw_only=True)
class Autoencoder(schema.Autoencoder):
    """One auto-encoder's training."""

    experiment: str
    dataset: str
    scale: int
    method: Literal["autoencoder"] = "autoencoder"
    code: str = ""
    degradation: schema.Degradation
    tracking: schema.Tracking = field(default_factory=schema.Tracking)


@dataclass(frozen=True, kw_only=True)
class Preset(schema.Preset):
    """A metric convention with its name."""

    name: str


def preset(name: str, own: Mapping[str, schema.Preset] | None = None) -> Preset:
    """A metric convention by its name: one of `schema.PRESETS`, or of your own.

    Raises:
        UserError: there is no such convention.
    """
    known = {**schema.PRESETS, **(own or {})}
    if name not in known:
        raise UserError(f"no metrics preset '{name}'; known: {', '.join(known)}")
    return Preset(name=name, **plain(known[name]))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One method on the test slices of one dataset at one scale."""

    experiment: str
    dataset: str
    scale: int
    method: str
    label: str = ""
    degradation: schema.Degradation
    model: Model
    full_options: dict[str, Any] = field(default_factory=dict)
    own_losses: dict[str, float] = field(default_factory=dict)  # without the experiment's `set:`
    type: schema.Type = "single"
    acceleration: int = 1
    trained_on: str = ""
    weights_of: str = ""
    ensemble: int = 1
    recipe: schema.Recipe = "common"
    preset: Preset
    more: tuple[schema.More, ...] = ()
    bootstrap: schema.Bootstrap = field(default_factory=schema.Bootstrap)
    batch: int = 8
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 1
    tracking: schema.Tracking = field(default_factory=schema.Tracking)


@dataclass(frozen=True, kw_only=True)
class MethodName:
    """The name of a method in the tables."""

    key: str
    label: str
    citation: str = ""
    kind: schema.Kind = "baseline"


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A cell that cannot be measured, and why."""

    dataset: str
    scale: int
    method: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of an experiment; their numbers come from metrics files."""

    experiment: str
    tables: dict[str, tuple[str, ...]]
    datasets: dict[str, str]
    scales: tuple[int, ...]
    methods: tuple[MethodName, ...]
    absent: tuple[Absent, ...] = ()
    repeats: dict[str, int] = field(default_factory=dict)
    preset: Preset


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Test slices of one dataset at one scale by each of its methods, for figures.

    slice: 'volume:index', or empty for the slice of median PSNR. trainings: by method that has
    weights, the folder of its training below checkpoints/.
    """

    dataset: str
    scale: int
    slice: str = ""
    cells: tuple[Evaluation, ...]
    trainings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A dataset at a scale, as figures show it.

    dataset: with fold and seed where it has them. name: without. methods: in the order of the
    tables.
    """

    dataset: str
    name: str
    label: str
    scale: int
    methods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of an experiment; what they show comes from its results.

    losses: the trainings of Fig. 7, folders below checkpoints/.
    """

    experiment: str
    figures: tuple[str, ...]
    columns: tuple[Column, ...]
    methods: tuple[MethodName, ...]
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page of an experiment. trainings: folders below checkpoints/."""

    experiment: str
    description: str
    about: str = ""
    figures: Figures
    tables: Tables
    trainings: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)  # of each dataset that is read
    command: str = ""


# may change between two starts of a training without changing its result
FREE = ("tracking", "log_every", "checkpoint_every", "place", "device", "threads")


def fixed(job: Any) -> dict[str, Any]:
    """The settings that decide the result of a training."""
    return {key: value for key, value in plain(job).items() if key not in FREE}


def read(kind: type[T], text: str) -> T:
    """A job's settings from its command line.

    Args:
        text: `@FILE#DIGEST`, as the workflow writes it, perhaps with `+DIGEST` of the files that
            the settings name; `@FILE`; or a JSON object.

    Raises:
        UserError: the file cannot be read or has changed, or a setting is missing or wrong.
    """
    value, where = read_json(text)
    try:
        return build(kind, value)
    except ValueError as error:
        raise UserError(f"settings{where}: {error}; `mrsr params` shows them all") from None


def read_json(text: str) -> tuple[dict[str, Any], str]:
    """The JSON object that `--settings` gives, and ' of FILE' if it came from a file."""
    where = ""
    if text.startswith("@"):
        name, _, digests = text[1:].partition("#")
        planned = digests.partition("+")[0]  # behind it: of the files that the settings name
        where = f" of {name}"
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(f"cannot read settings file {name}: {reason}") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"settings{where} are not JSON: {error}; give an object or @FILE") from None
    if not isinstance(value, dict):
        raise UserError(f'settings{where} must be a JSON object, like {{"scale": 2}}')
    if where and planned and digest(value) != planned:
        raise UserError(
            f"the settings{where} changed after this job was planned; start the workflow again"
        )
    return value, where
