"""params.yaml: every experiment resolves; every mistake is told by its dotted path.

Run: pytest tests/params/test_loading.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrsr.errors import UserError
from mrsr.params import loading
from project import ROOT

PARAMS = ROOT / "params.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.load(PARAMS.read_text(), Loader=loading._UniqueKeys)


def load(
    tmp_path: Path, document: dict[str, Any], experiment: str | None = None
) -> loading.InForce:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return loading.load(file, experiment)


def refused(tmp_path: Path, document: dict[str, Any], experiment: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, document, experiment)
    message = str(caught.value)
    assert "\n" not in message
    return message


EXPERIMENTS = list(yaml.load(PARAMS.read_text(), Loader=loading._UniqueKeys)["experiments"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves(name: str) -> None:
    in_force = loading.load(PARAMS, name)
    assert in_force.name == name
    assert in_force.cells
    for cell in in_force.cells:
        settings = in_force.train_settings(cell.dataset, cell.scale, cell.method)
        json.dumps(settings, allow_nan=False)
        assert settings["experiment"] == name
        json.dumps(in_force.evaluate_settings(cell.dataset, cell.scale, cell.method))
    for dataset in in_force.datasets:
        json.dumps(in_force.slice_settings(dataset))
    json.dumps(in_force.table_settings())


def test_choices_differ_from_their_rows_by_one_thing() -> None:
    choices = loading.load(PARAMS, "openms_choices")
    ablation = loading.load(PARAMS, "openms_ablation")
    assert choices.params.vit == ablation.params.vit
    assert choices.params.autoencoder == ablation.params.autoencoder
    rows = {key: row.model_dump() for key, row in choices.rows.items()}
    grid = {
        (rows[key]["options"]["norm"], rows[key]["options"]["skip"])
        for key in ("srresnet", "srresnet_printed", "srresnet_norm", "srresnet_no_skip")
    }
    assert len(grid) == 4
    for key, row in rows.items():
        like = choices.params.methods[key].like
        if like is None or key == "srresnet_printed":
            continue
        names = ("options", "losses", "training")
        changed = [name for name in names if row[name] != rows[like][name]]
        assert len(changed) == 1, key
    for key, factor in (("proposed_x10", 10), ("proposed_x100", 100)):
        for name, weight in rows["proposed"]["losses"].items():
            times = factor if name in ("vit", "structure", "texture") else 1
            assert rows[key]["losses"][name] == pytest.approx(times * weight)


def test_pretexts_differ_by_the_seed_of_the_pretext_alone() -> None:
    found = [loading.load(PARAMS, f"pretexts_{seed}") for seed in (0, 1, 2)]
    for seed, in_force in enumerate(found):
        assert in_force.pretexts == ["organ", "masked", "contrastive"]
        resolved, first = in_force.resolved(), found[0].resolved()
        assert resolved.pop("experiment") == f"pretexts_{seed}"
        assert resolved["vit"]["finetuning"].pop("seed") == seed
        del first["experiment"], first["vit"]["finetuning"]["seed"]
        assert resolved == first


def test_a_pretext_is_degraded_as_the_experiment_is() -> None:
    """The scales at which a method looks through the ViT, and each dataset's own degradation."""
    paper = loading.load(PARAMS, "paper").vit_settings("pretext", "organ")
    assert paper["scales"] == [2, 4]
    kinds = {"ixi_pd": "bicubic", "ixi_t1": "bicubic", "ixi_t2": "bicubic", "fastmri": "kspace"}
    assert paper["degradations"] == kinds
    demo = loading.load(PARAMS, "demo").vit_settings("pretext", "organ")
    assert demo["scales"] == [2]  # its 4x methods do without
    assert demo["degradations"] == {"phantom_t1": "bicubic", "phantom_knee": "kspace"}


def test_paper_numbers_are_the_papers() -> None:
    sr = loading.load(PARAMS, "paper").rows["srresnet"].training
    assert (sr.batch, sr.optimizer.betas, sr.optimizer.weight_decay) == (256, (0.9, 0.999), 0.1)
    assert sr.steps * sr.batch == 100 * 48_000


