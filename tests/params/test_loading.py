"""params.yaml and experiments: each resolves; a mistake is told by its file and dotted path.

Run: pytest tests/params/test_loading.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders import EXPERIMENTS, Table, load, parameters, put, refused, write_parameters
from mrsr import cli
from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.params.experiment import Cell
from mrsr.params.settings_files import every_job
from project import ROOT

PARAMS = ROOT / "params.yaml"
DEMO = "workflow/experiments/demo.yaml: "


@pytest.fixture
def tables() -> dict[str, Table]:
    """params.yaml and demo.yaml, which it names."""
    return parameters("demo")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves(name: str) -> None:
    resolved = loading.load(PARAMS, name)
    assert resolved.name == name and resolved.cells
    for cell in resolved.cells:
        if resolved.methods[cell.method].trained:
            job = resolved.super_resolution(cell.dataset, cell.scale, cell.method)
            assert job.experiment == name
        method = resolved.methods[cell.method]
        if "autoencoder" in method.frozen:  # zeros around a patch would be most of the codes
            assert method.training.features.autoencoder_size <= method.training.patch
    json.dumps(resolved.in_force(), allow_nan=False)


def test_choices_differ_from_what_they_are_like_by_one_thing() -> None:
    choices = loading.load(PARAMS, "openms_choices")
    ablation = loading.load(PARAMS, "openms_ablation")
    assert choices.params.vit == ablation.params.vit
    assert choices.params.autoencoder == ablation.params.autoencoder
    methods = {key: asdict(method) for key, method in choices.methods.items()}
    grid = {
        (methods[key]["options"]["norm"], methods[key]["options"]["skip"])
        for key in ("srresnet", "srresnet_published", "srresnet_norm", "srresnet_no_skip")
    }
    assert len(grid) == 4
    for key, method in methods.items():
        like = choices.params.methods[key].like
        if like is None or key == "srresnet_published":
            continue
        names = ("options", "losses", "training")
        changed = [name for name in names if method[name] != methods[like][name]]
        assert len(changed) == 1, key
    for key, factor in (("proposed_features_10", 10), ("proposed_features_100", 100)):
        for name, weight in methods["proposed"]["losses"].items():
            times = factor if name in ("vit", "structure", "texture") else 1
            assert methods[key]["losses"][name] == pytest.approx(times * weight)


def test_pretexts_differ_by_the_seed_of_the_pretext_task_alone() -> None:
    found = [loading.load(PARAMS, f"pretexts_{seed}") for seed in (0, 1, 2)]
    for seed, resolved in enumerate(found):
        assert resolved.pretexts == ["organ", "masked", "contrastive"]
        in_force, first = resolved.in_force(), found[0].in_force()
        assert in_force.pop("experiment") == f"pretexts_{seed}"
        assert in_force["vit"]["finetuning"].pop("seed") == seed
        del first["experiment"], first["vit"]["finetuning"]["seed"]
        assert in_force == first


def test_a_pretext_task_is_degraded_as_the_experiment_is() -> None:
    """The scales at which a method uses the ViT, and each dataset's own degradation."""
    paper = loading.load(PARAMS, "paper").pretext("organ")
    assert paper.scales == (2, 4)
    kinds = {"ixi_pd": "bicubic", "ixi_t1": "bicubic", "ixi_t2": "bicubic", "fastmri": "kspace"}
    assert paper.degradations == kinds
    demo = loading.load(PARAMS, "demo").pretext("organ")
    assert demo.scales == (2,)  # its 4x methods do without
    assert demo.degradations == {"phantom_t1": "bicubic", "phantom_knee": "kspace"}


