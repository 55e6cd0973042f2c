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
from mrsr.tracking import labels as columns
from mrsr.tracking.model import card, log_model
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
    relative_places,
    store_uri,
    switched_off,
)
from mrsr.tracking.values import _flat, _milliseconds, _params, _split, _tags, _with_zeros

PATIENCE = 300.0  # seconds without another attempt at a store that failed
CHUNK = 900  # metrics of a request; MLflow's own limit is 1000
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
    with contextlib.suppress(Exception), _turn(store_uri(uri)):  # the first upload reports it
        relative_places(store_uri(uri))
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
    commit = provenance.get("commit")
    tags = labels | {"commit": commit, "digest": start["digest"]}
    tags |= columns.run_tags("training", labels | {"type": settings.get("type", "")}, commit)
    run = _run(client, uri, "training", labels, start["digest"], tags, start["time"])
    _params(client, run, {**_with_zeros(settings), "provenance": provenance})
    _inputs(client, run, columns.stores_of_training(settings, start.get("data")))

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
        files = [folder / "log.jsonl", folder / "best.pt", Path(temporary) / "card.md"]
        files[-1].write_text(card(lines), encoding="utf-8")
        with contextlib.suppress(ImportError):  # without matplotlib there is no figure
            from mrsr.drawing import curves

            files.append(Path(temporary) / "curves.png")
            curves({" ".join(labels.values()): folder / "log.jsonl"}, files[-1])
        known_files = _artifacts(client, run, files)
    if weights := known_files.get("best.pt"):
        client.set_tag(run.info.run_id, "checkpoint_sha256", weights)
        if "model" in settings:
            log_model(client, run, settings, weights, end.get("best_step") or 0)
    if run.info.status != "FINISHED":
        ended = end.get("time", start["time"])
        client.set_terminated(run.info.run_id, "FINISHED", end_time=_milliseconds(ended))


def _evaluation(client: Any, file: Path, uri: str) -> None:
    text = file.read_bytes()
    record = json.loads(text)
    labels = {key: str(record[key]) for key in ("experiment", "dataset", "scale", "method")}
    digest = hashlib.sha256(text).hexdigest()[:12]  # another measurement is another run
    tags = labels | {"commit": record.get("commit"), "digest": record.get("settings_digest")}
    tags |= columns.run_tags("evaluation", labels, record.get("commit"))
    # earlier versions recorded neither: the forward passes are the least that it took
    lasted = record.get("seconds") or record.get("seconds_per_slice", 0) * record["n_slices"]
    started = record.get("started") or file.stat().st_mtime - lasted
    written = started + lasted
    run = _run(client, uri, "evaluation", labels, digest, tags, started)
    known = {k: v for k, v in record.items() if not k.startswith("per_")}
    _params(client, run, _with_zeros(known))
    if "mrsr.metrics.record" not in run.data.tags:
        kept = {key: value for key, value in record.items() if key != "per_volume"}
        shown = {_SHOWN[key]: value for key, value in _flat(kept) if key in _SHOWN}
        points = _points(shown, "", written, 0)
        client.log_batch(run.info.run_id, metrics=points, tags=_tags(_split(kept)))
    if record.get("slices_digest"):
        _inputs(client, run, [(labels["dataset"], record["slices_digest"], "test")])
    _artifacts(client, run, [file, file.with_suffix(".csv"), file.with_suffix(".png")])
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED", end_time=_milliseconds(written))

    _under_its_training(client, run, record, labels, digest, written)
    # the tables use the measurements that are in the results folder now
    same = " and ".join(f"tags.{key} = '{value}'" for key, value in labels.items())
    query = f"{same} and tags.stage = 'evaluation' and tags.`mrsr.current` = 'true'"
    for other in _runs(client, client.get_experiment(run.info.experiment_id), query):
        if other.info.run_id != run.info.run_id:
            client.set_tag(other.info.run_id, "mrsr.current", "false")
    client.set_tag(run.info.run_id, "mrsr.current", "true")


