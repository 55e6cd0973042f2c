"""A digest of a network's code, so that results are made anew when it changes.

It covers the network's file and the files of models/ that this one imports. Comments, docstrings
and layout do not count, nor does the version of Python: the syntax tree is what is hashed. Code
elsewhere (losses, degradation, trainings, metrics) does not count: docs/reliability.md says what to
do after a change there.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrsr.params.declared import package_file, tree
from mrsr.params.typed import digest

_PACKAGE = "mrsr.models"


@functools.cache
def model_code(name: str) -> str:
    """Twelve hexadecimal digits that change with the code of models/<name>.py; '' without one."""
    files: dict[str, Path] = {}
    _collect(name, files)
    return digest({key: _plain(tree(path)) for key, path in files.items()}) if files else ""


def _collect(name: str, files: dict[str, Path]) -> None:
    """Add a file of models/ and those that it imports, by name."""
    path = package_file("models", name)
    if path is None or name in files:
        return
    files[name] = path
    for imported in _imports(tree(path)):
        _collect(imported, files)


def _imports(module: ast.Module) -> Iterator[str]:
    """Names of modules in models/ that a module imports, functions' own imports included."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (_inside(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = _PACKAGE if node.level == 1 else ""  # `from .layers import ...`
            origin = ".".join(filter(None, (start, node.module)))
            yield _inside(origin)
            yield from (_inside(f"{origin}.{alias.name}") for alias in node.names)


def _inside(module: str) -> str:
    """`layers` of `mrsr.models.layers`; empty for a module elsewhere."""
    return module.removeprefix(f"{_PACKAGE}.") if module.startswith(f"{_PACKAGE}.") else ""


def _plain(value: Any) -> Any:
    """A syntax tree as lists, without docstrings, and without fields that only some Pythons have.

    A field that is empty is left out: `ast.dump` of different versions shows or hides those.
    """
    if isinstance(value, ast.AST):
        fields = {key: item for key, item in ast.iter_fields(value) if key != "type_comment"}
        if isinstance(value, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            fields["body"] = [node for node in value.body if not _is_text(node)]
        kept = {key: _plain(item) for key, item in fields.items() if item not in (None, [])}
        return [type(value).__name__, kept]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return repr(value)


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is nothing but a string: a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
