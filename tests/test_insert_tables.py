"""docs/insert_tables.py: tables in docs come from results: `pytest tests/test_insert_tables.py`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("insert_tables", ROOT / "docs" / "insert_tables.py")
assert SPEC and SPEC.loader
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)

TABLE = """**A title.**

| Method   |   Own 2x |
|:---------|---------:|
| Bicubic  | {} |
| SRResNet | **36.16**/0.9781 |

A caption.
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "results.md"
    path.write_text(f"before\n\n{tables.start('toy')}\nold\n{tables.END}\n\nafter\n")
    folder = tmp_path / "results" / "toy"
    (folder / "metrics").mkdir(parents=True)
    (folder / "tables").mkdir()
    (folder / "tables" / "table1.md").write_text(TABLE.format("33.13/0.9600"))
    (folder / "tables" / "table2.md").write_text("**No dataset of table2.**\n")
    commit(tmp_path, "srresnet", "1" * 40)
    return path


def commit(tmp_path: Path, method: str, sha: str) -> None:
    file = tmp_path / "results" / "toy" / "metrics" / f"{method}.json"
    file.write_text(json.dumps({"commit": sha}))


def run(page: Path, *more: str) -> int:
    given = ["toy", "--results", str(page.parent / "results"), "--page", str(page), *more]
    return int(tables.main(given))


def test_the_block_is_the_tables_and_the_rest_of_the_page_stays(page: Path) -> None:
    assert run(page) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\n\nafter\n")
    assert "commit 1111111." in text and "| Bicubic  | 33.13/0.9600 |" in text
    assert "old" not in text and "table2" not in text
    assert run(page, "--check") == 0
    assert run(page) == 0 and page.read_text() == text


def test_a_number_that_moved_is_named(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(page)
    made = page.parent / "results" / "toy" / "tables" / "table1.md"
    made.write_text(TABLE.format("33.14/0.9600"))
    capsys.readouterr()
    assert run(page, "--check") == 1
    said = capsys.readouterr().out
    assert "Bicubic: documented 33.13/0.9600, made 33.14/0.9600" in said
    assert "1 lines differ" in said and "SRResNet" not in said


def test_a_line_that_is_missing_is_named(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(page)
    made = page.parent / "results" / "toy" / "tables" / "table1.md"
    made.write_text(TABLE.format("33.13/0.9600").replace("| Bicubic  | 33.13/0.9600 |\n", ""))
    assert run(page, "--check") == 1
    assert "Bicubic: documented 33.13/0.9600, made nothing" in capsys.readouterr().out


@pytest.mark.parametrize("sha", ["2" * 40, "1" * 40 + "+dirty", ""])
def test_stitched_or_uncommitted_results_are_refused(
    page: Path, sha: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(page.parent, "proposed", sha)
    with pytest.raises(SystemExit) as stopped:
        run(page)
    assert stopped.value.code == 2
    assert "must be of one committed version" in capsys.readouterr().err


def test_a_page_without_the_block_says_what_to_add(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_text("nothing")
    with pytest.raises(SystemExit):
        run(page)
    assert "add these two lines" in capsys.readouterr().err
