"""Values as MLflow takes them: flat params, tags within its limits, times in milliseconds."""

from __future__ import annotations

import json
from typing import Any

# MLflow's own limits are 100 params or tags, 8000 characters a tag, 6000 a param
PARAMS, TAG_LENGTH, PARAM_LENGTH = 90, 4000, 500


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
