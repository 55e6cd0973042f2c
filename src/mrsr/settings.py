"""What a job is handed: its piece of the configuration as JSON, and nothing else.

`config.py` reads and checks params.yaml where Snakemake runs. A job, perhaps on a compute node
that has torch and little more, gets the resolved piece on its command line and reads it here with
the standard library alone. Attribute access is the same as on the models of `config.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mrsr.errors import UserError

# folders of one's own beside the package, each with models/ or datasets/ in it
PLUGINS = tuple(
    Path(folder).expanduser().resolve()
    for folder in os.environ.get("MRSR_PLUGINS", "").split(os.pathsep)
    if folder
)
# where files of models, sources and losses are looked for, by their name; the package's come first
PACKAGE_FOLDERS = (Path(__file__).resolve().parent, *PLUGINS)


def check_plugins() -> None:
    """Refuse a folder of MRSR_PLUGINS that is not there, or has nothing to add, by a `UserError`.

    Not done on import: there, it would be a traceback instead of a line.
    """
    for folder in PLUGINS:
        if not folder.is_dir():
            raise UserError(f"MRSR_PLUGINS: no folder {folder}; correct the path, or unset it")
        if not any((folder / name).is_dir() for name in ("models", "datasets")):
            raise UserError(
                f"MRSR_PLUGINS: {folder} has neither models/ nor datasets/; name the folder above"
            )


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
