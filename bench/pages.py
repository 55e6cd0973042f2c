"""Rows of a long benchmark: kept in a file as they are measured, then put into a page of docs/."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

END = "<!-- end -->"


def add(row: dict[str, Any], rows: Path) -> None:
    """Print the row, and append it to the file of rows."""
    print(json.dumps(row), flush=True)
    with rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def command_line(
    about: str,
    begin: str,
    run: Callable[[argparse.Namespace], None],
    arguments: Callable[[argparse.ArgumentParser], object],
    lines: Callable[[list[dict[str, Any]]], Sequence[str]],
) -> None:
    """`run ... --rows FILE` measures; `table FILE PAGE` writes.

    Args:
        about: the command's help. begin: the mark in the page before the table; `END` is after it.
        run: measures and calls `add`. arguments: adds those of `run`, but `--rows`.
        lines: the Markdown table of the rows.
    """
    parser = argparse.ArgumentParser(description=about)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    arguments(one)
    one.add_argument("--rows", type=Path, required=True)
    one.set_defaults(run=run)
    page = commands.add_parser("table")
    page.add_argument("rows", type=Path)
    page.add_argument("page", type=Path)
    page.set_defaults(run=lambda given: _write(given.rows, given.page, begin, lines))
    given = parser.parse_args()
    given.run(given)


def _write(
    rows: Path, page: Path, begin: str, lines: Callable[[list[dict[str, Any]]], Sequence[str]]
) -> None:
    found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    head, rest = page.read_text(encoding="utf-8").split(begin)
    _, tail = rest.split(END)
    text = "\n".join(lines(found))
    page.write_text(f"{head}{begin}\n\n{text}\n\n{END}{tail}", encoding="utf-8")
