"""Lines 15, 19 and 20 of issue 11: results that DVC brings, with the real tools and a local remote.

Run: pytest -m slow tests/workflow/test_adopting.py
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrsr.raw.nifti import write_nifti
from project import (
    commit,
    copy_project,
    edit_experiment,
    edit_params,
    planned_jobs,
    run,
    snakemake,
)

pytestmark = pytest.mark.long

SMALL = {"max_volumes": 1, "max_slices": 4}
FEW = {"train": 2, "validation": 1, "test": 1}
PHANTOM = {"subjects": FEW, "knee": FEW, "slices": 16}


def all_of(name: str) -> tuple[str, ...]:
    return ("all", "--config", f"experiment={name}")


def write_scans(folder: Path) -> None:
    """Four people's scans, and the CSV that says who is in which split."""
    rng = np.random.default_rng(0)
    rows = ["file,subject,split"]
    for name, split in (("ann", "train"), ("ben", "train"), ("cat", "validation"), ("dan", "test")):
        data = rng.integers(1, 400, (64, 64, 4)).astype(np.int16)
        write_nifti(folder / f"{name}.nii.gz", data, np.diag([1, 1, 3, 1.0]))
        rows.append(f"{name}.nii.gz,{name},{split}")
    (folder / "people.csv").write_text("\n".join(rows) + "\n")


def experiment(dataset: str, *methods: str, **more: object) -> dict[str, object]:
    return {
        "description": "a person's own",
        "size": "tiny",
        "grid": [{"datasets": [dataset], "scales": [2], "methods": list(methods)}],
        "tables": {"table1": [dataset]},
        **more,
    }


# --- line 15 --------------------------------------------------------------------------------------


def test_line_15_every_kind_of_experiment_is_pulled_and_adopted(
    tmp_path: Path, mirror: Path
) -> None:
    """Own scans, open scans with a guide, bicubic alone, and one by its own path that is `like`."""
    project, scans = copy_project(tmp_path / "project"), tmp_path / "scans"
    write_scans(scans)
    given = {"path": str(scans), "split": str(scans / "people.csv")}
    edit_params(project, {
        "data": {
            "sources": {"folder": given, "phantom": PHANTOM},
            "datasets": {"openms_t1": SMALL, "openms_t2": SMALL, "phantom_t1": SMALL},
        },
        "tracked": ["own", "open", "plain", "studies/mine.yaml"],
    })  # fmt: skip
    edit_experiment(project, "own", experiment("folder", "bicubic", "srcnn"))
    edit_experiment(project, "open", experiment("openms_t2", "bicubic", "lyu"))
    edit_experiment(project, "plain", experiment("phantom_t1", "bicubic"))
    (project / "studies").mkdir()
    (project / "studies/mine.yaml").write_text(
        "{like: own, description: mine, set: {sr: {seed: 3}}}\n"
    )
    refused = run(project, "mrsr", "adopt", "-e", "own", check=False)
    assert refused.returncode == 2 and "run `mrsr track`" in refused.stdout
    run(project, "mrsr", "track")
    recorded = (project / "dvc.yaml").read_text()
    for stage in ("raw-folder", "raw-openms", "raw-phantom", "checkpoints-own", "tables-mine"):
        assert f"  {stage}:" in recorded
    assert "checkpoints-plain" not in recorded and "results/plain/figures" in recorded
    commit(project)
    remote = tmp_path / "remote"
    run(project, "dvc", "repro")
    # line 19: not the experiment's own file alone
    lock = (project / "dvc.lock").read_text()
    mine = lock[lock.index("  checkpoints-mine:") :].partition("  metrics-mine:")[0]
    for file in ("studies/mine.yaml", "workflow/experiments/own.yaml", "workflow/sizes/tiny.yaml"):
        assert file in mine
    assert "up to date" in run(project, "dvc", "repro").stdout
    run(project, "dvc", "remote", "add", "--default", "local", str(remote))
    run(project, "dvc", "push")
    commit(project)

    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull")
    names = {name: name for name in ("own", "open", "plain")} | {"mine": "studies/mine.yaml"}
    for name in names.values():
        run(clone, "mrsr", "adopt", "--experiment", name)
    for folder, name in names.items():  # after all of them: they share raw scans
        assert "Nothing to be done" in snakemake(clone, *all_of(name)), name
        table = f"results/{folder}/tables/results.csv"
        assert (clone / table).read_bytes() == (project / table).read_bytes()
    assert "up to date" in run(clone, "dvc", "repro").stdout


