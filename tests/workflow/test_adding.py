"""Adding a dataset, a network, a loss, a number, an ablation and an experiment by hand.

Each touches only the files that its page in docs/howto names, takes no line away, and acts. The
network, the loss and the number are those that the pages show.

Run: pytest -m slow tests/workflow/test_adding.py
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
import yaml

from builders import TOY_SOURCE
from project import ROOT, commit, copy_project, run, snakemake

pytestmark = pytest.mark.slow


def blocks(page: str) -> list[str]:
    """The Python blocks of a page in docs/howto."""
    text = (ROOT / "docs" / "howto" / page).read_text()
    found = re.findall(r"^( *)```python\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(code) for _, code in found]


NETWORK = blocks("add-a-method.md")[0]
LOSS = blocks("add-a-loss.md")[0].split("LOSSES")[0]
FIELD, USE = (textwrap.indent(code, "    ") for code in blocks("add-a-number.md"))

EXPERIMENT = {
    "description": "what was added",
    "about": "not measured",
    "grid": [
        {
            "datasets": ["mysource_t1"],
            "scales": [2],
            "methods": ["mynet", "mynet_loss", "mynet_noise", "mynet_narrow"],
        }
    ],
    "tables": {"table1": ["mysource_t1"]},
    "set": {
        "sr": {
            "steps": 2, "batch": 2, "micro_batch": 0, "patch": 24, "schedule": {"warmup": 0},
            "validate_every": 2, "validation_slices": 2, "log_every": 1, "checkpoint_every": 2,
        },
        "tracking": {"enabled": False},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Addition:
    """What somebody types: new files, and lines to insert before a line of an existing file."""

    page: str
    new: dict[str, str] = field(default_factory=dict)
    inserted: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # (text, before)


def method(entry: str, text: str) -> tuple[str, str]:
    """An entry of `methods:`, before the ablations of the paper's method."""
    return (f"  {entry}: {text}\n", "  no_structure:\n")


ADDITIONS = {
    "dataset": Addition(
        "add-a-dataset.md",
        new={"src/mrsr/datasets/mysource.py": TOY_SOURCE},
        inserted={
            "params.yaml": [
                ("    mysource: {subjects: 3}\n", "    phantom:\n"),
                (
                    "    mysource_t1:\n      {source: mysource, contrast: T1, organ: toy, "
                    "split: {kind: source}}\n",
                    "    phantom_t1: &phantom\n",
                ),
            ]
        },
    ),
    "network": Addition(
        "add-a-method.md",
        new={"src/mrsr/models/mynet.py": NETWORK},
        inserted={
            "params.yaml": [
                method("mynet", "{losses: {l1: 1}, options: {features: 4, skip: bicubic}}")
            ]
        },
    ),
    "ablation": Addition(
        "add-an-ablation.md",
        inserted={
            "params.yaml": [
                method("mynet_narrow", "{like: mynet, kind: ablation, options: {features: 2}}")
            ]
        },
    ),
    "loss": Addition(
        "add-a-loss.md",
        inserted={
            "src/mrsr/method/losses.py": [
                (LOSS, "LOSSES: dict"),
                ('    "charbonnier": charbonnier,\n', '    "l1": l1,\n'),
            ],
            "params.yaml": [
                method("mynet_loss", "{like: mynet, kind: control, losses: {charbonnier: 0.5}}")
            ],
        },
    ),
    "number": Addition(
        "add-a-number.md",
        inserted={
            "src/mrsr/params/schema/trainings.py": [(FIELD, "    validation_slices: Count\n")],
            "src/mrsr/training/train_sr.py": [
                (textwrap.indent(USE, " " * 8), "            rate = optimizers.set_scheduled_rate(")
            ],
            "params.yaml": [
                method("mynet_noise", "{like: mynet, kind: control, train: {noise: 0.5}}")
            ],
        },
    ),
    "experiment": Addition(
        "write-an-experiment.md",
        new={"workflow/experiments/mine.yaml": yaml.safe_dump(EXPERIMENT, sort_keys=False)},
    ),
}


