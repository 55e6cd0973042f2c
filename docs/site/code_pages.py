"""A page for each room of src/mrsr, with the docstrings and the code of its public names."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = "reference/code"


def pages(source: Path) -> dict[str, str]:
    """Name of the page -> Markdown with an instruction to mkdocstrings for each module."""
    package = source / "mrsr"
    alone = [path for path in package.glob("*.py") if _public(path)]
    found = {f"{FOLDER}/files.md": _page("Files beside the rooms", alone, source)}
    for room in sorted(path.parent for path in package.glob("*/__init__.py")):
        modules = [path for path in room.rglob("*.py") if _public(path)]
        title = ".".join(room.relative_to(source).parts)
        found[f"{FOLDER}/{room.name}.md"] = _page(title, modules, source)
    return found


def _page(title: str, modules: list[Path], source: Path) -> str:
    parts = [f"# {title}\n"]
    for path in sorted(modules, key=lambda path: (path.name != "__init__.py", path)):
        name = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        parts.append(f"::: {name}\n    options: {{show_submodules: false}}\n")
    return "\n".join(parts)


def _public(path: Path) -> bool:
    """Whether a module has a page: not one whose name says that it is private, nor an empty one."""
    if path.name.startswith("_") and path.name != "__init__.py":
        return False
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return path.name != "__init__.py" or len(body) > 1
