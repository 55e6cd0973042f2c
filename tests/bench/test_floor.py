"""What bench/floor.py counts, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mrsr.models import build
from mrsr.ops.plan import networks
from mrsr.params import declared
from project import ROOT


@pytest.mark.slow
def test_small(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench/all.py"), "--small", "--out", str(tmp_path)]
    done = subprocess.run([*command, "floor"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "floor.json").read_text())["rows"]
    assert [row["name"].partition(",")[0] for row in rows] == ["srcnn", "srresnet"]
    # three passes of two images; 1.4 M parameters do about 350 thousand multiply-adds a pixel
    network = networks.named("srresnet", {}, 2, (32, 32))
    counted = networks.counts(network).multiply_adds
    assert f"{6 * counted / 1e9:.3g} G multiply-adds" in rows[1]["name"]
    assert all(row["ratio"] > 0 for row in rows)


def test_the_zoo_is_whole() -> None:
    """Every network that is trained for super-resolution is measured, or a variant of one."""
    # a process of its own: torch's benchmark module refuses one that has met distutils already
    tell = "import json, floor; print(json.dumps([list(floor.ZOO), list(floor.SMALL)]))"
    done = subprocess.run(
        [sys.executable, "-c", tell], cwd=ROOT / "bench", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    zoo, small = (set(names) for names in json.loads(done.stdout))

    trained = {name for name in declared.model_names() if declared.model_is_trained(name)}
    # both generators are srresnet's; what fused has inside would count as trained
    assert trained - {"srgan", "fused"} == zoo
    assert small <= zoo
    assert sum(p.numel() for p in build("edsr", 2, {}).parameters()) > 4e7  # published width
