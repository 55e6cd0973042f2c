"""One experiment, resolved: its cells, its methods, and the settings of each job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mrsr.params import jobs
from mrsr.params.code import model_code
from mrsr.params.declared import (
    at,
    model_options,
    model_scales,
    source_module,
    source_settings,
)
from mrsr.params.methods import ResolvedMethod, merge
from mrsr.params.repeats import frozen_home, origin
from mrsr.params.schema import ANATOMY, Experiment, Params
from mrsr.params.typed import build, plain

Methods = Mapping[str, ResolvedMethod]


@dataclass(frozen=True)
class Cell:
    """One number of a table: a method on a dataset at a scale."""

    dataset: str
    scale: int
    method: str


class Resolved:
    """One experiment, resolved."""

    def __init__(
        self,
        params: Params,
        experiment: Experiment,
        methods: Methods,
        as_written: Methods,
    ) -> None:
        """Work out which cells there are and what they need.

        Args:
            params: params.yaml with the experiment's `set:` merged in, and its name.
            methods: all of params.yaml, with `set:`; as_written: without, at full width.

        Raises:
            ValueError: there is nothing to measure, or the tables or the ViT's data are missing.
        """
        self.params, self.name, self.experiment = params, params.experiment, experiment
        self.full_methods = as_written
        cells = dict.fromkeys(
            Cell(dataset, int(scale), method)
            for block in experiment.grid
            for dataset in block.datasets
            for scale in block.scales
            for method in block.methods
        )
        used = {cell.method for cell in cells}
        self.methods = {key: method for key, method in methods.items() if key in used}
        for key, method in self.methods.items():
            if method.weights_of and method.weights_of not in used:
                raise at(f"methods.{key}.weights_of", f"the grid lacks '{method.weights_of}'")
        # a cell that cannot be measured is a dash, with its reason below the table
        self.absent = {cell: reason for cell in cells if (reason := self._absent(cell))}
        self.cells = [cell for cell in cells if cell not in self.absent]
        if not self.cells:
            raise at("grid", next(iter(self.absent.values())))
        # datasets of the tables, and those that networks are only trained on
        self.measured = list(dict.fromkeys(cell.dataset for cell in self.cells))
        self.pool, self.labelled = list[str](), list[str]()
        tissues = set(params.metrics.more) & set(ANATOMY)
        if tissues or any("vit" in method.frozen for method in self.methods.values()):
            if experiment.vit_data is None:
                raise at("vit_data", "missing: a method uses the vision transformer")
            self.pool = list(experiment.vit_data.pool)
            self.labelled = list(experiment.vit_data.labelled)
        homes = [self.methods[cell.method].home(cell.dataset)[0] for cell in self.cells]
        homes += [dataset for dataset, _ in self.autoencoders()]
        self.datasets = list(dict.fromkeys((*self.measured, *homes, *self.pool, *self.labelled)))
        self.scales = sorted({cell.scale for cell in self.cells})
        datasets = params.data.datasets
        self.sources = list(dict.fromkeys(datasets[name].source for name in self.datasets))
        listed = {name for names in experiment.tables.values() for name in names}
        listed |= {name for name in self.measured if origin(name).dataset in listed}
        mixed = [name for name in self.measured if datasets[name].degradation == "mixed"]
        if mixed:
            raise at("grid", f"dataset '{mixed[0]}' is degraded in two ways: only train on it")
        lost = [name for name in self.measured if name not in listed]
        if lost:
            raise at("tables", f"dataset '{lost[0]}' is in no table")

    def _absent(self, cell: Cell) -> str:
        """Why a method cannot be used with a dataset or scale; empty if it can."""
        method = self.methods[cell.method]
        if method.type == "guided" and self.params.data.datasets[cell.dataset].guide is None:
            return "it needs a registered second contrast, which the dataset does not have"
        scales = model_scales(method.model)
        if cell.scale not in scales:
            return f"it is designed for {', '.join(f'{s}x' for s in scales)} only"
        return ""

    def guided(self, dataset: str) -> bool:
        """Whether a cell of the dataset needs its guide."""
        return any(
            cell.dataset == dataset and self.methods[cell.method].type == "guided"
            for cell in self.cells
        )

    @property
    def pretexts(self) -> list[str]:
        """The pretext tasks to train: the one that is used, and those to compare it with."""
        if not self.pool or self.experiment.vit_data is None:
            return []
        return list(dict.fromkeys((self.params.vit.pretext, *self.experiment.vit_data.also)))

    def vit_scales(self) -> list[int]:
        """The scales at which a method uses the ViT; one ViT serves them all."""
        used = {cell.scale for cell in self.cells if "vit" in self.methods[cell.method].frozen}
        return sorted(used) or self.scales

    def autoencoders(self) -> list[tuple[str, int]]:
        """(dataset, scale) of every auto-encoder that a cell needs."""
        needed = [
            (frozen_home(self.methods[cell.method].home(cell.dataset)[0]), cell.scale)
            for cell in self.cells
            if "autoencoder" in self.methods[cell.method].frozen
        ]
        return list(dict.fromkeys(needed))

    def trainings(self) -> list[Cell]:
        """The super-resolution trainings; one serves several cells if a method is `trained_on`."""
        homes = []
        for cell in self.cells:
            if self.methods[cell.method].trained:
                dataset, method = self.methods[cell.method].home(cell.dataset)
                homes.append(Cell(dataset, cell.scale, method))
        return list(dict.fromkeys(homes))

    def source_settings(self, source: str) -> dict[str, Any]:
        """Settings for preparing a source: its defaults, overridden by params.yaml."""
        given = self.params.data.sources[source]
        return merge(source_settings(source_module(source, given)), given)

    def slicing(self, dataset: str) -> jobs.Slicing:
        """Settings for slicing a dataset."""
        return jobs.Slicing(
            dataset=dataset, **_shared(self.params.data.datasets[dataset], jobs.Slicing)
        )

    def guides(self, dataset: str) -> jobs.Guides:
        """Settings for a dataset's guide: both contrasts, and the guide's normalisation."""
        datasets = self.params.data.datasets
        name = datasets[dataset].guide or ""
        guide = datasets[name]
        return jobs.Guides(
            dataset=dataset,
            guide=name,
            source=guide.source,
            contrast=datasets[dataset].contrast,
            guide_contrast=guide.contrast,
            organ=guide.organ,
            normalise=guide.normalise,
            slice_axis=datasets[dataset].slice_axis,
        )

    def _options(self, method: ResolvedMethod, dataset: str) -> dict[str, Any]:
        """A network's options; one that inverts the degradation is told which."""
        if "degradation" not in (model_options(method.model) or ()):
            return method.options
        return {"degradation": self.params.data.datasets[dataset].degradation, **method.options}

    def super_resolution(self, dataset: str, scale: int, method: str) -> jobs.SuperResolution:
        """Settings of a super-resolution training."""
        chosen, entry = self.methods[method], self.params.data.datasets[dataset]
        given = _shared(chosen.training, jobs.SuperResolution)
        if "adversarial" not in chosen.losses and not chosen.compared:
            given["adversarial"] = given["features"] = None  # a job gets only what it reads
        if chosen.training.patch_lr:
            given["patch"] = chosen.training.patch_lr * scale
        if (seed := origin(dataset).seed) is not None:
            given["seed"] = seed
        return jobs.SuperResolution(
            experiment=self.name,
            dataset=dataset,
            scale=scale,
            method=method,
            degradation=entry.degradation,
            normalise=entry.normalise,
            model=_model(chosen, chosen.options),
            type=chosen.type,
            acceleration=chosen.acceleration,
            recipe=chosen.recipe,
            losses=chosen.losses,
            tracking=self.params.tracking,
            **given,
        )

    def segmentation(self) -> jobs.Segmentation:
        """Settings of the vision transformer's pre-training."""
        vit = self.params.vit
        return jobs.Segmentation(
            experiment=self.name,
            network=vit.network,
            code=model_code("unetr"),
            classes=vit.classes,
            weights=vit.weights,
            weights_sha256=vit.weights_sha256,
            tracking=self.params.tracking,
            **_shared(vit.segmentation, jobs.Segmentation),
        )

    def pretext(self, task: str) -> jobs.Pretext:
        """Settings of a pretext task's training."""
        vit = self.params.vit
        return build(
            jobs.Pretext,
            {
                **plain(vit.finetuning),
                "experiment": self.name,
                "code": model_code("unetr"),
                "pretext": task,
                "mask_ratio": vit.mask_ratio,
                "temperature": vit.temperature,
                "scales": self.vit_scales(),
                "degradations": {
                    name: self.params.data.datasets[name].degradation for name in self.pool
                },
                "tracking": plain(self.params.tracking),
            },
        )

    def autoencoder(self, dataset: str, scale: int) -> jobs.Autoencoder:
        """Settings of an auto-encoder's training."""
        return jobs.Autoencoder(
            experiment=self.name,
            dataset=dataset,
            scale=scale,
            code=model_code("autoencoder"),
            degradation=self.params.data.datasets[dataset].degradation,
            tracking=self.params.tracking,
            **_shared(self.params.autoencoder, jobs.Autoencoder),
        )

    def preset(self, name: str = "") -> jobs.Preset:
        """The metric convention of the experiment, or the one of this name."""
        metrics = self.params.metrics
        return jobs.preset(name or metrics.preset, metrics.presets)

    def evaluation(self, dataset: str, scale: int, method: str) -> jobs.Evaluation:
        """Settings of an evaluation."""
        chosen, metrics = self.methods[method], self.params.metrics
        labelled = dataset in self.labelled
        return jobs.Evaluation(
            experiment=self.name,
            dataset=dataset,
            scale=scale,
            method=method,
            label=chosen.label,
            degradation=self.params.data.datasets[dataset].degradation,
            model=_model(chosen, self._options(chosen, dataset)),
            full_options=self._options(self.full_methods.get(method, chosen), dataset),
            own_losses=self.full_methods.get(method, chosen).losses,
            type=chosen.type,
            acceleration=chosen.acceleration,
            trained_on=chosen.trained_on,
            weights_of=chosen.weights_of,
            ensemble=chosen.ensemble,
            recipe=chosen.recipe,
            preset=self.preset(),
            more=tuple(name for name in metrics.more if labelled or name not in ANATOMY),
            bootstrap=metrics.bootstrap,
            batch=metrics.batch,
            device=metrics.device,
            precision=metrics.precision,
            threads=metrics.threads,
            tracking=self.params.tracking,
        )

    @property
    def repeats(self) -> dict[str, int]:
        """How many folds and seeds each dataset has that has any."""
        made = [name for name in self.measured if origin(name).dataset != name]
        return dict(Counter(origin(name).dataset for name in made))

    def tables(self) -> jobs.Tables:
        """Settings of the tables."""
        names = dict.fromkeys(origin(name).dataset for name in self.measured)
        labels = {name: self.params.data.datasets[name].label or name for name in names}
        return jobs.Tables(
            experiment=self.name,
            tables={str(key): names for key, names in self.experiment.tables.items()},
            datasets=labels,
            scales=tuple(self.scales),
            methods=tuple(
                jobs.MethodName(key=m.key, label=m.label, citation=m.citation, kind=m.kind)
                for m in self.methods.values()
            ),
            absent=tuple(
                dict.fromkeys(
                    jobs.Absent(
                        dataset=origin(cell.dataset).dataset,
                        scale=cell.scale,
                        method=cell.method,
                        reason=reason,
                    )
                    for cell, reason in self.absent.items()
                )
            ),
            repeats=self.repeats,
            preset=self.preset(),
        )

    def in_force(self) -> dict[str, Any]:
        """Every setting of the experiment, for `mrsr params`."""
        datasets = self.params.data.datasets
        sections = ("vit", "autoencoder", "sr", "metrics", "tracking", "figures")
        return plain(
            {
                "experiment": self.name,
                "description": self.experiment.description,
                "size": self.experiment.size,
                "data": {
                    "sources": {name: self.source_settings(name) for name in self.sources},
                    "datasets": {name: datasets[name] for name in self.datasets},
                },
                **{name: getattr(self.params, name) for name in sections},
                "methods": self.methods,
                "vit_data": self.experiment.vit_data,
                "grid": self.experiment.grid,
                "tables": self.experiment.tables,
            }
        )


def _model(method: ResolvedMethod, options: dict[str, Any]) -> jobs.Model:
    return jobs.Model(name=method.model, options=options, code=model_code(method.model))


def _shared(value: Any, kind: type) -> dict[str, Any]:
    """The fields of a section that a job's class has too."""
    names = {field.name for field in fields(kind)}
    return {f.name: getattr(value, f.name) for f in fields(value) if f.name in names}
