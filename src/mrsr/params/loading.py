"""params.yaml and the files in workflow/experiments/: their only reader.

`load("params.yaml", "demo")` merges the experiment's `set:` over params.yaml, checks every key, and
returns a `Resolved`: the experiment's cells and the settings of each job. Imports no torch. The
classes are in `schema/`; `declared.py` finds what models, losses and sources accept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mrsr.errors import UserError
from mrsr.files import is_secret
from mrsr.params import schema
from mrsr.params.acting import check_acting, check_size
from mrsr.params.checking import adapter, check_experiment, check_keys, check_params, checked
from mrsr.params.declared import at, loss_names, model_names
from mrsr.params.experiment import Resolved
from mrsr.params.methods import merge, resolve_all
from mrsr.params.repeats import expand
from mrsr.params.schema import Experiment, Params
from mrsr.plugins import check_plugins

EXPERIMENTS = Path("workflow/experiments")  # beside params.yaml
SIZES = Path("workflow/sizes")
PAPER = "paper"  # the size that changes nothing
# the sections of params.yaml that an experiment's `set:` and a size may change
SETTABLE = {"data", "vit", "autoencoder", "sr", "metrics", "tracking", "figures", "methods"}


# libyaml, where PyYAML has it, is ten times as fast
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeys(_Loader):
    """Refuse repeated keys; plain YAML silently keeps the last."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in written if written.count(key) > 1})
    if twice:
        raise ValueError(
            f"table at line {node.start_mark.line + 1}: key '{twice[0]}' is given twice"
        )
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 1e-4 as a string, but a number is meant
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: str | Path = "params.yaml", experiment: str | Path | None = None) -> Resolved:
    """Read params.yaml and an experiment, merge, check, resolve.

    Args:
        path: params.yaml; the experiments are in workflow/experiments/ next to it.
        experiment: a name there, or the path of your own YAML file; None: the one that
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
        # used or not: a mistake in any of them is told at once
        resolve_all(params, document["methods"])
    sized = _sizes(path, document)
    file = experiment_file(path, str(experiment if experiment is not None else params.experiment))
    for each, written in _chain(path, file):  # an error names the file that has it
        with _told(each):
            check_keys(written)
            chosen = checked(Experiment, written)
            if chosen.size not in (None, *sized):
                raise at("size", f"no '{chosen.size}'", sized)
            for key in sorted(set(chosen.set) - SETTABLE):
                raise at(f"set.{key}", "unknown key", SETTABLE)
            if "sources" in (chosen.set.get("data") or {}):
                raise at(
                    "set.data.sources", "all experiments share raw data; change it in params.yaml"
                )
            merged = merge(sized.get(chosen.size or PAPER, document), chosen.set)
            changed = checked(Params, merged, "set")
    with _told(file, "set." if chosen.set else ""):
        check_params(changed)
        methods = resolve_all(changed, merged["methods"], chosen.recipe)
    with _told(file):
        check_experiment(chosen, changed)
        changed, repeated = expand(changed, chosen)
        # at full width, with its own weights: what `size` and `set` change is told in the tables
        as_written = resolve_all(params, document["methods"], chosen.recipe)
        resolved = Resolved(replace(changed, experiment=file.stem), repeated, methods, as_written)
        check_acting(resolved)
        check_size(resolved, chosen.set, params, sized)
        return resolved


def _sizes(path: Path, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """params.yaml (`document`) with each file of workflow/sizes/ merged in, and as it is.

    Raises:
        UserError: a file has an unknown or wrong key, used or not.
    """
    sized = {PAPER: document}
    for file in sorted((path.parent / SIZES).glob("[a-z]*.yaml")):
        changes = read_yaml(file)
        with _told(file):
            if file.stem == PAPER:
                raise ValueError("the name means params.yaml as it is; use another")
            for key in sorted({*changes} - SETTABLE):
                raise at(key, "unknown key", SETTABLE)
            sized[file.stem] = merge(document, changes)
            checked(Params, sized[file.stem])
    return sized


def experiment_file(path: Path, name: str) -> Path:
    """The file of an experiment, by its name or its own path.

    Raises:
        UserError: there is none, or its name cannot be a folder's, or is another experiment's.
    """
    folder = path.parent / EXPERIMENTS
    own = name.endswith((".yaml", ".yml"))
    file = Path(name) if own else folder / f"{name}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", file.stem if own else name):
        raise UserError(
            f"experiment '{name}': use lower-case letters, digits and _, and start with a letter"
        )
    if not file.is_file():
        known = ", ".join(sorted(names(path))) or f"none in {folder}"
        raise UserError(f"no experiment '{name}'; known: {known}; or give a path")
    other = folder / f"{file.stem}.yaml"
    if own and other.is_file() and not other.samefile(file):
        raise UserError(f"{name}: {other} has the same name, and so the same results; rename yours")
    return file


def files_of(path: Path, name: str) -> list[Path]:
    """The files that decide an experiment besides params.yaml, its own first.

    They are those that it is `like`, and the size that it picks.

    Raises:
        UserError: as `load`.
    """
    chain = _chain(path, experiment_file(path, name))
    size = path.parent / SIZES / f"{chain[-1][1].get('size', PAPER)}.yaml"
    return [*(file for file, _ in reversed(chain)), *([size] if size.is_file() else [])]


def names(path: str | Path = "params.yaml") -> list[str]:
    """The experiments in workflow/experiments/ next to params.yaml, sorted."""
    return sorted(file.stem for file in (Path(path).parent / EXPERIMENTS).glob("[a-z]*.yaml"))


def _chain(
    path: Path, file: Path, above: tuple[Path, ...] = ()
) -> list[tuple[Path, dict[str, Any]]]:
    """An experiment and those that it follows by `like`, the first one first.

    Each is (file, content), with the content of the previous one overridden; `set` and `vit_data`
    are merged.
    """
    document = read_yaml(file)
    like = document.get("like")
    if like is None:
        return [(file, document)]
    if file in above:
        raise UserError(f"{file}: like: leads back to itself")
    try:
        base = experiment_file(path, str(like))
    except UserError as error:
        raise UserError(f"{file}: like: {error}") from None
    chain = _chain(path, base, (*above, file))
    content = chain[-1][1] | document
    for key in ("set", "vit_data"):
        one, two = chain[-1][1].get(key), document.get(key) or {}
        if isinstance(one, dict) and isinstance(two, dict):
            content[key] = merge(one, two)
    return [*chain, (file, content)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that is a table.

    Raises:
        UserError: it cannot be read, repeats a key, or has an address that may contain a secret.
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
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; it should be a table of tables") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a table, such as 'sr: {{steps: 100}}'")
    for key in _secrets(document):
        raise UserError(
            f"{path}: {key}: an address with a query or a password would be written into logs "
            "and records; download the file with `python -m mrsr.raw.download` and name it here"
        )
    return document


class _told:  # noqa: N801
    """Turns a ValueError of the checks into a UserError that names the file."""

    def __init__(self, file: Path, section: str = "") -> None:
        self.start = f"{file}: {section}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError):
            raise UserError(f"{self.start}{error}") from None


def _secrets(value: Any, key: str = "") -> Iterator[str]:
    """Dotted paths of web addresses that may contain an access key."""
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
    for name, section in result["$defs"].items():
        _describe(getattr(schema, name), section["properties"])
    method = result["$defs"]["Method"]["properties"]
    method["losses"]["propertyNames"] = {"enum": loss_names()}
    method["model"]["examples"] = model_names()
    return result


def _describe(kind: type, properties: dict[str, Any]) -> None:
    """Add the descriptions of inherited fields; pydantic reads those of a class's own."""
    for above in filter(is_dataclass, kind.__mro__[1:]):
        for name, field in adapter(above).json_schema()["properties"].items():
            if "description" in field:
                properties[name].setdefault("description", field["description"])