def make(folder: Path, addition: Addition) -> None:
    """Type an addition into a copy of the project."""
    for name, text in addition.new.items():
        assert not (folder / name).exists(), name
        (folder / name).write_text(text)
    for name, changes in addition.inserted.items():
        text = (folder / name).read_text()
        for line, before in changes:
            assert text.count(f"\n{before}") == 1, (name, before)
            text = text.replace(f"\n{before}", f"\n{line}{before}")
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with everything added, a commit each, and the new experiment run."""
    folder = copy_project(tmp_path_factory.mktemp("added"))
    for addition in ADDITIONS.values():
        make(folder, addition)
        commit(folder)
    snakemake(folder, "all", "--config", "experiment=mine")
    return folder


def first_terms(folder: Path, name: str) -> dict[str, float]:
    """The loss terms that a training logs of its first step."""
    log = folder / f"results/mine/checkpoints/mysource_t1/x2/{name}/log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return next(line["metrics"] for line in lines if line.get("split") == "train")


@pytest.mark.parametrize("what", ADDITIONS)
def test_it_touches_only_what_its_page_names(added: Path, what: str) -> None:
    number = len(ADDITIONS) - 1 - list(ADDITIONS).index(what)
    stat = run(added, "git", "show", "--numstat", "--format=", f"HEAD~{number}").stdout
    changed = {name: deleted for _, deleted, name in map(str.split, stat.splitlines())}
    page = (added / "docs" / "howto" / ADDITIONS[what].page).read_text()
    assert set(changed) == {*ADDITIONS[what].new, *ADDITIONS[what].inserted}
    assert set(changed.values()) == {"0"}, "lines were taken away"
    assert [name for name in changed if name not in page] == []


def test_the_dataset_the_network_and_the_ablation_are_in_the_table(added: Path) -> None:
    table = pd.read_csv(added / "results/mine/tables/results.csv")
    cells = set(zip(table["dataset"], table["scale"], table["method"], strict=True))
    assert cells == {("mysource_t1", 2, name) for name in EXPERIMENT["grid"][0]["methods"]}
    parameters = dict(zip(table["method"], table["parameters"], strict=True))
    assert parameters["mynet"] > parameters["mynet_narrow"] > 0
    assert table["psnr"].between(1, 100).all()


def test_the_loss_acts_from_the_first_step(added: Path) -> None:
    """Same seed, same batch: its first value is just above the L1 of the training without it."""
    without, terms = first_terms(added, "mynet"), first_terms(added, "mynet_loss")
    assert "charbonnier" not in without and terms["l1"] == without["l1"]
    assert without["l1"] < terms["charbonnier"] < without["l1"] + 1e-3
    assert terms["total"] == pytest.approx(terms["l1"] + 0.5 * terms["charbonnier"])
    assert math.isclose(without["total"], without["l1"], rel_tol=1e-6)


def test_the_number_acts_and_is_recorded(added: Path) -> None:
    """Noise of half the intensity range must raise the first loss; without it nothing changes."""
    assert first_terms(added, "mynet_noise")["l1"] > 1.05 * first_terms(added, "mynet")["l1"]
    folder = added / "results/mine/settings/checkpoints/mysource_t1/x2"
    noise = {
        name: json.loads((folder / f"{name}.json").read_text())["noise"]
        for name in ("mynet", "mynet_noise")
    }
    assert noise == {"mynet": 0.0, "mynet_noise": 0.5}


def test_the_experiment_is_listed(added: Path) -> None:
    found = json.loads(run(added, "mrsr", "experiments", "--json").stdout)
    (mine,) = [entry for entry in found if entry["name"] == "mine"]
    assert mine["sources"] == ["mysource"] and mine["runs"] == {"mysource_t1": {"2x": 4}}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("features: 4,", "maps: 4,", "methods.mynet.options.maps"),
        ("{charbonnier: 0.5}", "{charbonier: 0.5}", "methods.mynet_loss.losses.charbonier"),
        ("train: {noise: 0.5}", "train: {noise: -1}", "methods.mynet_noise.train.noise"),
        ("mysource: {subjects: 3}", "mysource: {people: 3}", "data.sources.mysource.people"),
    ],
)
def test_a_slip_in_what_was_added_is_one_line(
    added: Path, right: str, wrong: str, message: str
) -> None:
    text = (added / "params.yaml").read_text()
    assert text.count(right) == 1
    (added / "wrong.yaml").write_text(text.replace(right, wrong))
    refused = run(added, "mrsr", "params", "-e", "mine", "--params", "wrong.yaml", check=False)
    assert refused.returncode == 2
    assert message in refused.stdout and len(refused.stdout.splitlines()) == 1
