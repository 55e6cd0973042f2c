"""Settings of the data: sources, datasets, splits (`data:` of params.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mrsr.params.typed import (
    CONFIG,
    Bound,
    ByKind,
    Fraction,
    Integer,
    Name,
    Positive,
)


class Section:
    """Base of the dataclasses that pydantic checks."""

    __pydantic_config__ = CONFIG


Degradation = Literal["bicubic", "kspace", "mixed"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Normalise(Section):
    """Intensities are divided by a percentile of the whole volume; nothing is clipped."""

    level: Literal["volume"] = "volume"
    """The percentile is that of the whole volume."""
    percentile: Annotated[float, Bound(above=0, most=100)] = 99.9
    """Percent; the intensity at this percentile becomes 1."""


@dataclass(frozen=True, kw_only=True)
class SplitBySource(Section):
    """The source says which split a volume is in (phantom, fastMRI, IXI's committed list)."""

    kind: Literal["source"]
    """Which of the five kinds of split this is."""


@dataclass(frozen=True, kw_only=True)
class SplitBySubjects(Section):
    """Subjects listed by name."""

    kind: Literal["subjects"]
    """Which of the five kinds of split this is."""
    train: tuple[str, ...]
    """Training subjects."""
    validation: tuple[str, ...]
    """Validation subjects."""
    test: tuple[str, ...]
    """Test subjects."""


@dataclass(frozen=True, kw_only=True)
class SplitByHash(Section):
    """A hash of a subject's name decides its split, so adding subjects moves none."""

    kind: Literal["hash"]
    """Which of the five kinds of split this is."""
    fractions: tuple[Fraction, Fraction, Fraction] = (0.7, 0.1, 0.2)
    """Shares of train, validation and test; they add up to 1."""
    seed: Integer = 0
    """Another seed gives another split."""


@dataclass(frozen=True, kw_only=True)
class SplitByCSV(Section):
    """A table with the columns subject and split."""

    kind: Literal["csv"]
    """Which of the five kinds of split this is."""
    path: str
    """The CSV file."""


@dataclass(frozen=True, kw_only=True)
class SplitByCounts(Section):
    """Exact numbers of subjects, drawn once from a seed."""

    kind: Literal["counts"]
    """Which of the five kinds of split this is."""
    train: Positive
    """Number of training subjects."""
    validation: Positive
    """Number of validation subjects."""
    test: Positive
    """Number of test subjects."""
    seed: Integer = 0
    """Another seed gives another split."""


Split = Annotated[
    SplitBySource | SplitBySubjects | SplitByHash | SplitByCSV | SplitByCounts, ByKind()
]


@dataclass(frozen=True, kw_only=True)
class Cutting(Section):
    """How a contrast of a source becomes slices."""

    source: Name
    """A key of `data.sources`."""
    contrast: str
    """As the source names it: T1, T2, PD, ..."""
    organ: str
    """Class of the organ pretext task: brain, knee, ..."""
    slice_axis: Annotated[int, Bound(least=0, most=2)] | None = None
    """Axis of the file (0, 1, 2) that slices are stacked along; without it the source decides, your
    own scans by an axis of length 1, else by the largest voxel size."""
    crop: tuple[Positive, Positive] | None = None
    """Height and width that slices are cropped to, in pixels (section 4: 240 x 240)."""
    central_slices: Positive | None = None
    """Number of slices to take from the middle of each volume (section 4: 96)."""
    max_slices: Positive | None = None
    """Most slices of a volume, evenly spread."""
    max_volumes: Positive | None = None
    """Most volumes."""
    foreground: Fraction = 0.0
    """Training slices with a smaller fraction of anatomy are left out."""
    normalise: Normalise = field(default_factory=Normalise)
    """Which intensity becomes 1."""
    split: Split
    """Which subjects are for training, validation and test."""
    skip_bad: bool = False
    """Skip volumes that cannot be read, with a message, instead of stopping."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Cutting):
    """One dataset of the tables: a contrast of a source, how it is sliced and degraded."""

    label: str = ""
    """Its name in the tables; the key without one."""
    degradation: Degradation = "bicubic"
    """How LR slices are made (section 4: bicubic for IXI, k-space truncation for fastMRI). mixed:
    both, slice by slice in turn; for training alone."""
    guide: Name | None = None
    """The dataset of the second contrast of the same scan, for guided methods."""


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """Where volumes come from, and the datasets made of them."""

    sources: dict[Name, dict[str, Any]]
    """A source's own settings; its file in datasets/ has their defaults. `like:` takes the file of
    another one, so that a project can have several folders."""
    datasets: dict[Name, Dataset]
    """The datasets of the tables."""
