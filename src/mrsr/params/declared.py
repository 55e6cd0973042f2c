"""Which settings, options and losses the package's files accept, without importing them.

Sources, models and losses define these in their own files. Here the files are parsed as text, so
that a wrong key in params.yaml is refused within milliseconds, even without torch.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrsr.plugins import PACKAGE_FOLDERS

NAMED = (ast.FunctionDef, ast.ClassDef)
# the networks in models/ that are not for super-resolution, and what they are
OTHER_NETWORKS = {"autoencoder": "auto-encoder", "unetr": "vision transformer"}


def at(path: str, problem: str, known: Any = None) -> ValueError:
    """The error for a dotted path of params.yaml, with the valid names."""
    hint = f"; known: {', '.join(sorted(known))}" if known else ""
    return ValueError(f"{path}: {problem}{hint}")


def package_file(folder: str, name: str) -> Path | None:
    """The file of a model, source or loss table, in the package or a plug-in; None without one."""
    for root in PACKAGE_FOLDERS:
        path = root / folder / f"{name}.py"
        if path.is_file():
            return path
    return None


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file.

    Raises:
        ValueError: it is not UTF-8, or has a syntax error; with the line.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; save it as UTF-8 in your editor") from None
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; correct it") from None


def _literal(path: Path, name: str) -> Any:
    """The value of a module-level literal, without running the module."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if [target.id for target in targets if isinstance(target, ast.Name)] == [name]:
            return node.value
    return None


def source_settings(name: str) -> dict[str, Any]:
    """The settings a source knows, with their defaults: `SETTINGS` of datasets/<name>.py."""
    path = package_file("datasets", name)
    if path is None:
        raise at(f"data.sources.{name}", f"missing file src/mrsr/datasets/{name}.py")
    node = _literal(path, "SETTINGS")
    return ast.literal_eval(node) if node is not None else {}


def labelled_organs(name: str) -> tuple[str, ...] | None:
    """The organs whose volumes a source has labels for, `LABELLED` of datasets/<name>.py.

    Empty without one; None (`LABELLED = None` in the file): that depends on the files.
    """
    path = package_file("datasets", name)
    node = _literal(path, "LABELLED") if path else None
    value = ast.literal_eval(node) if node is not None else ()
    return None if value is None else tuple(value)


def source_module(key: str, given: dict[str, Any]) -> str:
    """The file in datasets/ of a source: its key, unless it is `like` another.

    Raises:
        ValueError: there is no such file.
    """
    name = given.get("like", key)
    if not isinstance(name, str) or package_file("datasets", name) is None:
        known = [file.stem for root in PACKAGE_FOLDERS for file in root.glob("datasets/[a-z]*.py")]
        raise at(f"data.sources.{key}.like", f"no source '{name}'", known)
    return name


def source_files(name: str) -> dict[str, list[str]]:
    """The settings of a source that name files or folders, and which files count in a folder:
    `FILES` of datasets/<name>.py, such as {"path": [".nii"]}; an empty list stands for all."""
    path = package_file("datasets", name)
    node = _literal(path, "FILES") if path else None
    return {key: list(suffixes) for key, suffixes in ast.literal_eval(node).items()} if node else {}


def outside(folder: str, name: str) -> list[Path]:
    """The plug-in file models/<name>.py or datasets/<name>.py with its helpers (`_*.py` beside it);
    empty if it is the package's own."""
    path = package_file(folder, name)
    if path is None or path.is_relative_to(PACKAGE_FOLDERS[0]):
        return []
    return [path, *sorted(path.parent.glob("_*.py"))]


def model_options(name: str) -> list[str] | None:
    """The options of models/<name>.py: parameters of its `build` after scale; or None."""
    path = package_file("models", name)
    if path is None:
        return None
    build = _build(path)
    if build is None:
        return None
    names = [a.arg for a in (*build.args.posonlyargs, *build.args.args) if a.arg != "self"]
    return [*names[1:], *(a.arg for a in build.args.kwonlyargs)]


