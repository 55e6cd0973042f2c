"""A network of one's own outside the package, named by MRSR_PLUGINS, through the whole chain.

Run: pytest -m slow tests/workflow/test_plugins.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from builders import TOY_NETWORK, TOY_SOURCE
from project import copy_project, edit_experiment, edit_params, run, snakemake

GUIDED = '''"""A toy that sees a second contrast: one convolution over both."""

import torch
from torch import nn

from mrsr.resampling import upsample

GUIDED = True
SCALES = (2,)


class Toy(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.layer = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, lr, guide):
        fine = upsample(lr, self.scale)
        sr = fine + self.layer(torch.cat([fine, guide], 1))
        return (sr, {"guide": guide}) if self.training else sr


def build(scale):
    return Toy(scale)
'''

TINY = {
    "steps": 2, "batch": 2, "micro_batch": 0, "patch": 24, "validate_every": 2,
    "validation_slices": 2,
}  # fmt: skip
ENTRIES = {
    "data": {
        "sources": {"plugged": {"subjects": 3}},
        "datasets": {
            "plugged_t1": {
                "source": "plugged", "contrast": "T1", "organ": "toy", "split": {"kind": "source"}
            },
            "plugged_t2": {
                "source": "plugged", "contrast": "T2", "organ": "toy", "split": {"kind": "source"},
                "guide": "plugged_t1",
            },
        },
    },
    "methods": {
        "plugged": {"losses": {"l1": 1}, "options": {"width": 5}, "label": "Plugged in"},
        "plugged_guided": {"type": "guided", "losses": {"l1": 1, "guide": 1}},
        "plugged_self": {
            "model": "plugged", "type": "self", "losses": {"l1": 1}, "train": {"patch": 8}
        },
    },
}  # fmt: skip
PLUGS = {
    "description": "what lies outside the package",
    "grid": [
        {
            "datasets": ["plugged_t1", "plugged_t2"], "scales": [2],
            "methods": ["plugged", "plugged_guided", "plugged_self"],
        }
    ],
    "tables": {"table1": ["plugged_t1"], "table2": ["plugged_t2"]},
    "set": {"sr": TINY, "tracking": {"enabled": False}},
}  # fmt: skip
# the package has a model of this name: its own file must win
USURPER = '"""Not the network of the package."""\n\nGUIDED = True\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy of the project with its own params.yaml and experiment; and MRSR_PLUGINS."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    edit_params(folder, ENTRIES)
    edit_experiment(folder, "plugs", PLUGS)
    outside = tmp_path_factory.mktemp("outside")
    for kind in ("models", "datasets"):
        (outside / kind).mkdir()
    (outside / "models" / "plugged.py").write_text(TOY_NETWORK)
    (outside / "models" / "plugged_guided.py").write_text(GUIDED)
    (outside / "models" / "srcnn.py").write_text(USURPER)
    (outside / "datasets" / "plugged.py").write_text(TOY_SOURCE)
    return folder, str(outside)


@pytest.mark.slow
@pytest.mark.long
def test_what_lies_outside_is_trained_measured_and_tabulated(
    project: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outside = project
    monkeypatch.setenv("MRSR_PLUGINS", outside)
    snakemake(folder, "all", "--config", "experiment=plugs")
    table = pd.read_csv(folder / "results/plugs/tables/results.csv")
    rows = set(zip(table["dataset"], table["method"], strict=True))
    assert rows == {
        ("plugged_t1", "plugged"), ("plugged_t1", "plugged_self"), ("plugged_t2", "plugged"),
        ("plugged_t2", "plugged_guided"), ("plugged_t2", "plugged_self"),
    }  # fmt: skip
    assert table["psnr"].gt(0).all()
    assert "Plugged in" in (folder / "results/plugs/tables/table1.md").read_text()
    # nothing is left to do
    again = snakemake(folder, "all", "--dry-run", "--config", "experiment=plugs")
    assert "Nothing to be done" in again


@pytest.mark.slow
def test_the_packages_own_names_win(project: tuple[Path, str]) -> None:
    folder, outside = project
    code = "from mrsr import models; print(models.build('srcnn', 2, {'features': [4, 2]}))"
    assert "Conv2d" in run(folder, "python", "-c", code, MRSR_PLUGINS=outside).stdout
    shown = run(folder, "mrsr", "params", "--experiment", "smoke", MRSR_PLUGINS=outside)
    assert "srcnn" in shown.stdout


@pytest.mark.slow
def test_an_absent_folder_is_one_line(project: tuple[Path, str], tmp_path: Path) -> None:
    folder, outside = project
    (tmp_path / "empty").mkdir()
    for value, told in (
        (f"{outside}:{tmp_path / 'none'}", f"MRSR_PLUGINS: no folder {tmp_path / 'none'}"),
        (f"{outside}/models", "has neither models/ nor datasets/"),
        (str(tmp_path / "empty"), "has neither models/ nor datasets/"),
    ):
        for command in (
            ("mrsr", "params", "--experiment", "smoke"),
            ("mrsr", "raw", "plugged", "--settings", '{"subjects": 3}', "--out", "x/manifest.csv"),
        ):
            done = run(folder, *command, check=False, MRSR_PLUGINS=value)
            assert done.returncode == 2
            assert re.fullmatch(r"mrsr: error: MRSR_PLUGINS: [^\n]*\n", done.stdout), done.stdout
            assert told in done.stdout
    # without the variable the names do not exist, which is said too
    done = run(folder, "mrsr", "params", "--experiment", "plugs", check=False)
    assert done.returncode == 2 and "data.sources.plugged" in done.stdout