def test_no_experiment_pads_patches_to_the_canvas_of_a_slice() -> None:
    """Zeros around a patch would be most of what the auto-encoder's codes say."""
    for name in loading.load(PARAMS).params.experiments:
        for key, row in loading.load(PARAMS, name).rows.items():
            if "autoencoder" in row.frozen:
                assert row.training.features.autoencoder_size <= row.training.patch, (name, key)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("sr", "stepz"), 3, "sr.stepz: unknown key"),
        (("sr", "steps"), -1, "sr.steps"),
        (("sr", "steps"), "many", "sr.steps"),
        (("sr", "steps"), True, "sr.steps"),
        (("sr", "validation_slices"), False, "sr.validation_slices"),
        (("sr", "explode"), True, "sr.explode: must be a number"),
        (("sr", "optimizer", "lr"), 0, "sr.optimizer.lr"),
        (("data", "sources", "phantom", "sede"), 1, "data.sources.phantom.sede: unknown key"),
        (("data", "sources", "phantom", "seed"), "x", "data.sources.phantom.seed"),
        (("data", "sources", "nosuch"), {}, "src/mrsr/datasets/nosuch.py"),
        (("data", "datasets", "phantom_t1", "crop"), [0, 5], "data.datasets.phantom_t1.crop"),
        (("data", "datasets", "../x"), {}, "data.datasets.../x"),
        (("methods", "srcnn", "model"), "nosuch", "methods.srcnn.model: missing file"),
        (("methods", "srcnn", "options", "wide"), 3, "methods.srcnn.options.wide"),
        (("methods", "srcnn", "losses", "l7"), 1, "methods.srcnn.losses.l7: no such loss"),
        (("methods", "srcnn", "losses", "l2"), -1, "methods.srcnn.losses.l2"),
        (("methods", "srcnn", "like"), "nosuch", "methods.srcnn.like"),
        (("methods", "srcnn", "train"), {"stepz": 1}, "methods.srcnn.train.stepz: unknown key"),
        (("metrics", "preset"), "best", "metrics.preset"),
        (("experiments", "demo", "grid"), [], "experiments.demo.grid"),
        (("experiments", "demo", "set", "modle"), {}, "experiments.demo.set.modle: unknown key"),
        (("experiments", "demo", "set", "data"), {"sources": {}}, "raw data is shared"),
        (("experiments", "demo", "tables"), {"table1": []}, "is in no table"),
        (
            ("experiment",),
            "nosuch",
            "no experiment 'nosuch'; known: benchmark",
        ),
        (("surprise",), 1, "surprise: unknown key"),
        (("experiment",), "../demo", "experiment: "),
        (("experiment",), ["demo"], "experiment: "),
        # sizes and types that make no sense
        (("sr", "steps"), 1.5, "sr.steps"),
        (("sr", "batch"), -4, "sr.batch"),
        (("sr", "micro_batch"), -1, "sr.micro_batch"),
        (("sr", "checkpoint_every"), 0, "sr.checkpoint_every"),
        (("sr", "optimizer", "lr"), float("nan"), "sr.optimizer.lr"),
        (("sr", "optimizer", "lr"), float("inf"), "sr.optimizer.lr"),
        (("sr", "optimizer", "betas"), [0.9, 1.5], "sr.optimizer.betas.1"),
        (("sr", "precision"), "fp7", "sr.precision"),
        (("sr", "augment"), "perhaps", "sr.augment"),
        (("data", "datasets", "phantom_t1", "crop"), ["a", 5], "data.datasets.phantom_t1.crop.0"),
        (("data", "datasets", "phantom_t1", "crop"), [-4, 5], "data.datasets.phantom_t1.crop.0"),
        (("data", "datasets", "phantom_t1", "central_slices"), 0, "phantom_t1.central_slices"),
        (("data", "datasets", "phantom_t1", "contrast"), 7, "data.datasets.phantom_t1.contrast"),
        (("methods", "srcnn", "losses", "l2"), "much", "methods.srcnn.losses.l2"),
        (("methods", "srcnn", "losses"), None, "methods.srcnn.losses"),
        (("autoencoder", "steps"), -5, "autoencoder.steps"),
        (("vit", "finetuning", "steps"), -5, "vit.finetuning.steps"),
        (("metrics", "presets", "slice", "border"), -1, "metrics.presets.slice.border"),
        (("metrics", "presets", "slice", "window_size"), 0, "metrics.presets.slice.window_size"),
        # names become paths
        (("data", "datasets", "a/b"), {}, "data.datasets.a/b"),
        (("data", "datasets", ".."), {}, "data.datasets..."),
        (("data", "datasets", "phantom_t1", "source"), "../x", "data.datasets.phantom_t1.source"),
        (("data", "sources", "../x"), {}, "data.sources.../x"),
        (("methods", "/etc"), {}, "methods./etc"),
        (("methods", "srcnn", "model"), "../srcnn", "methods.srcnn.model"),
        (("methods", "srcnn", "model"), "__init__", "methods.srcnn.model"),
        (("experiments", "demo", "tables"), {"../t": ["phantom_t1"]}, "experiments.demo.tables"),
        (("vit", "pretext"), "../organ", "vit.pretext"),
    ],
)
def test_a_mistake_is_told_by_its_path(
    tmp_path: Path, document: dict[str, Any], path: tuple[str, ...], value: Any, told: str
) -> None:
    table = document
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    assert told in refused(tmp_path, document)