def _build(path: Path) -> ast.FunctionDef | None:
    """The function `build` of a module, or the `__init__` of the class that it names."""
    body = {node.name: node for node in tree(path).body if isinstance(node, NAMED)}
    alias = _literal(path, "build")
    found = body.get(alias.id if isinstance(alias, ast.Name) else "build")
    if isinstance(found, ast.ClassDef):
        inner = (node for node in found.body if isinstance(node, ast.FunctionDef))
        return next((node for node in inner if node.name == "__init__"), None)
    return found


def model_scales(name: str) -> tuple[int, ...]:
    """The scales that models/<name>.py is designed for: its `SCALES`; without it, all."""
    path = package_file("models", name)
    node = _literal(path, "SCALES") if path else None
    return tuple(ast.literal_eval(node)) if node is not None else (2, 3, 4, 8)


def model_is_guided(name: str) -> bool:
    """Whether models/<name>.py takes a second contrast: its `GUIDED`."""
    path = package_file("models", name)
    node = _literal(path, "GUIDED") if path else None
    return bool(ast.literal_eval(node)) if node is not None else False


def model_is_trained(name: str) -> bool:
    """Whether models/<name>.py has weights to train: its `TRAINED`; without it, yes."""
    path = package_file("models", name)
    node = _literal(path, "TRAINED") if path else None
    return bool(ast.literal_eval(node)) if node is not None else True


def model_frozen(name: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The networks inside models/<name>.py whose weights come from their own trainings.

    They are its `FROZEN`, unless the option `networks` is something else than `trained`.
    """
    path = package_file("models", name)
    node = _literal(path, "FROZEN") if path else None
    if node is None or options.get("networks", "trained") != "trained":
        return ()
    return tuple(ast.literal_eval(node))


def model_names() -> list[str]:
    """The files in models/ that build a network."""
    files = (file for root in PACKAGE_FOLDERS for file in (root / "models").glob("[a-z]*.py"))
    return sorted(
        file.stem for file in files if file.stem not in OTHER_NETWORKS and _build(file) is not None
    )


def loss_names() -> list[str]:
    """The keys of `LOSSES` in method/losses.py."""
    path = package_file("method", "losses")
    node = _literal(path, "LOSSES") if path else None
    if not isinstance(node, ast.Dict):
        return []
    return [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]


def learned_losses() -> tuple[str, ...]:
    """The losses that use another network: `LEARNED` of method/losses.py."""
    path = package_file("method", "losses")
    node = _literal(path, "LEARNED") if path else None
    return tuple(ast.literal_eval(node)) if node is not None else ()


def check_source(name: str, given: dict[str, Any]) -> None:
    """Check that every setting of a source is known and of the right type; else a ValueError."""
    known = source_settings(source_module(name, given) if "like" in given else name)
    own = {key: value for key, value in given.items() if key != "like"}
    _check_like(f"data.sources.{name}", own, known)


def _check_like(where: str, given: dict[str, Any], default: dict[str, Any]) -> None:
    """Check that every key of `given` is in `default` and has a value of the same type."""
    for key, value in given.items():
        if key not in default:
            raise at(f"{where}.{key}", "unknown key", default)
        expected = default[key]
        if isinstance(expected, dict):
            if not isinstance(value, dict):
                raise at(f"{where}.{key}", "must be a table")
            _check_like(f"{where}.{key}", value, expected)
        elif isinstance(expected, bool) or isinstance(value, bool):
            if not (isinstance(expected, bool) and isinstance(value, bool)):
                raise at(f"{where}.{key}", f"must be of type {type(expected).__name__}")
        elif isinstance(expected, (int, float)):
            numeric = (int,) if isinstance(expected, int) else (int, float)
            if not isinstance(value, numeric) or value < 0:
                raise at(f"{where}.{key}", f"must be a {type(expected).__name__} >= 0")
        elif not isinstance(value, type(expected)):
            raise at(f"{where}.{key}", f"must be of type {type(expected).__name__}")
