"""Settings of metrics, methods and experiments, and params.yaml as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mrsr.params.schema.data import Data, Section
from mrsr.params.schema.networks import Autoencoder, Pretext, Vit
from mrsr.params.schema.trainings import SuperResolution
from mrsr.params.typed import (
    Above,
    AtLeast,
    Count,
    Integer,
    Name,
    Positive,
)

Scale = Literal[2, 3, 4, 8]
Type = Literal["single", "guided", "self", "joint"]
Recipe = Literal["common", "published"]
Table = Literal["table1", "table2"]
More = Literal["haarpsi", "gmsd", "hfen", "dice", "dice_hr"]
ANATOMY = ("dice", "dice_hr")  # those that need a segmentation network and labels
Kind = Literal["baseline", "proposed", "ablation", "control", "added"]


@dataclass(frozen=True, kw_only=True)
class Preset(Section):
    """A complete metric convention; every table's caption states it."""

    level: Literal["slice", "volume"]
    """Whether a metric is of a slice or of a volume, before averaging over subjects."""
    data_range: Literal["slice_max", "volume_max", "one"]
    """The range of intensities in PSNR and SSIM."""
    border: Count = 0
    """Pixels left out at each edge."""
    window: Literal["gaussian", "uniform"]
    """SSIM's weights."""
    window_size: Positive
    """Pixels of SSIM's window."""
    sigma: Above = 1.5
    """Pixels; of a Gaussian window."""
    k1: Above = 0.01
    """SSIM's first constant."""
    k2: Above = 0.03
    """SSIM's second constant."""
    covariance: Literal["population", "sample"]
    """SSIM divides by n or by n - 1."""
    clip: bool = False
    """Clip both images to 0 and the data range first."""

    def __post_init__(self) -> None:
        if self.window_size < 3 or self.window_size % 2 == 0:
            raise ValueError(
                f"window_size: must be an odd number of 3 or more, not {self.window_size}"
            )
        if self.level == "volume" and self.data_range == "slice_max":
            raise ValueError(
                "data_range: level 'volume' has one range for all slices; choose volume_max or one"
            )