def test_paper_numbers_are_the_papers() -> None:
    sr = loading.load(PARAMS, "paper").methods["srresnet"].training
    assert (sr.batch, sr.optimizer.betas, sr.optimizer.weight_decay) == (256, (0.9, 0.999), 0.1)
    assert sr.steps * sr.batch == 100 * 48_000


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("surprise", 1, "surprise: unknown key"),
        ("experiment", ["demo"], "experiment: "),
        # sizes and types
        ("sr stepz", 3, "sr.stepz: unknown key"),
        ("sr steps", 0, "sr.steps: "),
        ("sr steps", 1.5, "sr.steps: "),
        ("sr steps", "many", "sr.steps: "),
        ("sr steps", True, "sr.steps: "),
        ("sr micro_batch", -1, "sr.micro_batch: "),
        ("sr explode", True, "sr.explode: must be a number"),
        ("sr optimizer lr", 0, "sr.optimizer.lr: "),
        ("sr optimizer lr", float("nan"), "sr.optimizer.lr: "),
        ("sr optimizer lr", float("inf"), "sr.optimizer.lr: "),
        ("sr optimizer betas", [0.9, 1.5], "sr.optimizer.betas.1: "),
        ("sr schedule", {"kind": "step"}, "sr.schedule: every: must be 1 or more"),
        ("sr precision", "fp7", "sr.precision: "),
        ("sr augment", "perhaps", "sr.augment: "),
        ("data datasets phantom_t1 crop", [0, 5], "data.datasets.phantom_t1.crop.0: "),
        ("data datasets phantom_t1 crop", ["a", 5], "data.datasets.phantom_t1.crop.0: "),
        ("data datasets phantom_t1 contrast", 7, "data.datasets.phantom_t1.contrast: "),
        ("data datasets phantom_t1 split", {"kind": "x"}, "data.datasets.phantom_t1.split: "),
        ("data sources phantom sede", 1, "data.sources.phantom.sede: unknown key; known: "),
        ("data sources phantom seed", "x", "data.sources.phantom.seed: "),
        ("metrics presets mine", {"window_size": 4}, "metrics.presets.mine.level: "),
        # what is not there
        ("data sources nosuch", {}, "data.sources.nosuch: missing file src/mrsr/datasets/nosuch"),
        ("data datasets phantom_t1 source", "gone", "data.datasets.phantom_t1.source: no source"),
        ("metrics preset", "best", "metrics.preset: no 'best'; known: fastmri, slice, volume"),
        ("methods srcnn model", "nosuch", "methods.srcnn.model: missing file"),
        ("methods srcnn model", "layers", "methods.srcnn.model: missing file"),
        ("methods srcnn options wide", 3, "methods.srcnn.options.wide: "),
        ("methods srcnn losses l7", 1, "methods.srcnn.losses.l7: no such loss; known: "),
        ("methods srcnn losses l2", -1, "methods.srcnn.losses.l2: "),
        ("methods srcnn losses l2", "much", "methods.srcnn.losses.l2: "),
        ("methods srcnn losses", None, "methods.srcnn.losses: "),
        ("methods srcnn like", "nosuch", "methods.srcnn.like: no method 'nosuch'"),
        ("methods srresnet like", "srresnet_norm", "methods.srresnet.like: leads back to itself"),
        ("methods srcnn trained_on", "gone", "methods.srcnn.trained_on: no dataset 'gone'"),
        ("methods minet trained_on", "ixi_pd", "methods.minet.trained_on: only for methods of"),
        ("methods srcnn train", {"stepz": 1}, "methods.srcnn.train.stepz: unknown key"),
        # names become paths
        ("data datasets ../x", {}, "data.datasets.../x"),
        ("data datasets phantom_t1 source", "../x", "data.datasets.phantom_t1.source: "),
        ("data sources ../x", {}, "data.sources.../x"),
        ("methods ../../etc", {"model": "srcnn", "losses": {"l1": 1}}, "methods.../../etc"),
        ("methods srcnn model", "../srcnn", "methods.srcnn.model: "),
        ("methods srcnn model", "__init__", "methods.srcnn.model: "),
        ("vit pretext", "../organ", "vit.pretext: "),
    ],
)
def test_a_mistake_in_params_is_told_by_its_path(
    tmp_path: Path, tables: dict[str, Table], path: str, value: Any, told: str
) -> None:
    put(tables["params"], path, value)
    assert refused(tmp_path, tables).startswith(f"params.yaml: {told}")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("surprise", 1, "surprise: unknown key"),
        ("description", None, "description: "),
        ("recipe", "mine", "recipe: "),
        ("grid", [], "grid: must have at least one block"),
        *(("grid 0 scales", [scale], "grid.0.scales.0: ") for scale in (0, 1, 5, -2, "two")),
        ("grid 0 datasets", ["nosuch"], "grid.0.datasets: no 'nosuch'; known: fastmri, "),
        (
            "set data",
            {"datasets": {"phantom_t1": {"degradation": "mixed"}}},
            "grid: dataset 'phantom_t1' is degraded in two ways",
        ),
        ("grid 0 methods", ["nosuch"], "grid.0.methods: no method 'nosuch'; known: "),
        ("tables", {"table1": []}, "tables: dataset 'phantom_t1' is in no table"),
        ("tables", {"../t": ["phantom_t1"]}, "tables.../t"),
        ("vit_data", None, "vit_data: missing: a method uses the vision transformer"),
        ("vit_data pool", ["gone"], "vit_data.pool: no dataset 'gone'"),
        ("vit_data pool", ["phantom_t1"], "vit_data.pool: it has only brain"),
        # as in params.yaml, under `set`
        ("set", [1], "set: "),
        ("set modle", {}, "set.modle: unknown key; known: autoencoder"),
        ("set data", {"sources": {}}, "set.data.sources: all experiments share"),
        ("set sr stepz", 3, "set.sr.stepz: unknown key"),
        ("set sr steps", 0, "set.sr.steps: "),
        ("set metrics preset", "best", "set.metrics.preset: no 'best'"),
        ("set methods srcnn options", {"wide": 3}, "set.methods.srcnn.options.wide: "),
        ("set methods mine", {"like": "gone"}, "set.methods.mine.like: no method 'gone'"),
        ("set data datasets phantom_t2 guide", "x", "set.data.datasets.phantom_t2.guide: no data"),
        # the experiment that it is like
        ("like", "nosuch", "like: no experiment 'nosuch'; known: demo; or "),
        ("like", "../demo", "like: experiment '../demo': use lower-case letters"),
        ("like", 3, "like: experiment '3': use lower-case letters"),
        ("like", "demo", "like: leads back to itself"),
    ],
)
def test_a_mistake_in_an_experiment_is_told_by_its_file_and_path(
    tmp_path: Path, tables: dict[str, Table], path: str, value: Any, told: str
) -> None:
    put(tables["demo"], path, value)
    assert refused(tmp_path, tables).startswith(DEMO + told)


