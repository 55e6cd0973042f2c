"""The rooms of src/mrsr and their laws: `pytest tests/test_rooms.py`, and `-m slow` for the linter.

pyproject.toml holds the contracts and `make lint` checks them; here, that a violation is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from project import ROOT

LINES, IMPORTS = 350, 12
NOT = "is not allowed to import"
# a file that a contract forbids, its one line, and what the linter says of it
VIOLATIONS = [
    ("raw/peek.py", "from mrsr.slices import store", f"mrsr.raw {NOT} mrsr.slices"),
    ("slices/peek.py", "from mrsr.training import session", f"mrsr.slices {NOT} mrsr.training"),
    ("slices/look.py", "import mrsr.models", f"mrsr.slices {NOT} mrsr.models"),
    ("training/peek.py", "from mrsr.metrics import record", f"mrsr.training {NOT} mrsr.metrics"),
    ("metrics/peek.py", "from mrsr.tables import notes", f"mrsr.metrics {NOT} mrsr.tables"),
    ("scan/peek.py", "from mrsr.ops import cluster", f"mrsr.scan {NOT} mrsr.ops"),
    ("models/peek.py", "from mrsr import files", f"mrsr.models.peek {NOT} mrsr.files"),
    ("ops/peek.py", "from mrsr.datasets import ixi", "mrsr.ops.peek -> mrsr.datasets.ixi"),
    ("raw/one.py", "import mrsr.raw.two", "No cycles are allowed in mrsr.raw."),
    ("raw/two.py", "import mrsr.raw.one", "No cycles are allowed in mrsr.raw."),
    ("nowhere.py", "import json", "not listed as layers: - mrsr.nowhere"),
]


def _lint(root: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on the code of a copy."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_no_file_is_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "src").rglob("*.py")
    }
    assert len(lengths) > 100
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


def test_only_the_command_line_imports_many_modules() -> None:
    graph = grimp.build_graph("mrsr", cache_dir=None)
    counts = {name: len(graph.find_modules_directly_imported_by(name)) for name in graph.modules}
    many = {name: count for name, count in counts.items() if count > IMPORTS}
    assert {name for name in many if not name.startswith("mrsr.commands")} == {"mrsr.cli"}, many


@pytest.mark.slow
def test_each_violation_fails_lint(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    clean = _lint(tmp_path)
    assert (clean.returncode, "0 broken" in clean.stdout) == (0, True), clean.stdout
    for name, line, _ in VIOLATIONS:
        (tmp_path / "src" / "mrsr" / name).write_text(f"{line}\n", encoding="utf-8")
    found = _lint(tmp_path)
    assert found.returncode == 1
    said = " ".join(found.stdout.split())
    assert [what for _, _, what in VIOLATIONS if what not in said] == [], found.stdout
