"""A settings file for each job, so that the command line of a job is short and can be retyped.

The files are in results/<experiment>/settings/, named like what the job makes. Snakemake writes
them when a run starts. A rule's `params:` has `@FILE#DIGEST`, which changes with the settings
and so decides what runs again. Where the settings name files or folders (own scans, a split's CSV,
weights, a plug-in), the digest is followed by `+` and one of their state: by content if they are
small, otherwise by names, sizes and times (`mrsr.listing`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mrsr import listing
from mrsr.errors import UserError
from mrsr.files import write_json
from mrsr.params import declared, figures
from mrsr.params.experiment import Resolved
from mrsr.params.typed import digest, plain


class Named(NamedTuple):
    """A file or folder that a setting names, and which files count in a folder."""

    path: Path
    suffixes: tuple[str, ...] = ()


class SettingsFiles:
    """The settings files of an experiment, by the name of what each job makes."""

    def __init__(self, resolved: Resolved, results: str = "results") -> None:
        self.folder = Path(results) / resolved.name / "settings"
        self.jobs = every_job(resolved)
        self.named = every_file(resolved)
        self._states: dict[Named, str] = {}  # of one start; looked up for every job that reads them

    def argument(self, name: str) -> str:
        """The value of `--settings` on a job's command line."""
        argument = f"@{self._path(name)}#{digest(self.jobs[name])}"
        states = [(named.path.name, self._state(named)) for named in self.named.get(name, ())]
        return f"{argument}+{digest(states)}" if states else argument

    def _state(self, named: Named) -> str:
        if named not in self._states:
            try:
                self._states[named] = listing.digest(named.path, named.suffixes)
            except UserError:
                self._states[named] = "unreadable"  # the job that reads it says so in a line
        return self._states[named]

    def write(self) -> None:
        """Write the files that are missing or differ."""
        for name, job in self.jobs.items():
            if not _holds(self._path(name), plain(job)):
                write_json(self._path(name), plain(job))

    def _path(self, name: str) -> Path:
        if name.startswith("raw/"):  # raw scans are shared by all experiments
            return Path("data") / f"{name}.json"
        return self.folder / f"{name}.json"


def _holds(path: Path, value: Any) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")) == value
    except (OSError, ValueError):
        return False


def every_file(resolved: Resolved) -> dict[str, list[Named]]:
    """The files and folders that the settings of a job name, by the job's name."""
    found: dict[str, list[Named]] = {}
    for source in resolved.sources:
        given = resolved.source_settings(source)
        module = declared.source_module(source, given)
        named = [
            Named(path, tuple(ends))
            for key, ends in declared.source_files(module).items()
            if (path := _local(given.get(key, "")))
        ]
        found[f"raw/{source}"] = named + list(map(Named, declared.outside("datasets", module)))
    for dataset in resolved.datasets:
        split = resolved.params.data.datasets[dataset].split
        if split.kind == "csv":
            found[f"slices/{dataset}"] = [Named(Path(split.path))]
    if resolved.pool and (weights := _local(resolved.params.vit.weights)):
        found["checkpoints/vit/segmentation"] = [Named(weights)]
    for cell in resolved.cells:
        model = resolved.methods[cell.method].model
        for stage in ("checkpoints", "metrics"):
            files_of_model = list(map(Named, declared.outside("models", model)))
            found[f"{stage}/{cell.dataset}/x{cell.scale}/{cell.method}"] = files_of_model
    return found


def _local(address: str) -> Path | None:
    """The file or folder of a setting; None if it is empty or a web address."""
    if address.startswith("file:"):
        return Path(url2pathname(urlsplit(address).path))
    return Path(address).expanduser() if address and "://" not in address else None


def every_job(resolved: Resolved) -> dict[str, Any]:
    """The settings of every job, by names like `checkpoints/phantom_t1/x2/srresnet`."""
    found: dict[str, Any] = {
        "tracking": resolved.params.tracking,
        "tables": resolved.tables(),
        "figures": figures.figures(resolved),
        "report": figures.report(resolved),
    }
    for column in figures.columns(resolved):
        found[f"examples/{column.name}_x{column.scale}"] = figures.examples(resolved, column)
    for source in resolved.sources:
        found[f"raw/{source}"] = resolved.source_settings(source)
    for dataset in resolved.datasets:
        found[f"slices/{dataset}"] = resolved.slicing(dataset)
        if resolved.guided(dataset):
            found[f"slices/{dataset}_guide"] = resolved.guides(dataset)
    if resolved.pool:
        found["checkpoints/vit/segmentation"] = resolved.segmentation()
    for task in resolved.pretexts:
        found[f"checkpoints/vit/{task}"] = resolved.pretext(task)
    for dataset, scale in resolved.autoencoders():
        found[f"checkpoints/{dataset}/x{scale}/autoencoder"] = resolved.autoencoder(dataset, scale)
    for kind, cells, make in (
        ("checkpoints", resolved.trainings(), resolved.super_resolution),
        ("metrics", resolved.cells, resolved.evaluation),
    ):
        for cell in cells:
            name = f"{kind}/{cell.dataset}/x{cell.scale}/{cell.method}"
            found[name] = make(cell.dataset, cell.scale, cell.method)
    return found
