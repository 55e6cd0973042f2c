"""What a job is handed: its piece of the configuration as JSON, and nothing else.

`config.py` reads and checks params.yaml where Snakemake runs. A job, perhaps on a compute node
that has torch and little more, gets the resolved piece on its command line and reads it here with
the standard library alone. Attribute access is the same as on the models of `config.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mrsr.errors import UserError


def parse(text: str) -> SimpleNamespace:
    """Settings from a JSON object, or from a file when `text` is `@path`.

    Tables whose keys are data (options, losses, tags) stay dictionaries: see `_DICTS`.

    Raises:
        UserError: the text is not a JSON object.
    """
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read settings file {text[1:]}: {error.strerror}") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"settings are not JSON: {error}; give an object or @file") from None
    if not isinstance(value, dict):
        raise UserError('settings must be a JSON object, like {"dataset": "phantom_t1"}')
    return namespace(value)


# keys whose value is a table of the user's own names, not of fields
_DICTS = frozenset(
    {"options", "losses", "tables", "subjects", "labels", "datasets", "degradations"}
)


def job(text: str, required: Iterable[str], counts: Iterable[str] = ()) -> SimpleNamespace:
    """Settings of a job, with every one of `required`, and `counts` whole numbers of 1 or more.

    Raises:
        UserError: one is missing or has another value.
    """
    settings = parse(text)
    for key in required:
        if not hasattr(settings, key):
            raise UserError(f"settings: '{key}' is missing; `mrsr params` shows them all")
    for key in counts:
        value = getattr(settings, key)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"settings: {key} must be a whole number of 1 or more, not {value}")
    return settings


def namespace(value: dict[str, Any]) -> SimpleNamespace:
    """A dictionary as attributes, nested; the tables named in `_DICTS` stay dictionaries."""
    return SimpleNamespace(
        **{
            key: namespace(item) if isinstance(item, dict) and key not in _DICTS else item
            for key, item in value.items()
        }
    )


def plain(value: Any) -> Any:
    """The inverse of `namespace`: dictionaries, lists and scalars again."""
    if isinstance(value, SimpleNamespace):
        return {key: plain(item) for key, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that change when any setting changes."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
