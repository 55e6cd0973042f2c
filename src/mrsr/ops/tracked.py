"""dvc.yaml: what DVC records of the experiments under `tracked:` in params.yaml.

DVC cannot put a list of its own length into a stage, and experiments differ in what they read and
make: some need two sources, some train nothing. So the file is written, by `mrsr track`, one stage
of DVC for each source and for each stage of the flow of each experiment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.params import loading
from mrsr.params.experiment import Resolved

FILE = Path("dvc.yaml")
MODELS = "src/mrsr/models"
HEAD = """\
# Written by `mrsr track` from `tracked:` in params.yaml; do not edit. Snakemake decides what runs,
# DVC records what came out: a stage for each source, and for each stage of an experiment's flow.
# Every out persists: without that, DVC would delete checkpoints before a stage runs.
"""
# what of params.yaml each stage depends on
SECTIONS = {
    "slices": ["data.datasets"],
    "checkpoints": ["data.datasets", "vit", "autoencoder", "sr", "methods"],
    "metrics": ["data.datasets", "metrics", "methods"],
    "tables": ["data.datasets", "metrics", "methods"],
    "figures": ["data.datasets", "metrics", "methods"],
    "report": ["data.datasets", "metrics", "methods"],
}


def stages_of(name: str) -> list[str]:
    """DVC's stages of an experiment, in order; those that it does not have are left out."""
    resolved = loading.load("params.yaml", name)
    return [f"{stage}-{resolved.name}" for stage in _stages(resolved)]


def raw_stages_of(name: str) -> list[str]:
    """DVC's stages of the sources that an experiment reads."""
    return [f"raw-{source}" for source in loading.load("params.yaml", name).sources]


def check_tracked(resolved: Resolved) -> None:
    """Check that an experiment is tracked and that dvc.yaml has its stages as they should be.

    Raises:
        UserError: what to write, and which command to run.
    """
    names = {Path(name).stem: name for name in resolved.params.tracked}
    if resolved.name not in names:
        raise UserError(
            f"experiment '{resolved.name}' is not under `tracked:` in params.yaml "
            f"({', '.join(names) or 'none is'}); add it there and run `mrsr track`"
        )
    own = [*raw_stages_of(names[resolved.name]), *stages_of(names[resolved.name])]
    wanted = _stages_of_all(resolved.params.tracked)
    try:
        written = (yaml.safe_load(FILE.read_text(encoding="utf-8")) or {}).get("stages") or {}
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        written = {}
    if any(written.get(stage) != wanted[stage] for stage in own):
        raise UserError(
            f"{FILE} does not fit experiment '{resolved.name}' as it is now; run `mrsr track`"
        )


def check_stages(resolved: Resolved) -> None:
    """As `check_tracked`, if DVC is what started Snakemake."""
    if os.environ.get("DVC_STAGE"):
        check_tracked(resolved)


def write(file: Path = FILE) -> list[str]:
    """Write dvc.yaml; returns the names of its stages.

    Raises:
        UserError: an experiment under `tracked:` cannot be loaded.
    """
    names = loading.load("params.yaml").params.tracked
    stages = _stages_of_all(names)
    plots = [f"results/{Path(name).stem}/tables/psnr.png" for name in names]
    artifacts = {
        key: what
        for name in names
        for key, what in _artifacts(loading.load("params.yaml", name)).items()
    }
    document = {"stages": stages, "plots": plots}
    if artifacts:
        document["artifacts"] = artifacts
    dumper: Any = yaml.SafeDumper
    text = yaml.dump(json.loads(json.dumps(document)), Dumper=dumper, sort_keys=False, width=100)
    write_text(file, HEAD + text)
    return list(stages)


def _stages_of_all(names: Sequence[str]) -> dict[str, Any]:
    """Every stage of the experiments of these names; each source is that of the first reader."""
    chosen = [loading.load("params.yaml", name) for name in names]
    raw: dict[str, Any] = {}
    for resolved in chosen:
        for source in resolved.sources:
            raw.setdefault(f"raw-{source}", _raw(resolved, source))
    return raw | {
        f"{stage}-{resolved.name}": what
        for resolved in chosen
        for stage, what in _stages(resolved).items()
    }