def test_dice_is_of_labelled_datasets(tmp_path: Path, tables: dict[str, Table]) -> None:
    put(tables["demo"], "set metrics more", ["hfen", "dice"])
    resolved = load(tmp_path, tables)
    assert resolved.evaluation("phantom_t1", 2, "bicubic").more == ("hfen", "dice")
    put(tables["demo"], "vit_data labelled", ["phantom_t2"])
    told = "metrics.more: dice needs labels: vit_data.labelled has none of the grid's datasets"
    assert refused(tmp_path, tables).startswith(DEMO + told)
    del tables["demo"]["vit_data"]
    assert "vit_data: missing: metrics.more uses" in refused(tmp_path, tables)


@pytest.mark.parametrize("path", ["vit weights", "data sources ixi source", "surprise"])
@pytest.mark.parametrize("address", ["https://host/w.pt?key=SECRET", "http://me:SECRET@host/w.pt"])
@pytest.mark.parametrize(("file", "start"), [("params", "params.yaml: "), ("demo", DEMO)])
def test_a_signed_address_has_no_place_here(
    tmp_path: Path, tables: dict[str, Table], path: str, address: str, file: str, start: str
) -> None:
    put(tables[file], path, address)
    message = refused(tmp_path, tables)
    assert message.startswith(f"{start}{path.replace(' ', '.')}: ")
    assert "mrsr.raw.download" in message and "SECRET" not in message


