"""Mistakes in a network or a method of one's own are one line, before or at its first batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mrsr.models
from builders import command, load, parameters, refused, sr, toy_stores
from mrsr import inference, models
from mrsr.errors import UserError
from mrsr.params import declared
from mrsr.tables import network_sizes
from mrsr.training import train_self, train_sr

NETWORK = """
from torch import nn
from mrsr.resampling import upsample


class Net(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, lr):
        return {output}


build = Net
"""
SIZES = {
    "as_input": "self.layer(lr)",
    "twice_too_large": "self.layer(upsample(lr, 2 * self.scale))",
    "no_padding": "self.layer(upsample(lr, self.scale))[..., 1:-1, 1:-1]",
    "two_channels": "self.layer(upsample(lr, self.scale)).repeat(1, 2, 1, 1)",
    "one_for_all": "self.layer(upsample(lr, self.scale)).mean(0, keepdim=True)",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """A function that writes a network of one's own; it returns its name."""
    folder = tmp_path / "plugin" / "models"
    folder.mkdir(parents=True)
    monkeypatch.setattr(mrsr.models, "__path__", [*mrsr.models.__path__, str(folder)])
    monkeypatch.setattr(declared, "PACKAGE_FOLDERS", (*declared.PACKAGE_FOLDERS, folder.parent))

    def write(name: str, text: str) -> str:
        (folder / f"{name}.py").write_text(text)
        return name

    yield write


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("training", [train_sr, train_self])
def test_line_24_an_output_of_the_wrong_size(
    tmp_path: Path, own: Callable[[str, str], str], case: str, training: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name = own(f"wrong_{case}", NETWORK.replace("{output}", SIZES[case]))
    stores = toy_stores(tmp_path / "stores", (4, 64, 64))
    kind = "self" if training is train_self else "single"
    given = sr(type=kind, model={"name": name, "options": {}}, steps=2)
    out = tmp_path / "run" / "best.pt"
    if training is train_self:
        words = ["--settings", json.dumps(given), "--slices", str(stores / "test.h5")]
        words += ["--out", str(out)]
    else:
        words = command(stores, out.parent, given)
    with pytest.raises(SystemExit) as stop:
        training.main(words)
    line = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert line.startswith(f"mrsr: error: model '{name}' gave (") and "2 * h" in line
    assert not out.exists()
    # a padded image must not hide it
    with pytest.raises(UserError, match="must give"):
        network = models.build(name, 2, {}).eval()
        inference.forward(network, torch.rand(2, 1, 5, 7), 2)


ERRORS = {
    "import_error": ("import no_such_library\n\n\ndef build(scale): ...\n", "No module named"),
    "name_error": ("WIDTH = widht\n\n\ndef build(scale): ...\n", "'widht' is not defined"),
    "layer_error": (NETWORK.replace("{output}", "self.layr(lr)"), "no attribute 'layr'"),
    "shape_error": (
        NETWORK.replace("Conv2d(1, 1", "Conv2d(3, 1").replace("{output}", "self.layer(lr)"),
        "Invalid channel dimensions",
    ),
    "typo_in_forward": (NETWORK.replace("{output}", "upsampel(lr)"), "'upsampel' is not defined"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_line_24_an_error_in_a_networks_file(own: Callable[[str, str], str], case: str) -> None:
    text, what = ERRORS[case]
    name = own(f"wrong_{case}", text)
    with pytest.raises(UserError) as error:
        network_sizes.count(name, {}, 2)
    line = str(error.value)
    assert f"model '{name}' " in line and f"{name}.py, line " in line and what in line
    assert "\n" not in line


def test_line_24_a_syntax_error_in_a_networks_file(
    tmp_path: Path, own: Callable[[str, str], str]
) -> None:
    name = own("wrong_syntax", "def build(scale)\n    ...\n")
    tables = parameters()
    tables["params"]["methods"]["mine"] = {"model": name, "losses": {"l1": 1}}
    assert "wrong_syntax.py, line 1: expected ':'; correct it" in refused(tmp_path, tables)
    own("wrong_syntax2", "")
    (tmp_path / "plugin/models/wrong_syntax2.py").write_bytes("build = 'ü'".encode("latin-1"))
    tables["params"]["methods"]["mine"]["model"] = "wrong_syntax2"
    assert "wrong_syntax2.py is not UTF-8" in refused(tmp_path, tables)


METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "no losses": ({"model": "srcnn"}, "methods.mine.losses: missing, and model 'srcnn' has to be"),
    "empty losses": ({"model": "srcnn", "losses": {}}, "methods.mine.losses: missing"),
    "weights of 0": (
        {"model": "srcnn", "losses": {"l1": 0, "l2": 0}},
        "methods.mine.losses: all weights are 0, and",
    ),
    "losses of bicubic": (
        {"model": "bicubic", "losses": {"l1": 1}},
        "methods.mine.losses: model 'bicubic' has nothing to train",
    ),
    "the auto-encoder": (
        {"model": "autoencoder", "losses": {"l1": 1}},
        "methods.mine.model: 'autoencoder' is the auto-encoder, not a super-resolution network",
    ),
    "the ViT": (
        {"model": "unetr", "losses": {"l1": 1}},
        "methods.mine.model: 'unetr' is the vision transformer, not a super-resolution network",
    ),
    "a model's typo": (
        {"model": "srcn", "losses": {"l1": 1}},
        "methods.mine.model: missing file src/mrsr/models/srcn.py",
    ),
}


@pytest.mark.parametrize("case", METHODS)
def test_line_24_a_method_that_cannot_be_trained(tmp_path: Path, case: str) -> None:
    entry, what = METHODS[case]
    tables = parameters("smoke")
    tables["params"]["methods"]["mine"] = entry
    assert what in refused(tmp_path, tables, "smoke")


def test_line_24_weights_of_0_beside_others_are_an_ablation(tmp_path: Path) -> None:
    tables = parameters("smoke")
    tables["params"]["methods"]["mine"] = {"model": "srcnn", "losses": {"l1": 1, "l2": 0}}
    assert load(tmp_path, tables, "smoke").full_methods["mine"].losses == {"l1": 1.0}
