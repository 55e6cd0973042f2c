"""params.yaml and the files in workflow/experiments/: their only reader.

`load("params.yaml", "demo")` merges the experiment's `set:` over params.yaml, checks every key, and
gives a `Resolved`: the experiment's cells, and the settings that each job is handed. Imports no
torch. The classes stand in `schema/`, what models, losses and sources declare in `declared.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mrsr.errors import UserError
from mrsr.files import is_secret
from mrsr.params.checking import adapter, check_experiment, check_params, checked
from mrsr.params.declared import at, loss_names, model_names
from mrsr.params.experiment import Resolved
from mrsr.params.methods import merge
from mrsr.params.schema import Experiment, Params
from mrsr.plugins import check_plugins

EXPERIMENTS = Path("workflow/experiments")  # beside params.yaml
# the sections of params.yaml that an experiment's `set:` may change
SETTABLE = {"data", "vit", "autoencoder", "sr", "metrics", "tracking", "methods"}


class _UniqueKeys(yaml.SafeLoader):
    """Refuse repeated keys; plain YAML silently keeps the last."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in written if written.count(key) > 1})
    if twice:
        raise ValueError(f"table at line {node.start_mark.line + 1}: key '{twice[0]}' stands twice")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 1e-4 as a string; everybody means a number
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: str | Path = "params.yaml", experiment: str | Path | None = None) -> Resolved:
    """Read params.yaml and an experiment, merge, check, resolve.

    Args:
        path: params.yaml; the experiments lie in workflow/experiments/ beside it.
        experiment: a name there, or the path of a YAML file of one's own; None: the one that
            params.yaml names.

    Raises:
        UserError: one line with the file and the dotted path of the first problem.
    """
    check_plugins()
    path = Path(path)
    document = read_yaml(path)
    with _told(path):
        params = checked(Params, document)
        check_params(params)
    asked = str(experiment if experiment is not None else params.experiment)
    file = experiment_file(path, asked)
    name = file.stem
    written = _followed(path, file)
    with _told(file):
        chosen = checked(Experiment, written)
        for key in sorted(set(chosen.set) - SETTABLE):
            raise at(f"set.{key}", "unknown key", SETTABLE)
        if "sources" in (chosen.set.get("data") or {}):
            raise at("set.data.sources", "raw data is shared by all; change it in params.yaml")
        merged = merge(document, chosen.set)
        changed = checked(Params, merged, "set") if chosen.set else params
        check_params(changed)
        check_experiment(chosen, changed)
        methods = {"in_force": merged["methods"], "as_written": document["methods"]}
        return Resolved(replace(changed, experiment=name), name, chosen, **methods)


def experiment_file(path: Path, name: str) -> Path:
    """The file of an experiment, by its name or its own path.

    Raises:
        UserError: there is none, or its name cannot be a folder's.
    """
    folder = path.parent / EXPERIMENTS
    file = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", file.stem):
        raise UserError(
            f"experiment '{name}': a name has small letters, digits and _, and starts with a letter"
        )
    if not file.is_file():
        known = ", ".join(sorted(names(path))) or f"none in {folder}"
        raise UserError(f"no experiment '{name}'; known: {known}; or give a file of your own")
    return file


def names(path: str | Path = "params.yaml") -> list[str]:
    """The experiments in workflow/experiments/ beside params.yaml, sorted."""
    return sorted(file.stem for file in (Path(path).parent / EXPERIMENTS).glob("[a-z]*.yaml"))


def _followed(path: Path, file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """An experiment as written over those that it is `like`; `set` and `vit` are merged."""
    document = read_yaml(file)
    like = document.get("like")
    if like is None:
        return document
    if file in seen:
        raise UserError(f"{file}: like: goes in a circle")
    base = _followed(path, experiment_file(path, str(like)), (*seen, file))
    deep = [key for key in ("set", "vit") if isinstance(base.get(key), dict)]
    tables = {key: merge(base[key], document.get(key) or {}) for key in deep}
    return {**base, **document, **tables}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that is a table.

    Raises:
        UserError: it cannot be read, has a key twice, or an address that may carry a secret.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; run in the project's root"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8 in your editor") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a table, such as 'sr: {{steps: 100}}'")
    for key in _secrets(document):
        raise UserError(
            f"{path}: {key}: an address with a query or a password, which would be written into "
            "logs and records; fetch the file with `python -m mrsr.raw.download` and name it here"
        )
    return document


class _told:  # noqa: N801
    """Around checks of a file: a ValueError becomes a line that names the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError):
            raise UserError(f"{self.file}: {error}") from None


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    """Dotted paths of web addresses that may carry an access key."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in pairs:
            yield from _secrets(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and is_secret(value):
        yield key


def json_schema() -> dict[str, Any]:
    """JSON schema of params.yaml for editors, with the options of sources, models and losses."""
    result = adapter(Params).json_schema()
    result["title"] = "params.yaml of mrsr"
    method = result["$defs"]["Method"]["properties"]
    method["losses"]["propertyNames"] = {"enum": loss_names()}
    method["model"]["examples"] = model_names()
    return result
