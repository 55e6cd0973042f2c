"""Copy the records of trainings and evaluations to MLflow. The local files are authoritative.

`deliver` takes a training's folder (log.jsonl, best.pt) or an evaluation's JSON and uploads what
the store is missing. A run is found by its tag `mrsr.key`, and nothing is sent twice, so an upload
may be killed and repeated. If the store is down, there is one warning line. Several writers on one
SQLite file wait for each other.

The store is `MLFLOW_TRACKING_URI`, or else `sqlite:///mlflow.db`. View it with `mlflow ui`; upload
by hand with `mrsr sync`. Imports only the standard library until something is uploaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.params.repeats import origin
from mrsr.tracking.reading import _runs
from mrsr.tracking.store import (
    Deleted,
    _answers,
    _client,
    _database,
    _experiment,
    _held,
    _turn,
    _warn,
    store_uri,
    switched_off,
)

PATIENCE = 300.0  # seconds without another attempt at a store that failed
# MLflow's own limits are 1000 metrics, 100 params or tags, 8000 characters a tag, 6000 a param
CHUNK, PARAMS, TAG_LENGTH, PARAM_LENGTH = 900, 90, 4000, 500
_failed: dict[str, float] = {}  # store -> when it last failed


def deliver(path: Path | str, settings: Any = None, uri: str | None = None) -> bool:
    """Upload what the store lacks of a training's folder or an evaluation's JSON.

    Args:
        path: folder with log.jsonl, or a metrics JSON (the CSV and PNG of its name go with it).
        settings: with `tracking.enabled`; None delivers. See `switched_off`.
        uri: the store; None: see `store_uri`.

    Returns:
        Whether the store now has everything. If not, the reason was printed as one warning line,
        and the same call later uploads the rest. Nothing is raised. A store that stays down is
        reported once per process.
    """
    if switched_off(settings):
        return False
    uri, path = store_uri(uri), Path(path)
    try:
        send = _training if path.is_dir() else _evaluation
        complete = not path.is_dir() or (path / "best.pt").exists()
        if not complete and time.monotonic() - _failed.get(uri, -PATIENCE) < PATIENCE:
            return False  # already reported; the last upload of a training tries again
        with _turn(uri), _held(path):
            send(_client(uri), path, uri)
    except Exception as error:
        if isinstance(error, Deleted) and str(error) in _failed:
            return False  # for the other records of the experiment it is the same
        if isinstance(error, Deleted):
            _failed[str(error)] = time.monotonic()
        if isinstance(error, (UserError, KeyError, TypeError, ValueError)):
            return _warn(uri, error, path)
        said, _failed[uri] = uri in _failed, time.monotonic()
        return False if said else _warn(uri, error, path)
    _failed.pop(uri, None)
    return True


def sync(results: Path, uri: str | None = None) -> tuple[int, int]:
    """Upload every training and evaluation below `results` (or results/<experiment>).

    Returns:
        How many the store has now, and how many uploads failed.

    Raises:
        UserError: there is no such folder.
    """
    results = Path(results)
    if not results.is_dir():
        raise UserError(f"no folder {results}; run an experiment first")
    paths = [log.parent for log in sorted(results.rglob("log.jsonl"))]
    paths += [file for file in sorted(results.rglob("*.json")) if _is_record(file)]
    done = 0
    _failed.clear()  # a person asked for it, so try
    for path in paths:
        _failed.pop(store_uri(uri), None)
        if deliver(path, None, uri):
            done += 1
        elif not _answers(store_uri(uri)):
            break  # the store is down: one warning, not one per file
    return done, len(paths) - done


def _training(client: Any, folder: Path, uri: str) -> None:
    from mrsr.files import read_log  # tqdm

    lines = read_log(folder / "log.jsonl")
    start = next((line for line in lines if line.get("event") == "start"), None)
    if start is None:
        return  # not started
    settings, provenance = start["settings"], start.get("provenance") or {}
    # the vision transformer has no dataset or scale, but a phase
    known = ("experiment", "dataset", "scale", "method", "phase", "pretext")
    labels = {key: str(settings[key]) for key in known if key in settings}
    tags = labels | {"commit": provenance.get("commit"), "digest": start["digest"]}
    tags |= _repeat(labels)
    run = _run(client, uri, "training", labels, start["digest"], tags, start["time"])
    _params(client, run, {**_with_zeros(settings), "provenance": provenance})

    # How far each split was sent, not how many lines: after a resume the lines since the last
    # checkpoint are written again, with other times.
    sent: dict[str, int] = json.loads(run.data.tags.get("mrsr.sent", "{}"))
    pending = [
        line
        for line in lines
        if "step" in line and line["step"] > sent.get(line.get("split", ""), -1)
    ]
    while pending:
        batch: list[Any] = []
        while pending and len(batch) + len(pending[0]["metrics"]) <= CHUNK:
            line = pending.pop(0)
            batch += _points(line["metrics"], f"{line['split']}/", line["time"], line["step"])
            sent[line["split"]] = line["step"]
        client.log_batch(run.info.run_id, metrics=batch, tags=_tags({"mrsr.sent": sent}))

    end = next((line for line in lines if line.get("event") == "end"), None)
    if end is None:
        return
    with tempfile.TemporaryDirectory() as temporary:
        files = [folder / "log.jsonl", folder / "best.pt"]
        with contextlib.suppress(ImportError):  # without matplotlib there is no figure
            from mrsr.drawing import curves

            files.append(Path(temporary) / "curves.png")
            curves({" ".join(labels.values()): folder / "log.jsonl"}, files[-1])
        _artifacts(client, run, files)
    if run.info.status != "FINISHED":
        ended = end.get("time", start["time"])
        client.set_terminated(run.info.run_id, "FINISHED", end_time=_milliseconds(ended))


def _repeat(labels: dict[str, str]) -> dict[str, str]:
    """Tags of a run that is one of several: the dataset that it repeats, its fold and seed."""
    name = labels.get("dataset", "")
    of = origin(name)
    numbers = {"fold": of.fold, "seed": of.seed}
    found = {key: str(number) for key, number in numbers.items() if number is not None}
    return {"repeats": of.dataset, **found} if found else {}


def _evaluation(client: Any, file: Path, uri: str) -> None:
    text = file.read_bytes()
    record = json.loads(text)
    labels = {key: str(record[key]) for key in ("experiment", "dataset", "scale", "method")}
    digest = hashlib.sha256(text).hexdigest()[:12]  # another measurement is another run
    tags = labels | {"commit": record.get("commit"), "digest": record.get("settings_digest")}
    tags |= _repeat(labels)
    written = file.stat().st_mtime
    run = _run(client, uri, "evaluation", labels, digest, tags, written)
    known = {k: v for k, v in record.items() if not k.startswith("per_")}
    _params(client, run, _with_zeros(known))
    if "mrsr.metrics.record" not in run.data.tags:
        kept = {key: value for key, value in record.items() if key != "per_volume"}
        points = _points({k: v for k, v in _flat(kept) if k in _SHOWN}, "", written, 0)
        client.log_batch(run.info.run_id, metrics=points, tags=_tags(_split(kept)))
    _artifacts(client, run, [file, file.with_suffix(".csv"), file.with_suffix(".png")])
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED", end_time=_milliseconds(written))

    # the tables use the measurements that are in the results folder now
    same = " and ".join(f"tags.{key} = '{value}'" for key, value in labels.items())
    query = f"{same} and tags.stage = 'evaluation' and tags.`mrsr.current` = 'true'"
    for other in _runs(client, client.get_experiment(run.info.experiment_id), query):
        if other.info.run_id != run.info.run_id:
            client.set_tag(other.info.run_id, "mrsr.current", "false")
    client.set_tag(run.info.run_id, "mrsr.current", "true")


# numbers of an evaluation that become metrics; the rest is in the record
_SHOWN = frozenset(
    f"{metric}.{end}" for metric in ("psnr", "ssim", "nmse") for end in ("mean", "low", "high")
) | {"seconds_per_slice", "parameters", "n_subjects"}


def _run(
    client: Any,
    uri: str,
    stage: str,
    labels: dict[str, str],
    digest: str,
    tags: dict[str, Any],
    started: float,
) -> Any:
    """The run of this training or evaluation; created if the store has none."""
    key = "/".join([stage, *labels.values(), digest])
    experiment = _experiment(client, labels["experiment"])
    if experiment is None:
        name, place = labels["experiment"], None
        if (database := _database(uri)) is not None:
            place = (database.parent / "mlartifacts" / name).resolve().as_uri()
        # another writer on a server may have been faster
        with contextlib.suppress(Exception):
            client.create_experiment(name, artifact_location=place)
        experiment = client.get_experiment_by_name(name)
    query = f"tags.`mrsr.key` = '{key}'"
    found = _runs(client, experiment, query)
    if not found:
        tags = {**tags, "mrsr.key": key, "stage": stage}
        client.create_run(
            experiment.experiment_id,
            start_time=_milliseconds(started),
            tags={tag.key: tag.value for tag in _tags(tags)},
            run_name=f"{labels['dataset']} x{labels['scale']} {labels['method']} {stage}",
        )
        found = _runs(client, experiment, query)
    # a server that died after creating a run and before confirming it was asked again
    for spare in found[1:]:
        client.delete_run(spare.info.run_id)
    return found[0]


def _params(client: Any, run: Any, values: dict[str, Any]) -> None:
    """Log settings as flat params, except those that the run has: they are final in MLflow."""
    from mlflow.entities import Param

    new = [
        Param(key[:250], str(value)[:PARAM_LENGTH])
        for key, value in _flat(values)
        if key[:250] not in run.data.params and str(value)
    ]
    for first in range(0, len(new), PARAMS):
        client.log_batch(run.info.run_id, params=new[first : first + PARAMS])


def _with_zeros(values: dict[str, Any]) -> dict[str, Any]:
    """Values of a training or a record, with a weight of 0 for each loss that it does not have.

    MLflow draws a parameter that is missing above the largest value of the other runs.
    """
    from mrsr.params.declared import loss_names

    zeros = dict.fromkeys(loss_names(), 0.0)
    full = {key: zeros | values[key] for key in ("losses", "own_losses") if values.get(key)}
    return values | full


def _artifacts(client: Any, run: Any, files: list[Path]) -> None:
    """Upload the files that exist and that the run does not have yet."""
    known = json.loads(run.data.tags.get("mrsr.artifacts", "{}"))
    for file in files:
        if file.is_file() and known.get(file.name) != (digest := sha256(file)):
            client.log_artifact(run.info.run_id, str(file))
            known[file.name] = digest
            client.set_tag(run.info.run_id, "mrsr.artifacts", json.dumps(known))


def _points(values: dict[str, Any], prefix: str, seconds: float, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(prefix + key, float(value), _milliseconds(seconds), step)
        for key, value in values.items()
        if type(value) in (int, float)
    ]


def _tags(values: dict[str, Any]) -> list[Any]:
    from mlflow.entities import RunTag

    return [
        RunTag(key, value if isinstance(value, str) else json.dumps(value))
        for key, value in values.items()
        if value is not None
    ]


def _split(record: dict[str, Any]) -> dict[str, str]:
    """A record as tags within the length limit; `mrsr.metrics.record` is their number."""
    text = json.dumps(record)
    parts = [text[at : at + TAG_LENGTH] for at in range(0, len(text), TAG_LENGTH)]
    return {f"mrsr.metrics.record.{n}": part for n, part in enumerate(parts)} | {
        "mrsr.metrics.record": str(len(parts))
    }


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested dictionaries as (dotted key, value), in the characters that MLflow allows."""
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [
        pair
        for key, item in value.items()
        for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))
    ]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _is_record(file: Path) -> bool:
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"psnr", "n_subjects", "method"} <= set(record)
