"""A settings file for each job, so that the command line of a job is short and can be retyped.

The files are in results/<experiment>/settings/, named like what the job makes. Snakemake writes
them when a run starts. A rule's `params:` has `@FILE#DIGEST`, which changes with the settings
and so decides what runs again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrsr.files import write_json
from mrsr.params.experiment import Resolved
from mrsr.params.typed import digest, plain


class SettingsFiles:
    """The settings files of an experiment, by the name of what each job makes."""

    def __init__(self, resolved: Resolved, results: str = "results") -> None:
        self.folder = Path(results) / resolved.name / "settings"
        self.jobs = every_job(resolved)

    def argument(self, name: str) -> str:
        """The value of `--settings` on a job's command line."""
        return f"@{self._path(name)}#{digest(self.jobs[name])}"

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


def every_job(resolved: Resolved) -> dict[str, Any]:
    """The settings of every job, by names like `checkpoints/phantom_t1/x2/srresnet`."""
    found: dict[str, Any] = {
        "tracking": resolved.params.tracking,
        "tables": resolved.tables(),
    }
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
