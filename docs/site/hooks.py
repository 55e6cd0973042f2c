"""What mkdocs does for the site beside rendering docs/*.md (mkdocs.yml names this file).

- README, CHANGELOG and other files of the repository become pages.
- The reference is made from the code: docstrings, the schema of the settings, the command line.
- Links to files of src/mrsr lead to the code in the reference; equations become images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import code_pages
import commands_page
import equations
import links
import params_page

ROOT = Path(__file__).resolve().parents[2]
NAVIGATION: list[dict[str, list[str]]] = [
    {"Start": ["index.md", "tutorial.md", "how-do-i.md", "data.md"]},
    {"How to": ["howto/*.md", "cluster.md"]},
    {"Concepts": ["concepts.md", "replication.md", "methods.md", "design.md", "reliability.md"]},
    {"Results": ["results.md", "performance.md"]},
    {"Reference": ["reference/*.md"]},
    {"Code": ["reference/code/*.md"]},
    {"Project": ["where-things-are.md", "project/*.md"]},
]


def on_config(config: Any) -> Any:
    """Set the navigation: the pages of `NAVIGATION`, and pages that it does not know at the end."""
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in _markdown()} | set(made())
    listed: set[str] = set()
    config["nav"] = []
    for section in NAVIGATION:
        ((title, patterns),) = section.items()
        found = [page for each in patterns for page in _matching(each, pages - listed)]
        listed.update(found)
        config["nav"].append({title: found})
    if others := sorted(pages - listed):
        config["nav"].append({"More": others})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made at build time."""
    for name, text in made().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links from the repository's paths to the site's pages, and draw equations."""
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return equations.drawn(links.rewritten(markdown, source, page.file.src_uri, SOURCES))


# pages of the site that are files elsewhere in the repository
SOURCES = {
    "index.md": "README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/networks-of-the-package.md": "src/mrsr/weights/README.md",
    "project/configuration.md": "config/README.md",
    "project/results-folder.md": "results/README.md",
}


def made() -> dict[str, str]:
    """Name -> Markdown of every page that is not a file of docs/; made once per build."""
    if not _MADE:
        for name, source in SOURCES.items():
            _MADE[name] = (ROOT / source).read_text(encoding="utf-8")
        _MADE["reference/command-line.md"] = commands_page.text()
        _MADE["reference/settings.md"] = params_page.text()
        _MADE.update(code_pages.pages(ROOT / "src"))
    return _MADE


_MADE: dict[str, str] = {}


def _markdown() -> list[Path]:
    docs = ROOT / "docs"
    return [path for path in docs.rglob("*.md") if "paper" not in path.relative_to(docs).parts]


def _matching(pattern: str, pages: set[str]) -> list[str]:
    parent, _, name = pattern.rpartition("/")
    if name != "*.md":
        return [pattern] if pattern in pages else []
    return sorted(page for page in pages if page.rpartition("/")[0] == parent)