# numbers of an evaluation that become metrics, and their names there; the rest is in the record
_SHOWN = {
    f"{metric}.{end}": metric if end == "mean" else f"{metric}.{end}"
    for metric in ("psnr", "ssim", "nmse")
    for end in ("mean", "low", "high")
} | {key: key for key in ("seconds_per_slice", "parameters", "n_subjects")}


def _under_its_training(
    client: Any, run: Any, record: dict[str, Any], labels: dict[str, str], digest: str, when: float
) -> None:
    """Put an evaluation below the training of its checkpoint, which shows the test metrics too.

    So a training's row has both its settings and what came of them. If the store has the evaluation
    before the training, the next delivery of the evaluation (`mrsr sync`) does it.
    """
    weights = record.get("checkpoint_sha256")
    if not weights:
        return
    experiment = client.get_experiment(run.info.experiment_id)
    query = f"tags.checkpoint_sha256 = '{weights}' and tags.stage = 'training'"
    found = _runs(client, experiment, query)
    if not found:
        return
    training = found[-1]
    if run.data.tags.get("mlflow.parentRunId") != training.info.run_id:
        client.set_tag(run.info.run_id, "mlflow.parentRunId", training.info.run_id)
    own = all(training.data.tags.get(key) == value for key, value in labels.items())
    if own and training.data.tags.get("mrsr.measured") != digest:
        means = {name: record[name]["mean"] for name in ("psnr", "ssim", "nmse")}
        points = _points(means, "", when, int(record.get("steps") or 0))
        client.log_batch(
            training.info.run_id, metrics=points, tags=_tags({"mrsr.measured": digest})
        )


def _inputs(client: Any, run: Any, stores: list[tuple[str, str, str]]) -> None:
    """Name the slice stores that a run has read, once: MLflow's column of datasets."""
    if not stores or "mrsr.inputs" in run.data.tags:
        return
    experiment = run.data.tags["experiment"]
    client.log_inputs(run.info.run_id, columns.dataset_inputs(experiment, stores))
    client.set_tag(run.info.run_id, "mrsr.inputs", "true")


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
            client.create_experiment(
                name, artifact_location=place, tags=columns.experiment_tags(name)
            )
            relative_places(uri)
        experiment = client.get_experiment_by_name(name)
    for tag, value in columns.experiment_tags(labels["experiment"]).items():
        if tag not in experiment.tags:  # made by an earlier version, or by hand
            client.set_experiment_tag(experiment.experiment_id, tag, value)
    query = f"tags.`mrsr.key` = '{key}'"
    found = _runs(client, experiment, query)
    if not found:
        tags = {**tags, "mrsr.key": key, "stage": stage}
        client.create_run(
            experiment.experiment_id,
            start_time=_milliseconds(started),
            tags={tag.key: tag.value for tag in _tags(tags)},
            run_name=columns.run_name(stage, labels),
        )
        found = _runs(client, experiment, query)
    # a server that died after creating a run and before confirming it was asked again
    for spare in found[1:]:
        client.delete_run(spare.info.run_id)
    return found[0]


def _artifacts(client: Any, run: Any, files: list[Path]) -> dict[str, str]:
    """Upload the files that exist and that the run does not have yet; SHA-256 of all it has."""
    known: dict[str, str] = json.loads(run.data.tags.get("mrsr.artifacts", "{}"))
    for file in files:
        if file.is_file() and known.get(file.name) != (digest := sha256(file)):
            client.log_artifact(run.info.run_id, str(file))
            known[file.name] = digest
            client.set_tag(run.info.run_id, "mrsr.artifacts", json.dumps(known))
    return known


def _points(values: dict[str, Any], prefix: str, seconds: float, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(prefix + key, float(value), _milliseconds(seconds), step)
        for key, value in values.items()
        if type(value) in (int, float)
    ]


def _is_record(file: Path) -> bool:
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"psnr", "n_subjects", "method"} <= set(record)
