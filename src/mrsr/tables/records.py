"""Reading metrics records, the JSON that `mrsr.metrics.evaluate` writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.tables.formats import METRICS


def read_record(source: Path | str | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A checked metrics record, and its name in errors.

    Raises:
        UserError: the file cannot be read or lacks what a metrics file has.
    """
    record: Any = source
    if isinstance(source, dict):
        where = f"the tracked run of {source.get('method')}"
    else:
        where = str(source)
        try:
            record = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {where}: {error.strerror}; run the evaluation") from None
        except ValueError:
            raise UserError(f"{where} is not JSON; delete it and evaluate again") from None
    wanted = ("experiment", "dataset", "scale", "method", "n_subjects", "n_slices")
    for key in (*wanted, "preset", "per_subject", *METRICS):
        found = record.get(key) if isinstance(record, dict) else None
        if found is None or (key not in wanted and not isinstance(found, dict)):
            raise UserError(f"{where} is not a metrics file: no {key}; evaluate again")
    for metric in METRICS:
        mean, *ends = (record[metric].get(end) for end in ("mean", "low", "high"))
        numbers = [mean, *(end for end in ends if end is not None)]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            raise UserError(f"{where}: {metric} is not finite; evaluate again")
    return record, where
