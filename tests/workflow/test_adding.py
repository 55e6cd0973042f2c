"""Adding a method, a dataset, an ablation, a loss and a metric is what the documentation says.

Run: pytest -m slow tests/test_adding.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from project import copy_project, edit_params, run, snakemake

pytestmark = pytest.mark.slow

METHOD = '''"""A toy: one convolution on the enlarged image."""

from torch import Tensor, nn

from mrsr.resampling import upsample


class Toy(nn.Module):
    def __init__(self, scale: int, width: int) -> None:
        super().__init__()
        self.scale = scale
        self.layer = nn.Conv2d(1, 1, width, padding=width // 2)

    def forward(self, lr: Tensor) -> Tensor:
        fine = upsample(lr, self.scale)
        return fine + self.layer(fine)


def build(scale: int, width: int = 3) -> nn.Module:
    return Toy(scale, width)
'''

DATASET = '''"""A toy: blobs made on the spot."""

import numpy as np

from mrsr.raw.volume import Volume, VolumeRef

SETTINGS = {"subjects": 3}


def prepare(folder, settings):
    for number in range(settings.subjects):
        values = np.random.default_rng(number).random((4, 48, 40), np.float32)
        np.save(folder / f"toy{number}.npy", values + 1)


def list_volumes(folder, settings, contrast):
    names = ("train", "validation", "test")
    return [
        VolumeRef(path=path, subject=path.stem, contrast=contrast, organ="toy", split=split)
        for path, split in zip(sorted(folder.glob("*.npy")), names, strict=True)
    ]


def read_volume(ref):
    return Volume(
        stored=np.load(ref.path), affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0),
        subject=ref.subject, contrast=ref.contrast, organ=ref.organ,
    )
'''

ENTRIES = {
    "data": {
        "sources": {"toy": {"subjects": 3}},
        "datasets": {
            "toy_t1": {
                "source": "toy", "contrast": "T1", "organ": "toy", "split": {"kind": "source"}
            }
        },
    },
    "methods": {
        "toy": {"losses": {"halves": 1}, "options": {"width": 5}},
        "narrow": {"like": "toy", "kind": "ablation", "options": {"width": 1}},
    },
    "experiments": {
        "toys": {
            "description": "what was added",
            "grid": [{"datasets": ["toy_t1"], "scales": [2, 3], "methods": ["toy", "narrow"]}],
            "tables": {"table1": ["toy_t1"]},
            "set": {
                "sr": {
                    "steps": 2, "batch": 2, "micro_batch": 0, "patch": 24, "validate_every": 2,
                    "validation_slices": 2,
                },
                "tracking": {"enabled": False},
            },
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("added"))
    package = folder / "src" / "mrsr"
    (package / "models" / "toy.py").write_text(METHOD)
    (package / "datasets" / "toy.py").write_text(DATASET)
    edit_params(folder, ENTRIES)
    # a loss: one function, and its entry in the table of the same file
    losses = package / "losses.py"
    text = losses.read_text()
    start = re.search(r"^LOSSES\b[^\n]*= \{", text, re.MULTILINE)
    assert start
    function = "def halves(sr, hr, context=None):\n    return (sr - hr).abs().sqrt().mean()\n\n\n"
    entry = f'{start.group()}\n    "halves": halves,'
    losses.write_text(text[: start.start()] + function + entry + text[start.end() :])
    return folder


def test_the_chain_trains_and_tabulates_them(added: Path) -> None:
    assert "halves" in run(added, "mrsr", "params", "--experiment", "toys").stdout
    snakemake(added, "all", "--config", "experiment=toys")
    table = pd.read_csv(added / "results/toys/tables/results.csv")
    rows = set(zip(table["dataset"], table["scale"], table["method"], strict=True))
    assert rows == {("toy_t1", s, m) for s in (2, 3) for m in ("toy", "narrow")}
    assert table["psnr"].gt(0).all() and table["parameters"].isin([26, 2]).all()


def test_an_option_that_the_new_method_lacks_is_refused(added: Path) -> None:
    refused = run(added, "mrsr", "params", "-e", "nosuch", check=False)
    assert refused.returncode == 2
    text = (added / "params.yaml").read_text()
    (added / "wrong.yaml").write_text(text.replace("width: 5", "wide: 5"))
    refused = run(added, "mrsr", "params", "-e", "toys", "--params", "wrong.yaml", check=False)
    assert refused.returncode == 2
    assert "methods.toy.options.wide" in refused.stdout
