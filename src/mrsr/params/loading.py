"""params.yaml, typed and checked: the only reader of that file.

`load("params.yaml", "demo")` merges the experiment's `set:` block over the defaults, checks every
key, and gives an `InForce`: the resolved configuration of one experiment, and the settings that
each job is handed. Imports no torch. The sections stand in sections.py, what models, losses and
sources accept in accepts.py, the resolving in rows.py and in_force.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mrsr.errors import UserError
from mrsr.files import is_secret
from mrsr.params.declared import at, loss_names
from mrsr.params.experiment import InForce
from mrsr.params.methods import first_problem, merge
from mrsr.params.schema import Params
from mrsr.plugins import PACKAGE_FOLDERS, check_plugins

# what an experiment's `set:` block may change
SETTABLE = {"data", "vit", "autoencoder", "sr", "metrics", "tracking", "methods"}
__all__ = ["InForce", "load", "merge", "schema"]


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys in silence; here a repeated key is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in written if written.count(key) > 1})
    if twice:
        raise UserError(
            f"params file, table at line {node.start_mark.line + 1}: key '{twice[0]}' stands twice"
        )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 1e-4 as a string; everybody means a number
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: str | Path = "params.yaml", experiment: str | None = None) -> InForce:
    """Read, merge the experiment's `set:` block, check, resolve.

    Args:
        path: the YAML file.
        experiment: overrides the file's own `experiment:`.

    Raises:
        UserError: one line with the file and the dotted path of the first problem.
    """
    check_plugins()
    path = Path(path)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; run in the project's root"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a table with the key 'experiment'")
    if experiment is not None:
        document["experiment"] = experiment
    for key in _secrets(document):
        raise UserError(
            f"{path}: {key}: an address with a query or a password, which would be written into "
            "logs and records; fetch the file with `python -m mrsr.raw.download` and name it here"
        )
    try:
        # the file as written is checked first, so that a mistake is told where it stands
        asked = Params.model_validate(document)
        change = asked.experiments[asked.experiment].set
        unknown = sorted(set(change) - SETTABLE)
        if unknown:
            raise at(f"experiments.{asked.experiment}.set.{unknown[0]}", "unknown key")
        if not change:
            return InForce(asked)
        try:
            return InForce(Params.model_validate(merge(document, change)), asked)
        except ValidationError as error:
            raise ValueError(first_problem(error, f"experiments.{asked.experiment}.set")) from None
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    """Dotted paths of web addresses that may carry an access key."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in pairs:
            yield from _secrets(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and is_secret(value):
        yield key


def schema() -> dict[str, Any]:
    """JSON schema of params.yaml for editors, with the options of sources, models and losses."""
    result = Params.model_json_schema()
    result["title"] = "params.yaml of mrsr"
    method = result["$defs"]["Method"]["properties"]
    method["losses"]["propertyNames"] = {"enum": loss_names()}
    for folder in PACKAGE_FOLDERS[:1]:
        names = sorted(p.stem for p in (folder / "models").glob("[a-z]*.py"))
        method["model"]["examples"] = names
    return result