@pytest.mark.parametrize("name", ["../demo", "a/../demo", "Demo", "de mo", "1demo", "", 61 * "x"])
def test_a_name_is_no_path(tmp_path: Path, tables: dict[str, Table], name: str) -> None:
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow" / "demo.yaml").write_text("{}")
    assert refused(tmp_path, tables, name).startswith(f"experiment '{name}': use lower-case")
    tables["params"]["experiment"] = name
    assert refused(tmp_path, tables).startswith(f"experiment '{name}': use lower-case")


def test_an_experiment_that_is_not_there(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["other"] = tables["demo"]
    told = "no experiment 'nosuch'; known: demo, other; or give a path"
    assert refused(tmp_path, tables, "nosuch") == told


def test_an_experiment_of_ones_own_lies_anywhere(tmp_path: Path, tables: dict[str, Table]) -> None:
    own = tmp_path / "elsewhere" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("{like: demo, description: mine, set: {sr: {steps: 70}}}")
    resolved = load(tmp_path, tables, str(own))
    assert resolved.name == "mine"
    assert resolved.super_resolution("phantom_t1", 2, "srcnn").experiment == "mine"
    assert resolved.params.sr.steps == 70
    own.write_text("{like: demo, set: {sr: {steps: 0}}}")
    assert refused(tmp_path, tables, str(own)).startswith("elsewhere/mine.yaml: set.sr.steps: ")
    assert "no experiment" in refused(tmp_path, tables, str(own.with_name("gone.yaml")))
    # its results would be those of the project's own experiment
    taken = own.rename(own.with_name("demo.yaml"))
    assert "has the same name, and so the same results" in refused(tmp_path, tables, str(taken))
    same = tmp_path / loading.EXPERIMENTS / "demo.yaml"
    assert load(tmp_path, tables, str(same)).name == "demo"


def test_like_takes_all_that_is_not_given_here(tmp_path: Path, tables: dict[str, Table]) -> None:
    tables["more"] = {
        "like": "demo", "description": "more", "vit_data": {"also": ["masked"]},
        "set": {"sr": {"steps": 70}, "vit": {"pretext": "organ"}},
    }  # fmt: skip
    block = {"datasets": ["phantom_t1"], "scales": [2], "methods": ["bicubic", "proposed"]}
    tables["most"] = {"like": "more", "grid": [block], "set": {"sr": {"batch": 3}}}
    demo, most = load(tmp_path, tables), load(tmp_path, tables, "most")
    assert most.experiment.description == "more"
    assert list(most.methods) == ["bicubic", "proposed"]
    assert most.experiment.tables == demo.experiment.tables
    assert most.pool == demo.pool and most.pretexts == ["organ", "masked"]
    assert (most.params.sr.steps, most.params.sr.batch) == (70, 3)
    assert most.params.sr.patch == demo.params.sr.patch
    # what is wrong above is told of the file that has it
    tables["more"]["set"]["sr"]["stepz"] = 1
    told = "workflow/experiments/more.yaml: set.sr.stepz: unknown key"
    assert refused(tmp_path, tables, "most") == told
    tables["demo"]["like"] = "most"
    assert "like: leads back to itself" in refused(tmp_path, tables, "more")


def test_a_method_is_followed_and_zero_weights_drop(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    half = {"like": "srresnet", "losses": {"l1": 0, "l2": 0.5}}
    more = {"like": "half", "options": {"blocks": 2}, "train": {"steps": 70}}
    tables["params"]["methods"] |= {"half": half, "more": more}
    tables["demo"]["grid"][0]["methods"] = ["more"]
    method = load(tmp_path, tables).methods["more"]
    assert method.model == "srresnet"
    assert method.losses == {"l2": 0.5}
    assert (method.options["blocks"], method.options["skip"]) == (2, "bicubic")
    assert method.training.steps == 70


def test_an_experiment_may_have_methods_of_its_own(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    put(tables["demo"], "set methods mine", {"like": "srcnn", "options": {"features": [4, 2]}})
    tables["demo"]["grid"][0]["methods"] = ["bicubic", "mine"]
    resolved = load(tmp_path, tables)
    assert resolved.super_resolution("phantom_t1", 2, "mine").model.options["features"] == [4, 2]
    assert resolved.evaluation("phantom_t1", 2, "mine").full_options["features"] == [4, 2]


def test_one_training_serves_the_cells_of_several_datasets(
    tmp_path: Path, tables: dict[str, Table]
) -> None:
    tables["params"]["methods"]["srcnn"]["trained_on"] = "phantom_pd"
    tables["demo"]["grid"] = [
        {"datasets": ["phantom_t1", "phantom_t2"], "scales": [2], "methods": ["bicubic", "srcnn"]}
    ]
    tables["demo"]["tables"] = {"table1": ["phantom_t1", "phantom_t2"]}
    resolved = load(tmp_path, tables)
    assert resolved.trainings() == [Cell("phantom_pd", 2, "srcnn")]
    assert resolved.measured == ["phantom_t1", "phantom_t2"]
    assert resolved.datasets == ["phantom_t1", "phantom_t2", "phantom_pd"]
    assert resolved.evaluation("phantom_t2", 2, "srcnn").trained_on == "phantom_pd"
    made = every_job(resolved)
    assert "checkpoints/phantom_pd/x2/srcnn" in made and "metrics/phantom_t1/x2/srcnn" in made
    assert "checkpoints/phantom_t1/x2/srcnn" not in made


def test_a_method_may_use_the_network_of_another(tmp_path: Path, tables: dict[str, Table]) -> None:
    eight = {"like": "srcnn", "weights_of": "srcnn", "ensemble": 8}
    tables["params"]["methods"]["eight"] = eight
    tables["demo"]["grid"] = [
        {"datasets": ["phantom_t1"], "scales": [2], "methods": ["srcnn", "eight"]}
    ]
    resolved = load(tmp_path, tables)
    assert resolved.trainings() == [Cell("phantom_t1", 2, "srcnn")]
    asked = resolved.evaluation("phantom_t1", 2, "eight")
    assert (asked.weights_of, asked.ensemble) == ("srcnn", 8)
    tables["demo"]["grid"][0]["methods"] = ["eight"]
    assert "methods.eight.weights_of: the grid lacks 'srcnn'" in refused(tmp_path, tables)
    eight["options"] = {"features": [4, 2]}
    told = "params.yaml: methods.eight.weights_of: 'srcnn' must be another method with the same"
    assert refused(tmp_path, tables).startswith(told)


@pytest.mark.parametrize("name", ["params.yaml", "workflow/experiments/demo.yaml"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must be a table"),
        ("- 1", "must be a table"),
        ("a: [", "is not YAML"),
        ("\x00", "is not YAML"),
        (b"\xff", "is not UTF-8"),
        ("a: 1\na: 2\n", "table at line 1: key 'a' is given twice"),
        ("a:\n  b: 1\n  b: 2\n", "table at line 2: key 'b' is given twice"),
    ],
)
def test_not_a_table(
    tmp_path: Path, tables: dict[str, Table], name: str, text: str | bytes, told: str
) -> None:
    file = write_parameters(tmp_path, tables)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        loading.load(file)
    assert str(tmp_path / name) in str(caught.value) and told in str(caught.value)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run in the project's root"):
        loading.load(tmp_path / "params.yaml")


def test_numbers_of_yaml_1_2_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 5e-4\nb: -1E+3\nc: 1e\n")
    assert loading.read_yaml(tmp_path / "a.yaml") == {"a": 5e-4, "b": -1000.0, "c": "1e"}


def test_loading_imports_no_torch() -> None:
    code = (
        "import sys, mrsr.params.loading as c; c.load('params.yaml', 'paper').in_force();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_params_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for name, code in (("smoke", 0), ("nosuch", 2)):
        monkeypatch.setattr("sys.argv", ["mrsr", "params", "--experiment", name])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert (stop.value.code or 0) == code
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["methods"]["srcnn"]["training"]["steps"] == 2
    assert printed.err.count("\n") == 1 and "no experiment 'nosuch'" in printed.err