def test_line_15_a_stale_dvc_yaml_is_told_by_dvc_repro(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    edit_params(project, {"tracked": ["plain"], "data": {"sources": {"phantom": PHANTOM}}})
    edit_experiment(project, "plain", experiment("phantom_t1", "bicubic"))
    run(project, "mrsr", "track")
    edit_experiment(project, "plain", experiment("phantom_t1", "bicubic", "srcnn"))
    failed = run(project, "dvc", "repro", check=False)
    assert failed.returncode != 0
    assert (
        "dvc.yaml does not fit experiment 'plain' as it is now; run `mrsr track`" in failed.stdout
    )


# --- line 19 --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a project whose smoke experiment was recorded; pulled, and not yet adopted."""
    project = copy_project(tmp_path_factory.mktemp("adopting") / "project")
    edit_params(project, {"tracked": ["smoke"], "data": {"sources": {"phantom": PHANTOM}}})
    run(project, "mrsr", "track")
    run(project, "dvc", "repro")
    run(project, "dvc", "remote", "add", "--default", "local", str(project.parent / "remote"))
    run(project, "dvc", "push")
    commit(project)
    clone = project.parent / "clone"
    run(project.parent, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull")
    return clone


@pytest.fixture(scope="module")
def adopted(pulled: Path) -> Path:
    """The same after `mrsr adopt`; tests copy it."""
    folder = Path(shutil.copytree(pulled, pulled.parent / "adopted", symlinks=True))
    run(folder, "mrsr", "adopt", "--experiment", "smoke")
    assert "Nothing to be done" in snakemake(folder, *all_of("smoke"))
    return folder


@pytest.fixture
def copy(adopted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adopted, tmp_path / "copy", symlinks=True))


def seed(project: Path) -> None:
    edit_params(project, {"sr": {"seed": 5}})


def weight(project: Path) -> None:
    edit_params(project, {"methods": {"proposed": {"losses": {"texture": 0.8}}}})


def label(project: Path) -> None:
    edit_params(project, {"data": {"datasets": {"phantom_t1": {"label": "P"}}}})


def code_of_srresnet(project: Path) -> None:
    file = project / "src/mrsr/models/srresnet.py"
    file.write_text(file.read_text() + "\n\nUNUSED = 3\n")


def comment_in_srresnet(project: Path) -> None:
    file = project / "src/mrsr/models/srresnet.py"
    file.write_text("# a remark\n" + file.read_text())


def code_of_unetr(project: Path) -> None:
    file = project / "src/mrsr/models/unetr.py"
    file.write_text(file.read_text() + "\n\nUNUSED = 3\n")


def size(project: Path) -> None:
    file = project / "workflow/sizes/tiny.yaml"
    one = "srresnet: {options: {features: 8, blocks: 1}}"
    assert one in file.read_text()
    file.write_text(file.read_text().replace(one, one.replace("1}}", "2}}")))


# the figures and the page, which follow from any metric
PAGE = {"example_images": 1, "draw_figures": 1, "write_report": 1}
# what is changed -> what Snakemake would run then, besides `all`
CHANGES: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "nothing": (lambda project: None, {}),
    "a seed of sr": (
        seed,
        {"train_sr": 3, "evaluate": 3, "loss_curves": 3, "write_tables": 1, **PAGE},
    ),
    "a weight": (
        weight,
        {"train_sr": 1, "evaluate": 1, "loss_curves": 1, "write_tables": 1, **PAGE},
    ),
    "a metric": (
        lambda project: edit_params(project, {"metrics": {"preset": "volume"}}),
        {"evaluate": 4, "write_tables": 1, **PAGE},
    ),
    "a label of a table": (
        label,
        {"write_tables": 1, "draw_figures": 1, "write_report": 1},
    ),
    "the auto-encoder": (
        lambda project: edit_params(project, {"autoencoder": {"weights": {"swap": 0.5}}}),
        {"train_autoencoder": 1, "probe_autoencoder": 1, "train_sr": 1, "evaluate": 1,
         "frozen_table": 1, "loss_curves": 2, "write_tables": 1, **PAGE},
    ),
    "the pretext task": (
        lambda project: edit_params(project, {"vit": {"finetuning": {"seed": 4}}}),
        {"train_vit_pretext": 1, "train_sr": 1, "evaluate": 1, "frozen_table": 1,
         "loss_curves": 2, "write_tables": 1, **PAGE},
    ),
    "the segmentation": (
        lambda project: edit_params(project, {"vit": {"segmentation": {"seed": 4}}}),
        {"train_vit_segmentation": 1, "train_vit_pretext": 1, "train_sr": 1, "evaluate": 1,
         "frozen_table": 1, "loss_curves": 3, "write_tables": 1, **PAGE},
    ),
    "the size": (
        size,
        {"train_sr": 1, "evaluate": 1, "loss_curves": 1, "write_tables": 1, **PAGE},
    ),
    "the experiment's file": (
        lambda project: edit_experiment(project, "smoke", {"set": {"methods": {
            "srcnn": {"losses": {"l2": 2}}}}}),
        {"train_sr": 1, "evaluate": 1, "loss_curves": 1, "write_tables": 1, **PAGE},
    ),
    # line 20
    "a comment in a network's file": (comment_in_srresnet, {}),
    "the code of a network": (  # of SRResNet, which Proposed uses too
        code_of_srresnet,
        {"train_sr": 2, "evaluate": 2, "loss_curves": 2, "write_tables": 1, **PAGE},
    ),
    "the code of a frozen network": (
        code_of_unetr,
        {"train_vit_segmentation": 1, "train_vit_pretext": 1, "train_sr": 1, "evaluate": 1,
         "frozen_table": 1, "loss_curves": 3, "write_tables": 1, **PAGE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_line_19_after_an_adoption_each_kind_of_setting_runs_what_it_must(
    copy: Path, change: str
) -> None:
    edit, expected = CHANGES[change]
    edit(copy)
    jobs = planned_jobs(snakemake(copy, "--dry-run", *all_of("smoke")))
    jobs.pop("all", None)
    assert jobs == expected


def test_line_19_slicing_and_raw_scans_run_again_too(copy: Path) -> None:
    limit = {"datasets": {"phantom_t1": {"max_slices": 8}}}
    edit_experiment(copy, "smoke", {"set": {"data": limit}})
    jobs = planned_jobs(snakemake(copy, "--dry-run", *all_of("smoke")))
    assert jobs["slice_dataset"] == 1 and jobs["train_sr"] == 3 and jobs["evaluate"] == 4
    assert "raw_source" not in jobs
    edit_params(copy, {"data": {"sources": {"phantom": {"seed": 1}}}})
    jobs = planned_jobs(snakemake(copy, "--dry-run", *all_of("smoke")))
    assert jobs["raw_source"] == 1 and jobs["slice_dataset"] == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (seed, r"results/smoke/checkpoints/\S+/best\.pt was made with seed 0, not 5; "),
        (
            weight,
            r"proposed/best\.pt was made with losses\.texture 0\.9, not 0\.8; ",
        ),
        (
            CHANGES["a metric"][0],
            r"results/smoke/metrics/\S+\.json was made with preset\.level slice, not volume",
        ),
        (label, r"results/smoke/tables/\S+ is not what the metrics "),
        (
            CHANGES["the auto-encoder"][0],
            r"autoencoder/best\.pt was made with weights\.swap 0\.7, not 0\.5",
        ),
        (CHANGES["the pretext task"][0], r"vit/organ/best\.pt was made with seed 0, not 4"),
        (code_of_srresnet, r"srresnet/best\.pt was made with another code of the network"),
        (
            lambda project: edit_experiment(
                project,
                "smoke",
                {"set": {"data": {"datasets": {"phantom_t1": {"max_slices": 8}}}}},
            ),
            r"results/smoke/slices/phantom_t1/train\.h5 was made with max_slices 16, not 8",
        ),
        (
            lambda project: edit_params(project, {"data": {"sources": {"phantom": {"seed": 1}}}}),
            r"data/raw/phantom was made with other settings than params\.yaml has",
        ),
    ],
)
def test_line_19_adopt_vouches_for_no_file_of_other_settings(
    pulled: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    folder = Path(shutil.copytree(pulled, tmp_path / "copy", symlinks=True))
    change(folder)
    refused = run(folder, "mrsr", "adopt", "--experiment", "smoke", check=False)
    assert refused.returncode == 2, refused.stdout
    assert re.search(told, refused.stdout), refused.stdout
    assert not list((folder / ".snakemake").glob("metadata/*"))


def test_line_19_a_copied_results_folder_is_not_taken_for_todays_settings(
    pulled: Path, tmp_path: Path
) -> None:
    """dvc repro recorded 0.8 over models trained with 0.9, and Snakemake had nothing to do."""
    folder = Path(shutil.copytree(pulled, tmp_path / "copy", symlinks=True))
    assert "mrsr" not in snakemake(folder, "--dry-run", *all_of("smoke"))[:200]
    weight(folder)
    lock = (folder / "dvc.lock").read_bytes()
    for command in (["snakemake", "--cores", "1", *all_of("smoke")], ["dvc", "repro"]):
        failed = run(folder, *command, check=False)
        assert failed.returncode != 0
        assert "losses.texture 0.9, not 0.8, and Snakemake has no record of it" in failed.stdout
    assert (folder / "dvc.lock").read_bytes() == lock
    # what the line says helps
    weights = folder / "results/smoke/checkpoints/phantom_t1/x2/proposed/best.pt"
    weights.unlink()
    (folder / "results/smoke/metrics/phantom_t1/x2/proposed.json").unlink()
    jobs = planned_jobs(snakemake(folder, "--dry-run", *all_of("smoke")))
    assert jobs["train_sr"] >= 1 and jobs["evaluate"] >= 1


def test_line_19_metrics_of_another_checkpoint_are_told(pulled: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pulled, tmp_path / "copy", symlinks=True))
    file = folder / "results/smoke/metrics/phantom_t1/x2/srcnn.json"
    record = json.loads(file.read_text())
    file.unlink()
    file.write_text(json.dumps(record | {"checkpoint_sha256": "0" * 64}))
    failed = run(folder, "snakemake", "--cores", "1", *all_of("smoke"), check=False)
    assert "srcnn.json measures another network than results/smoke/" in failed.stdout


# --- line 20 --------------------------------------------------------------------------------------


def test_line_20_a_deleted_checkpoint_comes_back_by_its_stage_or_by_force(copy: Path) -> None:
    """As docs/reliability.md says: `all` looks at what it needs, `checkpoints` at the weights."""
    (copy / "results/smoke/checkpoints/phantom_t1/x2/srcnn/best.pt").unlink()
    name = ("--config", "experiment=smoke")
    assert planned_jobs(snakemake(copy, "--dry-run", "checkpoints", *name))["train_sr"] == 1
    forced = snakemake(copy, "--dry-run", "all", "--forcerun", "train_sr", *name)
    assert planned_jobs(forced)["train_sr"] == 3