# docs/replication.md says which publication means which
PRESETS = {
    "slice": Preset(
        level="slice",
        data_range="slice_max",
        window="gaussian",
        window_size=11,
        covariance="population",
    ),
    "volume": Preset(
        level="volume",
        data_range="volume_max",
        window="gaussian",
        window_size=11,
        covariance="population",
    ),
    "fastmri": Preset(
        level="volume",
        data_range="volume_max",
        window="uniform",
        window_size=7,
        covariance="sample",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bootstrap(Section):
    """95 % percentile interval over subjects."""

    samples: Positive = 2000
    """Draws."""
    seed: Integer = 0
    """Of the draws."""


@dataclass(frozen=True, kw_only=True)
class Metrics(Section):
    """How results are measured."""

    preset: Name
    """A key of `PRESETS` or `presets`: slice, volume, fastmri."""
    presets: dict[Name, Preset] = field(default_factory=dict)
    """Your own conventions, besides `PRESETS`."""
    more: tuple[More, ...] = ()
    """Metrics beside PSNR, SSIM and NMSE: columns of results.csv. dice and dice_hr are of datasets
    that are `labelled` in `vit_data`."""
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    """Of the intervals."""
    batch: Positive = 8
    """Slices per forward pass."""
    device: str = "auto"
    """As in a training."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks."""
    threads: Positive = 1
    """CPU threads of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Tracking(Section):
    """MLflow; MLFLOW_TRACKING_URI chooses the store, sqlite:///mlflow.db without it."""

    enabled: bool = True
    """False: no MLflow at all; the local logs stay. So does MRSR_TRACKING=off."""


@dataclass(frozen=True, kw_only=True)
class Figures(Section):
    """The figures of an experiment."""

    slices: dict[Name, str] = field(default_factory=dict)
    """By dataset, the slice to show: 'volume:index', as in the metrics' CSV. Without one, the test
    slice whose PSNR by Proposed is the median."""


@dataclass(frozen=True, kw_only=True)
class Method(Section):
    """One entry of `methods:`. `like` copies another entry and changes what is given here."""

    like: Name | None = None
    """The entry to start from."""
    model: Name | None = None
    """The file in models/; without it, the entry's own key."""
    type: Type = "single"
    """Learns from LR and HR slices (single), also a second contrast (guided), the LR slices of
    the test volume alone (self), or also restores an undersampled input (joint)."""
    acceleration: Positive = 1
    """Factor by which the LR input has fewer k-space lines (joint)."""
    trained_on: Name | None = None
    """The dataset whose training slices it learns from, for all datasets of its cells; without one,
    each cell's own (single)."""
    weights_of: Name | None = None
    """Another method, whose trained network it uses."""
    ensemble: Literal[1, 8] = 1
    """8: average the outputs of all flips and turns of a slice."""
    recipe: Recipe | None = None
    """Overrides the experiment's."""
    published: dict[str, Any] = field(default_factory=dict)
    """The publication's own recipe: losses and what differs from `sr`, with a `note`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the network's `build`."""
    losses: dict[str, AtLeast] = field(default_factory=dict)
    """Loss terms and their weights."""
    label: str = ""
    """Its name in the tables; the key without one."""
    citation: str = ""
    """Its number in the paper's list of references."""
    kind: Kind = "baseline"
    """Its group in the tables."""
    train: dict[str, Any] = field(default_factory=dict)
    """What differs from `sr` in the common recipe."""


@dataclass(frozen=True, kw_only=True)
class Block(Section):
    """Every dataset x scale x method of a block is a cell of the results."""

    datasets: tuple[Name, ...]
    """Keys of `data.datasets`."""
    scales: tuple[Scale, ...]
    """Factors of the resolution in each direction."""
    methods: tuple[Name, ...]
    """Keys of `methods`."""


@dataclass(frozen=True, kw_only=True)
class VitData(Section):
    """Data of the vision transformer: volumes with labels, then slices of several organs."""

    labelled: tuple[Name, ...]
    """Datasets of the segmentation."""
    pool: tuple[Name, ...]
    """Datasets of the pretext task."""
    also: tuple[Pretext, ...] = ()
    """Further pretext tasks to compare with."""


@dataclass(frozen=True, kw_only=True)
class Experiment(Section):
    """A file in workflow/experiments/: which cells to fill, their tables, what differs."""

    description: str
    """What it runs, in a line."""
    about: str = ""
    """How long it took, and on what; 'not measured' without a measurement."""
    like: Name | None = None
    """The experiment to copy; keys given here replace its keys, `set` and `vit_data` are merged."""
    size: Name | None = None
    """tiny, small (workflow/sizes/), or paper: params.yaml as it is. `set` comes on top."""
    grid: tuple[Block, ...]
    """The cells of the results."""
    tables: dict[Table, tuple[Name, ...]]
    """The datasets of each of the paper's two tables: table1, table2."""
    recipe: Recipe = "common"
    """Of methods that do not choose one themselves."""
    folds: dict[Name, tuple[str, ...]] = field(default_factory=dict)
    """Leave-one-subject-out: a dataset of the grid, and the subjects that are tested in turn."""
    seeds: tuple[Count, ...] = ()
    """Train every method once with each, in place of `sr.seed`; tables average over them."""
    vit_data: VitData | None = None
    """Needed where a method has the loss `vit`, or the trained network inside its own."""
    set: dict[str, Any] = field(default_factory=dict)
    """What differs from params.yaml: its sections, merged table by table."""


@dataclass(frozen=True, kw_only=True)
class Params(Section):
    """params.yaml."""

    experiment: str
    """Which experiment runs unless `--config experiment=NAME` says otherwise."""
    tracked: tuple[str, ...] = ()
    """Experiments that DVC records; `mrsr track` writes their stages into dvc.yaml."""
    data: Data
    """The protocol."""
    vit: Vit
    """The vision transformer."""
    autoencoder: Autoencoder
    """The disentangling auto-encoder."""
    sr: SuperResolution
    """The super-resolution trainings."""
    metrics: Metrics
    """How results are measured."""
    tracking: Tracking = field(default_factory=Tracking)
    """MLflow."""
    figures: Figures = field(default_factory=Figures)
    """What figures show."""
    methods: dict[Name, Method]
    """The methods, in the order of the tables."""
