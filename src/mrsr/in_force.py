"""One experiment in force: its cells, its rows, and the settings that each job is handed."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import ValidationError

from mrsr.accepts import (
    at,
    loss_names,
    model_is_guided,
    model_options,
    model_scales,
    source_settings,
)
from mrsr.sections import Method, Params, Section, Training


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` over `base`, table by table; lists and scalars are replaced."""
    result = copy.deepcopy(base)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def first_problem(error: ValidationError, prefix: str = "") -> str:
    """The first problem of a validation as 'dotted.path: what'."""
    problem = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in problem["loc"])
    path = ".".join(part for part in (prefix, path) if part)
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("Extra inputs are not permitted", "unknown key")
    return f"{path}: {message}" if path else message


class Row(Section):
    """A method as it will be trained: `like` followed, recipe merged, zero weights dropped."""

    key: str
    model: str
    type: str
    acceleration: int
    recipe: str
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

    @property
    def frozen(self) -> tuple[str, ...]:
        """The networks trained beforehand that its losses look through."""
        vit = ("vit",) if "vit" in self.losses else ()
        codes = {"structure", "texture"} & self.losses.keys()
        return (*vit, *(("autoencoder",) if codes else ()))


class Cell(Section):
    """One number of a table: a method on a dataset at a scale."""

    dataset: str
    scale: int
    method: str


