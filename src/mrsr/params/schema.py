"""The sections of params.yaml as types: one model per section, an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator

from mrsr.params.declared import at, check_source

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Scale = Literal[2, 3, 4, 8]


def _not_bool(value: Any) -> Any:
    """Refuse true and false, which are 1 and 0 elsewhere; a text such as 1e-4 is a number."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


A_NUMBER = BeforeValidator(_not_bool)
Positive = Annotated[int, Strict(), Field(gt=0)]
Count = Annotated[int, Strict(), Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1), A_NUMBER]
Above = Annotated[float, Field(gt=0), A_NUMBER]
AtLeast = Annotated[float, Field(ge=0), A_NUMBER]


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Normalise(Section):
    """Intensities are divided by this percentile of the whole volume; nothing is clipped."""

    level: Literal["volume"] = "volume"
    percentile: Annotated[float, Field(gt=0, le=100), A_NUMBER] = 99.9


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
    guide: Name | None = None  # dataset of the second contrast of the same scan, for guided methods


class Data(Section):
    """Where volumes come from, and the datasets made of them."""

    sources: dict[Name, dict[str, Any]]
    datasets: dict[Name, Dataset]


class Optimizer(Section):
    """Adam as printed; weight decay decoupled (AdamW) or coupled (as torch's Adam has it)."""

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: Above = 5e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: AtLeast = 0.1
    decoupled: bool = True


class Schedule(Section):
    """The learning rate as a pure function of the step."""

    kind: Literal["constant", "cosine", "step"] = "cosine"
    warmup: Count = 0
    floor: Fraction = 0.01
    every: Count = 0
    factor: Fraction = 0.5


class Loop(Section):
    """What every training has."""

    steps: Count
    batch: Positive
    micro_batch: Count = 0
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip_gradient: AtLeast = 0.0
    seed: int = 0
    validate_every: Positive
    checkpoint_every: Positive
    log_every: Positive
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    compile: bool = False
    channels_last: Literal["auto", "on", "off"] = "auto"
    device: str = "auto"
    threads: Positive = 1
    explode: Above = 1e4


class Adversarial(Section):
    """The discriminator of Fig. 6(b) and how it is trained; see opponent.py.

    Its Adam and schedule are its own. schedule: null follows the generator's.
    """

    base: Positive = 64
    pool: bool = True
    norm: Literal["batch", "none"] = "batch"
    lr: Above = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: AtLeast = 0.0
    decoupled: bool = True
    schedule: Schedule | None = None
    r1: AtLeast = 0.0
    updates: Positive = 1
    warmup: Count = 0


class Features(Section):
    """How codes of the frozen networks are compared (Eq. 7, 8); see features.py."""

    target: Literal["lr", "hr"] = "lr"
    vit_layers: list[int] = Field([-1], min_length=1)
    vit_reduce: Literal["token", "pooled", "centred"] = "token"
    autoencoder_size: Literal[0, 256] = 0
    random: list[Literal["vit", "autoencoder"]] = []
    validation_patches: Positive = 16
    gradient_norms_every: Count = 0


# where slices lie during a training; see batches.py
Place = Literal["auto", "device", "host", "stream"]


class Training(Loop):
    """Numbers of a super-resolution training.

    patch: HR pixels, the same area at every scale. patch_lr: LR pixels instead, where a publication
    keeps those; 0 leaves `patch` in force.
    """

    steps: Positive
    patch: Count
    patch_lr: Count = 0
    augment: bool = True
    validation_slices: Count
    test_curve: bool = True
    place: Place = "auto"
    adversarial: Adversarial = Adversarial()
    features: Features = Features()


class VitNetwork(Section):
    """UNETR's encoder and the width of its decoder."""

    hidden: Positive = 768
    layers: Positive = 12
    heads: Positive = 12
    mlp: Positive = 3072
    patch: Literal[16] = 16
    size: tuple[Positive, Positive, Positive] = (96, 96, 96)
    feature_size: Positive = 16


class VitTraining(Loop):
    """A phase of the vision transformer's training."""

    validation_volumes: Count = 0
    encoder_rate: Above = 1.0


class VitFinetuning(VitTraining):
    """The second phase, which learns from slices as the super-resolution does."""

    place: Place = "auto"


Pretext = Literal["organ", "masked", "contrastive"]


class Vit(Section):
    """The vision transformer: pre-training by segmentation, fine-tuning by a pre-text."""

    network: VitNetwork = VitNetwork()
    classes: Positive = 5
    weights: str = ""
    weights_sha256: str = ""
    segmentation: VitTraining
    pretext: Pretext = "organ"
    mask_ratio: Fraction = 0.75
    temperature: Above = 0.1
    finetuning: VitFinetuning


class AutoencoderNetwork(Section):
    """The disentangling auto-encoder; see models/autoencoder.py."""

    structure_channels: Positive = 1
    texture: Positive = 256
    size: Literal[0, 256] = 256
    channels: tuple[Positive, Positive, Positive, Positive] = (64, 64, 32, 32)
    pooling: Literal["mean", "max"] = "mean"
    start: Literal["linear", "random"] = "linear"


class AutoencoderWeights(Section):
    """Eq. 6, and two terms that it does not have; see disentangle.py."""

    reconstruction: AtLeast = 1.0
    adversarial: AtLeast = 0.7
    swap: AtLeast = 0.7
    patch_swap: AtLeast = 1.0
    consistency: AtLeast = 0.0


class AutoencoderDiscriminator(Adversarial):
    """The auto-encoder's opponent; it may look at a random square of `crop` pixels."""

    base: Positive = 32
    crop: Count = 0


