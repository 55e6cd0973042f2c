"""One experiment in force: its cells, its rows, and the settings that each job is handed."""

from __future__ import annotations

from typing import Any

from mrsr.params.declared import at, model_scales, source_settings
from mrsr.params.methods import Row, chain, merge, resolve
from mrsr.params.schema import Params, Section


class Cell(Section):
    """One number of a table: a method on a dataset at a scale."""

    dataset: str
    scale: int
    method: str


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
        rows = {key: resolve(params, key) for key in params.methods}
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

    @property
    def vit_scales(self) -> list[int]:
        """The scales at which a method looks through the ViT; there is one ViT for all of them."""
        seen = {cell.scale for cell in self.cells if "vit" in self.rows[cell.method].frozen}
        return sorted(seen) or self.scales

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
                "scales": self.vit_scales,
                "degradations": {
                    name: self.params.data.datasets[name].degradation for name in self.pool
                },
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
        return {key: resolve(self.written, key) for key in self.written.methods}

    def full_options(self, method: str) -> dict[str, Any]:
        """A method's options as params.yaml has them before the experiment changes any."""
        return dict(chain(self.written.methods, method).get("options", {}))

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