def _raw(resolved: Resolved, source: str) -> dict[str, Any]:
    """The stage of a source. The files that its settings name are its dependencies."""
    settings = resolved.source_settings(source)
    named = [
        value
        for key, value in settings.items()
        if key != "source"  # a publisher's archives, which have checksums
        if isinstance(value, str) and value and Path(value).exists()
    ]
    target = f"data/raw/{source}"
    return {
        "cmd": _command(f"{target}/manifest.csv", _where(resolved)),
        **({"deps": named} if named else {}),
        "params": [f"data.sources.{source}"],
        "outs": [{target: {"persist": True}}],
    }


def _stages(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """The stages of an experiment after `raw`."""
    folder = f"results/{resolved.name}"
    trains = any(method.trained for method in resolved.methods.values())
    raw = [f"data/raw/{source}" for source in resolved.sources]
    # of each stage: what it depends on, and what it makes
    flow: dict[str, tuple[list[str], list[str]]] = {"slices": (raw, [f"{folder}/slices"])}
    if trains:
        flow["checkpoints"] = ([f"{folder}/slices", MODELS], [f"{folder}/checkpoints"])
    made = [f"{folder}/checkpoints"] if trains else []
    flow["metrics"] = ([f"{folder}/slices", *made, MODELS], [f"{folder}/metrics"])
    flow["tables"] = ([*made, f"{folder}/metrics"], [f"{folder}/tables"])
    slices, metrics, figures = (f"{folder}/{name}" for name in ("slices", "metrics", "figures"))
    flow["figures"] = ([slices, *made, metrics, MODELS], [figures])
    flow["report"] = ([slices, *made, metrics, f"{folder}/tables", figures],
                      [f"{folder}/report.html"])  # fmt: skip
    files: list[Any] = [{path: None} for path in _files(resolved)]
    # DVC refuses a section that is not there, and without figures of one's own there is none
    own = {"figures", "report"} if "figures" in loading.read_yaml(Path("params.yaml")) else set()
    stages = {}
    for stage, (needs, outs) in flow.items():
        stages[stage] = {
            "cmd": _command(stage, _where(resolved)),
            "deps": needs,
            "params": [*SECTIONS[stage], *(["figures"] if stage in own else []), *files],
            "outs": [{path: {"persist": True}} for path in outs],
        }
    # a folder with a file for each row of the tables: DVC prints a line for each file
    stages["tables"]["metrics"] = [{f"{folder}/summary": {"persist": True}}]
    return stages


def _artifacts(resolved: Resolved) -> dict[str, Any]:
    """The networks that others may want, by name: without ablations and controls."""
    found = {}
    for cell in resolved.trainings():
        method = resolved.methods[cell.method]
        if method.kind in ("ablation", "control"):
            continue
        where = f"{cell.dataset}/x{cell.scale}/{cell.method}"
        # DVC allows no underscore in a name
        found[f"{resolved.name}-{where}".replace("/", "-").replace("_", "-").lower()] = {
            "path": f"results/{resolved.name}/checkpoints/{where}/best.pt",
            "type": "model",
            "desc": f"{method.label}, {cell.scale}x, trained on {cell.dataset}; of its steps the "
            "best on validation; for research only",
            "labels": ["super-resolution", f"x{cell.scale}", cell.dataset],
        }
    return found


def _where(resolved: Resolved) -> str:
    """The experiment as `--config` names it: by its name, or the path of a file elsewhere."""
    names = {Path(name).stem: name for name in resolved.params.tracked}
    return names.get(resolved.name, resolved.name)


def _files(resolved: Resolved) -> list[str]:
    """The experiment's file, those it is `like`, and its size's."""
    return [path.as_posix() for path in loading.files_of(Path("params.yaml"), _where(resolved))]


def _command(target: str, experiment: str) -> str:
    # the commands of .venv, where there is one, activated or not
    path = 'PATH="$PWD/.venv/bin:$PATH"'
    return f"{path} snakemake --cores 2 {target} --config experiment={experiment}"