class Autoencoder(Loop):
    """The disentangling auto-encoder's training, one per dataset and scale.

    augment: random flips. test_curve: log the test slices too; they never choose.
    """

    network: AutoencoderNetwork = AutoencoderNetwork()
    weights: AutoencoderWeights = AutoencoderWeights()
    discriminator: AutoencoderDiscriminator = AutoencoderDiscriminator()
    intensity_range: Above = 255.0
    patch: Count = 0
    patch_n: Positive = 64
    augment: bool = True
    validation_slices: Count = 0
    test_curve: bool = True
    place: Place = "auto"
    gradient_norms_every: Count = 0


class Preset(Section):
    """A metric convention, complete; it stands in every table's caption."""

    level: Literal["slice", "volume"]
    data_range: Literal["slice_max", "volume_max", "one"]
    border: Count = 0
    window: Literal["gaussian", "uniform"]
    window_size: Positive
    sigma: Above = 1.5
    k1: Above = 0.01
    k2: Above = 0.03
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


Type = Literal["single", "guided", "self", "joint"]
Recipe = Literal["common", "published"]


class Method(Section):
    """One row of a table. `like` takes another entry and changes what is named here.

    type: what the method learns from. `single`: LR and HR slices of the training subjects;
    `guided`: also a second contrast of the same scan; `self`: the LR slices of the test volume
    alone; `joint`: its LR input may be undersampled, and it restores that as well.
    acceleration: k-space lines of the LR input are undersampled so many times (joint).
    published: its publication's recipe, losses and what differs from `sr`; `recipe` chooses.
    """

    like: Name | None = None
    model: Name | None = None
    type: Type = "single"
    acceleration: Positive = 1
    recipe: Recipe | None = None
    published: dict[str, Any] = {}
    options: dict[str, Any] = {}
    losses: dict[str, AtLeast] = {}
    label: str = ""
    citation: str = ""
    kind: Literal["baseline", "proposed", "ablation", "control", "added"] = "baseline"
    train: dict[str, Any] = {}


class Block(Section):
    """Every dataset x scale x method of a block is a cell of the results."""

    datasets: list[Name]
    scales: list[Scale]
    methods: list[Name]


class VitData(Section):
    """What the vision transformer sees: volumes with labels, then slices of several organs."""

    labelled: list[Name] = Field(min_length=1)
    pool: list[Name] = Field(min_length=1)
    also: list[Pretext] = []


class Experiment(Section):
    """Which cells to fill, in which tables they stand, and what differs from the defaults."""

    description: str
    grid: list[Block] = Field(min_length=1)
    tables: dict[Literal["table1", "table2"], list[Name]]
    recipe: Recipe = "common"  # of methods that do not choose one themselves
    vit: VitData | None = None
    set: dict[str, Any] = {}


class Params(Section):
    """params.yaml."""

    experiment: Name
    tracked: dict[Name, str]
    data: Data
    vit: Vit
    autoencoder: Autoencoder
    sr: Training
    metrics: Metrics
    tracking: Tracking = Tracking()
    methods: dict[Name, Method]
    experiments: dict[Name, Experiment]

    @model_validator(mode="after")
    def _names_exist(self) -> Params:
        if self.experiment not in self.experiments:
            raise at("experiment", f"no experiment '{self.experiment}'", self.experiments)
        for key, dataset in self.data.datasets.items():
            if dataset.source not in self.data.sources:
                raise at(
                    f"data.datasets.{key}.source",
                    f"no source '{dataset.source}'",
                    self.data.sources,
                )
            if dataset.guide is not None:
                self._guide_fits(key, dataset)
        for key, settings in self.data.sources.items():
            check_source(key, settings)
        if self.metrics.preset not in self.metrics.presets:
            raise at("metrics.preset", f"no '{self.metrics.preset}'", self.metrics.presets)
        for key, experiment in self.experiments.items():
            for number, block in enumerate(experiment.grid):
                where = f"experiments.{key}.grid.{number}"
                for name in block.datasets:
                    if name not in self.data.datasets:
                        raise at(f"{where}.datasets", f"no '{name}'", self.data.datasets)
                for name in block.methods:
                    if name not in self.methods:
                        raise at(f"{where}.methods", f"no method '{name}'", self.methods)
            if experiment.vit is not None:
                where = f"experiments.{key}.vit"
                for name in (*experiment.vit.labelled, *experiment.vit.pool):
                    if name not in self.data.datasets:
                        raise at(where, f"no dataset '{name}'", self.data.datasets)
                organs = {self.data.datasets[name].organ for name in experiment.vit.pool}
                if len(organs) < 2 and "organ" in (self.vit.pretext, *experiment.vit.also):
                    raise at(
                        f"{where}.pool",
                        f"only {organs.pop()} in it: telling organs apart needs two; "
                        "add a dataset of another organ, such as phantom_knee",
                    )
            if "sources" in experiment.set.get("data", {}):
                raise at(f"experiments.{key}.set.data.sources", "raw data is shared by all")
        return self

    def _guide_fits(self, key: str, dataset: Dataset) -> None:
        """A guide is another contrast of the same source."""
        where = f"data.datasets.{key}.guide"
        guide = self.data.datasets.get(dataset.guide or "")
        if guide is None:
            raise at(where, f"no dataset '{dataset.guide}'", self.data.datasets)
        if guide.source != dataset.source or guide.contrast == dataset.contrast:
            raise at(where, f"'{dataset.guide}' is not another contrast of {dataset.source}")
