"""Appendix D's table, tiny networks: `pytest tests/tables/test_timings.py`."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mrsr import checkpoint, models
from mrsr.cli import app
from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from mrsr.tables import timings

SIZES = timings.Sizes(volume=(16, 48, 40), image=40, output=48)


@pytest.fixture
def smoke(root: Path) -> Resolved:
    return loading.load(root / "params.yaml", "smoke")


def write_experiment(folder: Path, smoke: Resolved, *names: str) -> Path:
    """Checkpoints and logs as trainings leave them, of networks that never trained."""
    for key, part in timings.parts(smoke, None).items():
        if key not in names:
            continue
        path = folder / "checkpoints" / part.name / "best.pt"
        network = models.build(part.model, 2, part.options)
        checkpoint.save(
            path, model_name=part.model, options=part.options, scale=2,
            weights=network.state_dict(), settings={}, provenance={},
        )  # fmt: skip
        start = {
            "event": "start", "settings": {"steps": 1000, "batch": 4},
            "provenance": {"device": "cpu", "threads": 1, "processes": 2},
        }  # fmt: skip
        lines = [json.dumps(line) for line in (start, {"event": "end", "seconds": 1800.0})]
        path.with_name("log.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def read(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="") as file:
        return {row["quantity"]: row for row in csv.DictReader(file)}


def test_random_weights(smoke: Resolved, tmp_path: Path) -> None:
    out = tmp_path / "timings.csv"
    timings.run(smoke, None, out, device="cpu", repeat=1, sizes=SIZES)
    rows = read(out)
    assert len(rows) == 12
    for name, row in rows.items():
        assert bool(row["measured"]) != name.startswith("training")
        assert row["threads"] == "1" and row["device"]
    printed = {
        "parameters, UNETR": "92.58", "parameters, fine-tuned": "93.4",
        "inference, segmentation, 16x48x40 volume": "12.08",
        "inference, ViT features, a 40x40 slice": "1.3",
        "inference, disentangled features, a 40x40 slice": "0.05",
        "inference, super-resolution 2x to 48x48": "1.2",
        "training, fine-tuned": "10", "training, auto-encoder": "18", "training, generator": "14",
    }  # fmt: skip
    assert {name: row["paper"] for name, row in rows.items() if row["paper"]} == printed
    generator = timings.parts(smoke, None)["generator"].network(torch.device("cpu"))
    count = sum(weights.numel() for weights in generator.parameters()) / 1e6
    assert float(rows["parameters, generator"]["measured"]) == pytest.approx(count, rel=1e-3)
    text = re.sub(" +", " ", out.with_suffix(".md").read_text())
    assert "| training, auto-encoder | - | 18 h | not trained |" in text
    assert "1 thread," in text and "V100" in text


def test_of_an_experiment(smoke: Resolved, tmp_path: Path) -> None:
    folder = write_experiment(tmp_path / "smoke", smoke, "unetr", "vit", "generator")
    out = tmp_path / "timings.csv"
    timings.run(smoke, folder, out, device="cpu", repeat=1, sizes=SIZES)
    rows = read(out)
    trained = rows["training, generator"]
    assert (trained["measured"], trained["paper"], trained["unit"]) == ("0.5", "14", "h")
    assert trained["of"] == "1,000 steps of 4, cpu, threads 1, processes 2"
    assert float(rows["inference, ViT features, a 40x40 slice"]["measured"]) > 0
    for name in ("parameters, auto-encoder", "training, auto-encoder"):
        assert rows[name]["measured"] == ""
    assert str(tmp_path) not in out.read_text()

    (folder / "checkpoints/phantom_t1/x2/proposed/log.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match=r"log\.jsonl, line 1: not a JSON object"):
        timings.run(smoke, folder, out, device="cpu", repeat=1, sizes=SIZES)


def test_what_cannot_be_timed_is_said(smoke: Resolved, tmp_path: Path, root: Path) -> None:
    with pytest.raises(UserError, match="run `snakemake checkpoints --config experiment=smoke`"):
        timings.parts(smoke, tmp_path)
    with pytest.raises(UserError, match="has no method proposed"):
        timings.parts(loading.load(root / "params.yaml", "openms"), None)
    with pytest.raises(UserError, match="Markdown goes beside it"):
        timings.write([], tmp_path / "t.md", title="", device="", threads=1)


def test_the_command(
    smoke: Resolved, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "Sizes", lambda: SIZES)
    write_experiment(tmp_path / "results" / "smoke", smoke, "generator")
    monkeypatch.chdir(tmp_path)
    arguments = ["timings", "-e", "smoke", "--params", str(root / "params.yaml")]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--repeat", "1"])
    assert done.exit_code == 0, done.output
    assert "| training, generator | 30 min | 14 h |" in re.sub(" +", " ", done.output)
    assert (tmp_path / "results/smoke/timings.csv").is_file()
