"""Whether result files were made with the settings in force, by what the files say of themselves.

Snakemake keeps the settings of each job in `.snakemake/`, which belongs to one clone. A results
folder that was pulled or copied comes without it; then Snakemake looks at file times alone and
would take a network for one of today's settings. Checkpoints, metrics and slice stores carry their
settings, so that this can be told: `check_files` before files are adopted, `check_unrecorded`
whenever a run starts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.params.experiment import Resolved
from mrsr.params.jobs import fixed
from mrsr.params.schema import SPLITS
from mrsr.params.settings_files import every_job
from mrsr.params.typed import build, digest, plain

REMEDY = "take the change of the settings back, or delete the file to make it anew"
# of these a file has the name alone, never a folder of the computer that wrote it
_NAMES = ("weights", "split.path")


def check_files(resolved: Resolved, results: Path = Path("results")) -> None:
    """Check every slice store, checkpoint and metrics file of an experiment, as far as it is there.

    Raises:
        UserError: the first file that was made with other settings, or from another checkpoint.
    """
    for path, problem in _problems(resolved, results / resolved.name, saved_in_checkpoint):
        raise UserError(f"{path} {problem}; {REMEDY}")


def check_unrecorded(resolved: Resolved, results: Path = Path("results")) -> None:
    """Check files of which Snakemake has no record in this clone: it would not see the difference.

    Reads a training's log in place of its checkpoint, because torch takes seconds to import.

    Raises:
        UserError: the first file that was made with other settings.
    """
    for path, problem in _problems(resolved, results / resolved.name, saved_in_log, is_recorded):
        raise UserError(
            f"{path} {problem}, and Snakemake has no record of it (a copied folder?); {REMEDY}"
        )


def changed(resolved: Resolved, results: Path = Path("results")) -> list[str]:
    """Files that were made with other settings than those in force; a run makes them again."""
    folder = results / resolved.name
    if not folder.is_dir():
        return []
    return [str(path) for path, _ in _problems(resolved, folder, saved_in_log)]


def is_recorded(path: Path) -> bool:
    """Whether Snakemake knows the job that made a file, or that the job did not end."""
    return any(record(path, kind).exists() for kind in ("metadata", "incomplete"))


def record(path: Path, kind: str) -> Path:
    """Where Snakemake keeps what it knows of an output, relative to the project's root."""
    from snakemake.persistence.file import FilePersistence

    record_path: Any = FilePersistence._record_path
    itself = SimpleNamespace(_fetch_max_len=lambda folder: 255)  # all that it asks for
    return Path(record_path(itself, f".snakemake/{kind}", str(path)))


def saved_in_checkpoint(path: Path) -> dict[str, Any] | None:
    """The settings in a checkpoint."""
    from mrsr import checkpoint

    return checkpoint.load(path).settings


def saved_in_log(path: Path) -> dict[str, Any] | None:
    """The settings in the log beside a checkpoint; None without one."""
    try:
        with open(path.with_name("log.jsonl"), encoding="utf-8") as log:
            found = json.loads(log.readline())
    except (OSError, ValueError):
        return None
    settings = found.get("settings") if isinstance(found, dict) else None
    return settings if isinstance(settings, dict) else None


def _problems(
    resolved: Resolved,
    folder: Path,
    saved: Callable[[Path], dict[str, Any] | None],
    skip: Callable[[Path], bool] = lambda path: False,
) -> Iterator[tuple[Path, str]]:
    """Each file that does not fit its settings, and how; in the order of the stages."""
    for name, job in every_job(resolved).items():
        kind = name.partition("/")[0]
        if kind == "slices":
            inside = folder / (name.replace("_guide", "/guide") if _is_guide(job) else name)
            paths = [inside / f"{split}.h5" for split in SPLITS]
        else:
            ending = {"checkpoints": "/best.pt", "metrics": ".json"}.get(kind)
            paths = [folder / f"{name}{ending}"] if ending else []
        for path in paths:
            if not path.exists() or skip(path):
                continue
            if kind == "slices":
                problem = _of_store(path, job)
            elif kind == "checkpoints":
                problem = differences(saved(path), job)
            else:
                weights = folder / name.replace("metrics/", "checkpoints/", 1) / "best.pt"
                problem = _of_metrics(path, job, weights)
            if problem:
                yield path, problem


def _is_guide(job: Any) -> bool:
    return hasattr(job, "guide_contrast")


def _of_store(path: Path, job: Any) -> str:
    from mrsr.slices.store import attributes

    try:
        recorded = json.loads(str(attributes(path).get("settings", "")))
    except ValueError:
        return ""
    # a guide's store does not have all of its job's settings
    return differences(_common(recorded, job) if _is_guide(job) else recorded, job)


def _of_metrics(path: Path, job: Any, weights: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "is not a metrics file"
    measured = record.get("checkpoint_sha256")
    if measured and weights.exists() and measured != sha256(weights):
        return f"measures another network than {weights}"
    if record.get("settings_digest") == digest(job):
        return ""
    problem = differences(_common(record, job), job)
    if problem or "own_losses" not in record:  # an earlier version's digest covers other fields
        return problem
    return "was measured with other settings"


def _common(recorded: dict[str, Any], job: Any) -> dict[str, Any]:
    """A job's settings with those that a file records put in their place."""
    value = plain(job)
    return value | {key: recorded[key] for key in value if key in recorded}


def differences(recorded: dict[str, Any] | None, job: Any) -> str:
    """How settings in a file differ from a job's: 'was made with losses.texture 0.9, not 0.8'.

    Settings that may change without changing the result do not count; nor does one that the file
    does not have because an older version wrote it, if it has its default now.
    """
    if recorded is None:
        return ""
    try:
        given = plain(build(type(job), recorded, strict=False))
    except ValueError:  # a field is missing, or has a value that is no longer allowed
        given = _common(recorded, job)
    old, new = dict(_flat(fixed(given))), dict(_flat(fixed(job)))
    keys = [key for key in dict.fromkeys((*new, *old)) if old.get(key) != new.get(key)]
    code = {"code", "model.code"} & {*keys}
    keys = [key for key in keys if key not in code]
    if recorded.get("weights_sha256") and not new.get("weights_sha256"):
        keys.remove("weights_sha256")  # the file's own; the settings need none
    if keys:
        told = [f"{key} {old.get(key, 'none')}, not {new.get(key, 'none')}" for key in keys[:3]]
        return f"was made with {', '.join(told)}"
    return "was made with another code of the network" if any(old.get(c) for c in code) else ""


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted key, value)."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, Path(value).name if path in _NAMES and isinstance(value, str) else value
