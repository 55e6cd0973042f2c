"""Put an experiment's tables into docs/results.md, or compare them with what is there.

    python docs/insert_tables.py demo            # writes the block of `demo`
    python docs/insert_tables.py demo --check    # 1 if a number differs

The block lies between `<!-- tables: demo -->` and `<!-- end of tables -->`; nothing in it is typed.
It says which commit made it, and is refused if the metrics are of several commits or of changed
code: such a table cannot be made again.

`make results-check EXPERIMENT=demo` runs the whole experiment in a clone and then checks.
"""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from mrsr.errors import UserError, guarded
from mrsr.files import write_text

END = "<!-- end of tables -->"
TABLES = ("table1", "table2", "frozen")


def start(experiment: str) -> str:
    """The line before an experiment's block."""
    return f"<!-- tables: {experiment} -->"


def origin(results: Path) -> str:
    """'2026-11-27, commit 1234567': when and by which code all metrics of a folder were made.

    Raises:
        UserError: there are none, they are of several commits, or of code that was not committed.
    """
    files = sorted((results / "metrics").rglob("*.json"))
    commits = {json.loads(file.read_text(encoding="utf-8"))["commit"] for file in files}
    if not files:
        raise UserError(f"no metrics in {results}; run the experiment first")
    if len(commits) > 1 or not all(commits) or any("+dirty" in commit for commit in commits):
        found = ", ".join(sorted(commit[:7] + commit[40:] or "unknown" for commit in commits))
        raise UserError(
            f"{results}: the metrics must be of one committed version, found: {found}; "
            "run the experiment in a fresh clone (make results-check)"
        )
    day = datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)
    return f"{day:%Y-%m-%d}, commit {commits.pop()[:7]}"


def block(results: Path) -> str:
    """An experiment's tables as Markdown, and where they come from.

    Raises:
        UserError: as `origin`.
    """
    parts = [f"{origin(results)}."]
    for name in TABLES:
        path = results / "tables" / f"{name}.md"
        text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if "|" in text:
            parts.append(text)
    return "\n\n".join(parts)


def cells(text: str) -> dict[str, list[str]]:
    """The lines of all Markdown tables of a text: first cell -> the others, without marks."""
    found: dict[str, list[str]] = {}
    number = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            continue
        if re.fullmatch(r"[|:\- ]+", line):
            number += 1
            continue
        first, *rest = (cell.strip().replace("*", "") for cell in line.strip("|").split("|"))
        # a network's quantities share their first cell: the second belongs to the name
        name = f"{number} {first}"
        found[f"{name} {rest[0]}" if name in found else name] = rest
    return found


def differences(documented: str, made: str) -> list[str]:
    """One line for each table line that one side lacks or whose cells differ."""
    old, new = cells(documented), cells(made)
    return [
        f"{name.split(' ', 1)[1]}: documented {' | '.join(old.get(name, ['nothing']))}, "
        f"made {' | '.join(new.get(name, ['nothing']))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def split(page: str, experiment: str, name: str) -> tuple[str, str, str]:
    """What comes before an experiment's block, the block, and what comes after.

    Raises:
        UserError: the page has no such block.
    """
    before, mark, rest = page.partition(start(experiment))
    inside, end, after = rest.partition(END)
    if not mark or not end:
        raise UserError(f"{name} has no block '{start(experiment)} ... {END}'; add these two lines")
    return before + mark, inside.strip(), end + after


@guarded
def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--page", type=Path, default=Path(__file__).parent / "results.md")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    given = parser.parse_args(arguments)
    page = given.page.read_text(encoding="utf-8")
    before, documented, after = split(page, given.experiment, given.page.name)
    made = block(given.results / given.experiment)
    if not given.check:
        write_text(given.page, f"{before}\n\n{made}\n\n{after}")
        print(f"{given.page}: the tables of {given.experiment} are of {made.splitlines()[0]}")
        return 0
    found = differences(documented, made)
    for line in found:
        print(line)
    print(f"{given.experiment}: {f'{len(found)} lines differ' if found else 'no number differs'}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
