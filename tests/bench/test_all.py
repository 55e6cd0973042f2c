"""Every benchmark still works: for seconds, because times mean nothing here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from project import ROOT

NAMES = [
    file.stem for file in sorted((ROOT / "bench").glob("*.py")) if "\ndef rows(" in file.read_text()
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "bench/all.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# these take seconds, the others up to minutes on a busy machine; floor is in test_floor.py
QUICK = ("degradation", "training")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if name in QUICK else pytest.mark.long)
    for name in NAMES if name != "floor"
])  # fmt: skip
def test_a_benchmark_gives_ratios(name: str, tmp_path: Path) -> None:
    done = run("--small", "--out", str(tmp_path), name)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["small"] and {"processor", "cores", "torch", "commit"} <= set(found["machine"])
    assert found["rows"]
    for row in found["rows"]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"] and math.isfinite(row["high"])
        assert row["seconds"] > 0 and row["rounds"] >= 1 and row["name"] in done.stdout
    assert found["rows"][0]["name"] in (tmp_path / "performance.md").read_text()


def test_an_unknown_benchmark_is_one_line() -> None:
    done = run("absent")
    assert done.returncode == 1 and "absent: no benchmark; there are " in done.stderr
    assert "Traceback" not in done.stderr