@pytest.mark.parametrize("scale", [0, 1, 5, -2, "two"])
def test_only_known_scales(tmp_path: Path, document: dict[str, Any], scale: Any) -> None:
    document["experiments"]["demo"]["grid"][0]["scales"] = [scale]
    assert "experiments.demo.grid.0.scales.0" in refused(tmp_path, document)


def test_names_cannot_leave_the_results(tmp_path: Path, document: dict[str, Any]) -> None:
    document["methods"]["../../etc"] = {"model": "srcnn", "losses": {"l1": 1}}
    assert "methods.../../etc" in refused(tmp_path, document)


@pytest.mark.parametrize(
    "path", [("vit", "weights"), ("data", "sources", "ixi", "source"), ("surprise",)]
)
@pytest.mark.parametrize("address", ["https://host/w.pt?key=SECRET", "http://me:SECRET@host/w.pt"])
def test_a_signed_address_has_no_place_here(
    tmp_path: Path, document: dict[str, Any], path: tuple[str, ...], address: str
) -> None:
    table = document
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = address
    message = refused(tmp_path, document)
    assert ".".join(path) in message and "mrsr.raw.download" in message
    assert "SECRET" not in message


def test_like_is_followed_and_zero_weights_drop(tmp_path: Path, document: dict[str, Any]) -> None:
    document["methods"]["half"] = {"like": "srresnet", "losses": {"l1": 0, "l2": 0.5}}
    document["methods"]["more"] = {"like": "half", "options": {"blocks": 2}, "train": {"steps": 7}}
    document["experiments"]["demo"]["grid"][0]["methods"] = ["more"]
    row = load(tmp_path, document, "demo").rows["more"]
    assert row.model == "srresnet"
    assert row.losses == {"l2": 0.5}
    assert row.options["blocks"] == 2
    assert row.options["skip"] == "bicubic"
    assert row.training.steps == 7


def test_like_in_a_circle(tmp_path: Path, document: dict[str, Any]) -> None:
    document["methods"]["srcnn"] = {"like": "srresnet"}
    document["methods"]["srresnet"] = {"like": "srcnn"}
    assert "leads back to itself" in refused(tmp_path, document)


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS.read_text() + "\nmetrics: {}\n")
    with pytest.raises(UserError, match="'metrics' is given twice"):
        loading.load(file)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "\x00"])
def test_not_a_table(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError):
        loading.load(file)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run in the project's root"):
        loading.load(tmp_path / "params.yaml")


def test_schema_is_current() -> None:
    written = json.loads((ROOT / "docs" / "params.schema.json").read_text())
    assert written == loading.schema(), "run `mrsr schema` and commit docs/params.schema.json"


def test_config_imports_no_torch() -> None:
    code = (
        "import sys, mrsr.params.loading as c; c.load('params.yaml', 'paper').resolved();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_params_command_prints_what_is_in_force() -> None:
    command = [sys.executable, "-m", "mrsr.cli", "params", "--experiment", "smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    assert printed["methods"]["srcnn"]["training"]["steps"] == 2


def test_params_command_refuses_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mrsr.cli", "params", "--experiment", "nosuch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no experiment 'nosuch'" in done.stderr
