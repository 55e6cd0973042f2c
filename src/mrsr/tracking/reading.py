"""Metrics records that MLflow has: what the tables and comparisons are made of without files."""

from __future__ import annotations

import json
from typing import Any

from mrsr.errors import UserError
from mrsr.tracking.store import Deleted, _client, _experiment, _public, _reason, _turn, store_uri


def from_mlflow(experiment: str, uri: str | None = None) -> list[dict[str, Any]]:
    """The current metrics records of an experiment, as `mrsr.tables.tables` takes them.

    Raises:
        UserError: the store cannot be read, or has no evaluations of the experiment.
    """
    uri = store_uri(uri)
    try:
        with _turn(uri):
            client = _client(uri)
            found = _experiment(client, experiment)
            runs = _runs(client, found, "tags.`mrsr.current` = 'true'") if found else []
    except Deleted as error:
        raise UserError(f"{_public(uri)}: {error}") from None
    except Exception as error:
        raise UserError(
            f"cannot read {_public(uri)} ({_reason(error)}); start it, or set MLFLOW_TRACKING_URI"
        ) from None
    if not runs:
        raise UserError(
            f"no evaluations of experiment '{experiment}' in {_public(uri)}; "
            "run it with tracking on, or `mrsr sync`"
        )
    records = [_join(run.data.tags) for run in runs]
    return sorted(records, key=lambda r: (r["dataset"], r["scale"], r["method"]))


def record_of_run(run_id: str, uri: str | None = None) -> dict[str, Any]:
    """The metrics record of one MLflow run of an evaluation.

    Raises:
        UserError: the store cannot be read, or the run is not there or no evaluation.
    """
    uri = store_uri(uri)
    try:
        with _turn(uri):
            tags = _client(uri).get_run(run_id).data.tags
    except Exception as error:
        raise UserError(f"cannot read run {run_id} of {_public(uri)} ({_reason(error)})") from None
    try:
        return _join(tags)
    except (KeyError, ValueError):
        raise UserError(f"run {run_id} is no evaluation: it has no metrics record") from None


def _runs(client: Any, experiment: Any, query: str) -> list[Any]:
    """All runs that match, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], query, order_by=["start_time ASC"], page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def _join(tags: dict[str, str]) -> dict[str, Any]:
    return json.loads(
        "".join(tags[f"mrsr.metrics.record.{n}"] for n in range(int(tags["mrsr.metrics.record"])))
    )