def _chain(methods: dict[str, Method], key: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if key not in methods:
        raise at(f"methods.{seen[-1]}.like", f"no method '{key}'", methods)
    if key in seen:
        raise at(f"methods.{key}.like", f"goes in a circle: {' -> '.join((*seen, key))}")
    own = methods[key].model_dump(exclude_unset=True)
    like = own.pop("like", None)
    if like:
        return merge(_chain(methods, like, (*seen, key)), own)
    return {"model": key, **own}  # without `model:` the entry's own name is the file's name


def _resolve(params: Params, key: str) -> Row:
    entry = _chain(params.methods, key)
    kind, chosen = entry.get("type", "single"), params.experiments[params.experiment].recipe
    published = dict(entry.get("published", {}))
    published.pop("note", "")
    recipe = entry.get("recipe") or chosen
    if not published:
        recipe = "common"
    model = entry["model"]
    known = model_options(model)
    if known is None:
        raise at(f"methods.{key}.model", f"missing file src/mrsr/models/{model}.py")
    for option in entry.get("options", {}):
        if option not in known:
            raise at(f"methods.{key}.options.{option}", f"model '{model}' has no such", known)
    if model_is_guided(model) != (kind == "guided"):
        needs = "a guide: write type: guided" if kind != "guided" else "no guide: not type: guided"
        raise at(f"methods.{key}.type", f"model '{model}' takes {needs}")
    if entry.get("acceleration", 1) > 1 and kind != "joint":
        raise at(
            f"methods.{key}.acceleration", "only methods of type joint take undersampled input"
        )
    losses = entry.get("losses", {})
    _check_weights(losses, f"methods.{key}.losses")
    published_losses = published.pop("losses", losses)
    _check_weights(published_losses, f"methods.{key}.published.losses")
    train = entry.get("train", {})
    # both recipes are checked, whichever is in force
    common = _training(params, train, f"methods.{key}.train")
    as_published = _training(params, merge(train, published), f"methods.{key}.published")
    if recipe == "published":
        losses = published_losses
    return Row(
        key=key,
        model=model,
        type=kind,
        acceleration=entry.get("acceleration", 1),
        recipe=recipe,
        options=entry.get("options", {}),
        losses={name: weight for name, weight in losses.items() if weight > 0},
        label=entry.get("label") or key,
        citation=entry.get("citation", ""),
        kind=entry.get("kind", "baseline"),
        training=as_published if recipe == "published" else common,
    )


def _check_weights(losses: Any, where: str) -> None:
    """`published` is not typed: its losses are checked here as the sections check `losses`."""
    if not isinstance(losses, dict):
        raise at(where, "must be a table, such as {l1: 1}")
    for name, weight in losses.items():
        if name not in loss_names():
            raise at(f"{where}.{name}", "no such loss", loss_names())
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise at(f"{where}.{name}", "must be a number of 0 or more")


def _training(params: Params, change: dict[str, Any], where: str) -> Training:
    try:
        return Training.model_validate(merge(params.sr.model_dump(mode="json"), change))
    except ValidationError as error:
        raise ValueError(first_problem(error, where)) from None


class InForce:
    """One experiment, resolved: its cells, and the settings that each job is handed."""

    def __init__(self, params: Params, written: Params | None = None) -> None:
        """Resolve every method that the experiment uses.

        written: params.yaml before the experiment's `set:`, where a method has its full width.

        Raises:
            ValueError: a method's chain, model, option or loss does not exist.
        """
        self.params = params
        self.written = written or params
        self.name = params.experiment
        self.experiment = params.experiments[params.experiment]
        cells: dict[tuple[str, int, str], Cell] = {}
        for block in self.experiment.grid:
            for dataset in block.datasets:
                for scale in block.scales:
                    for method in block.methods:
                        key = (dataset, int(scale), method)
                        cells[key] = Cell(dataset=dataset, scale=int(scale), method=method)
        # every entry is resolved, used or not: a mistake in any row is told at once
        rows = {key: _resolve(params, key) for key in params.methods}
        used = {cell.method for cell in cells.values()}
        self.rows = {key: row for key, row in rows.items() if key in used}
        # what cannot be measured stays a dash, with its reason beneath the table
        self.absent = {key: reason for key in cells if (reason := self._absent(*key))}
        self.cells = [cell for key, cell in cells.items() if key not in self.absent]
        if not self.cells:
            raise at(f"experiments.{self.name}.grid", next(iter(self.absent.values())))
        # datasets of the tables, and those that only the vision transformer learns from
        self.measured = list(dict.fromkeys(cell.dataset for cell in self.cells))
        self.pool: list[str] = []
        self.labelled: list[str] = []
        if any("vit" in row.frozen for row in self.rows.values()):
            if self.experiment.vit is None:
                raise at(f"experiments.{self.name}.vit", "missing: a method has the loss vit")
            self.pool = self.experiment.vit.pool
            self.labelled = self.experiment.vit.labelled
        self.datasets = list(dict.fromkeys((*self.measured, *self.pool, *self.labelled)))
        self.scales = sorted({cell.scale for cell in self.cells})
        self.sources = list(
            dict.fromkeys(params.data.datasets[name].source for name in self.datasets)
        )
        listed = {name for names in self.experiment.tables.values() for name in names}
        lost = [name for name in self.measured if name not in listed]
        if lost:
            raise at(f"experiments.{self.name}.tables", f"dataset '{lost[0]}' is in no table")

    def _absent(self, dataset: str, scale: int, method: str) -> str:
        """Why a dataset cannot serve a method, or a method a scale; empty when they fit."""
        row = self.rows[method]
        if row.type == "guided" and self.params.data.datasets[dataset].guide is None:
            return "it needs a registered second contrast, which the dataset does not have"
        scales = model_scales(row.model)
        if scale not in scales:
            return f"it is designed for {', '.join(f'{s}x' for s in scales)} only"
        return ""

    def guided(self, dataset: str) -> bool:
        """Whether a cell of the dataset needs its guide."""
        return any(
            c.dataset == dataset and self.rows[c.method].type == "guided" for c in self.cells
        )

    def guide_settings(self, dataset: str) -> dict[str, Any]:
        """What slicing a guide is handed: both contrasts, and the guide's normalisation."""
        datasets = self.params.data.datasets
        guide = datasets[datasets[dataset].guide or ""]
        return {
            "dataset": dataset,
            "guide": datasets[dataset].guide,
            "source": guide.source,
            "contrast": datasets[dataset].contrast,
            "guide_contrast": guide.contrast,
            "organ": guide.organ,
            "normalise": guide.normalise.model_dump(mode="json"),
        }

    def source_settings(self, source: str) -> dict[str, Any]:
        """What `mrsr raw` is handed: the source's defaults with params.yaml over them."""
        return merge(source_settings(source), self.params.data.sources[source])

    def slice_settings(self, dataset: str) -> dict[str, Any]:
        """What slicing is handed."""
        entry = self.params.data.datasets[dataset]
        fields = entry.model_dump(mode="json", exclude={"degradation", "label", "guide"})
        return {"dataset": dataset, **fields}

    def train_settings(self, dataset: str, scale: int, method: str) -> dict[str, Any]:
        """What train_sr is handed."""
        row = self.rows[method]
        unused = set()
        if "adversarial" not in row.losses and not row.frozen:
            unused = {"adversarial", "features"}  # a job is handed what it reads, no more
        return {
            "experiment": self.name,
            "dataset": dataset,
            "scale": scale,
            "method": method,
            "degradation": self.params.data.datasets[dataset].degradation,
            "normalise": self.params.data.datasets[dataset].normalise.model_dump(mode="json"),
            "model": {"name": row.model, "options": row.options},
            "type": row.type,
            "acceleration": row.acceleration,
            "recipe": row.recipe,
            "losses": row.losses,
            **row.training.model_dump(mode="json", exclude={*unused, "patch_lr"}),
            **({"patch": row.training.patch_lr * scale} if row.training.patch_lr else {}),
            "tracking": self.params.tracking.model_dump(),
        }

    @property
    def pretexts(self) -> list[str]:
        """The pre-texts that are trained: the one in force, and those to compare it with."""
        if not self.pool or self.experiment.vit is None:
            return []
        return list(dict.fromkeys((self.params.vit.pretext, *self.experiment.vit.also)))

    def vit_settings(self, phase: str, pretext: str = "") -> dict[str, Any]:
        """What train_vit is handed, for its phase segmentation or pretext."""
        vit = self.params.vit
        own: dict[str, Any] = {}
        if phase == "segmentation":
            own = vit.model_dump(
                mode="json", include={"network", "classes", "weights", "weights_sha256"}
            )
            training = vit.segmentation
        else:
            own = {
                "pretext": pretext,
                "mask_ratio": vit.mask_ratio,
                "temperature": vit.temperature,
            }
            training = vit.finetuning
        return {
            "experiment": self.name,
            "phase": phase,
            **own,
            **training.model_dump(mode="json"),
            "tracking": self.params.tracking.model_dump(),
        }

    def autoencoder_settings(self, dataset: str, scale: int) -> dict[str, Any]:
        """What train_autoencoder is handed."""
        return {
            "experiment": self.name,
            "dataset": dataset,
            "scale": scale,
            "method": "autoencoder",
            "degradation": self.params.data.datasets[dataset].degradation,
            **self.params.autoencoder.model_dump(mode="json"),
            "tracking": self.params.tracking.model_dump(),
        }

    def autoencoders(self) -> list[tuple[str, int]]:
        """(dataset, scale) of every auto-encoder that a cell needs."""
        return list(
            dict.fromkeys(
                (cell.dataset, cell.scale)
                for cell in self.cells
                if "autoencoder" in self.rows[cell.method].frozen
            )
        )

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
            "type": row.type,
            "acceleration": row.acceleration,
            "recipe": row.recipe,
            "full": {"options": self.full_options(method)},
            "preset": self.preset(),
            "bootstrap": metrics.bootstrap.model_dump(),
            "batch": metrics.batch,
            "device": metrics.device,
            "precision": metrics.precision,
            "threads": metrics.threads,
            "tracking": self.params.tracking.model_dump(),
        }

    @property
    def full_rows(self) -> dict[str, Row]:
        """Every method as params.yaml has it before the experiment changes any."""
        return {key: _resolve(self.written, key) for key in self.written.methods}

    def full_options(self, method: str) -> dict[str, Any]:
        """A method's options as params.yaml has them before the experiment changes any."""
        return dict(_chain(self.written.methods, method).get("options", {}))

    def table_settings(self) -> dict[str, Any]:
        """What the tables are made from, beside the metrics files."""
        return {
            "experiment": self.name,
            "tables": dict(self.experiment.tables),
            "datasets": {
                name: self.params.data.datasets[name].label or name for name in self.measured
            },
            "scales": self.scales,
            "methods": [
                {"key": r.key, "label": r.label, "citation": r.citation, "kind": r.kind}
                for r in self.rows.values()
            ],
            "absent": [
                {"dataset": dataset, "scale": scale, "method": method, "reason": reason}
                for (dataset, scale, method), reason in self.absent.items()
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
            "vit": self.params.vit.model_dump(mode="json"),
            "autoencoder": self.params.autoencoder.model_dump(mode="json"),
            "sr": self.params.sr.model_dump(mode="json"),
            "metrics": self.params.metrics.model_dump(mode="json"),
            "tracking": self.params.tracking.model_dump(),
            "methods": {key: row.model_dump(mode="json") for key, row in self.rows.items()},
            "vit_data": self.experiment.vit.model_dump() if self.experiment.vit else None,
            "grid": [block.model_dump(mode="json") for block in self.experiment.grid],
            "tables": dict(self.experiment.tables),
        }
