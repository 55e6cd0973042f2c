"""The whole chain with the real tools: snakemake, dvc, mlflow, on the smoke experiment.

Run: pytest -m slow tests/workflow/test_pipeline.py
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mrsr.params import loading
from project import (
    check_long_table,
    commit,
    edit_experiment,
    edit_params,
    planned_jobs,
    run,
    snakemake,
)

pytestmark = pytest.mark.slow

SMOKE = ("all", "--config", "experiment=smoke")


@pytest.fixture
def copy(smoke: Path, tmp_path: Path) -> Path:
    """A copy of that project, times kept, for tests that change it."""
    return Path(shutil.copytree(smoke, tmp_path / "copy", symlinks=True))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_benchmarks_print_rates_and_a_ratio(smoke: Path) -> None:
    rates = run(smoke, "python", "bench/rates.py", "smoke").stdout
    assert re.search(r"^ +[0-9.]+ images/s  phantom_t1/x2/srcnn$", rates, re.MULTILINE)
    cell = ("--experiment", "smoke", "--cell", "phantom_t1", "2", "srcnn", "--rounds", "1")
    told = run(smoke, "python", "bench/allocator.py", *cell).stdout
    assert re.search(r"^ratio of medians [0-9.]+$", told, re.MULTILINE)
    refused = run(smoke, "python", "bench/rates.py", "absent", check=False)
    assert refused.returncode == 1 and "run the experiment first" in refused.stdout


def test_smoke_fills_every_cell(smoke: Path) -> None:
    check_long_table(smoke / "results/smoke/tables/results.csv")
    table = pd.read_csv(smoke / "results/smoke/tables/results.csv")
    assert set(table["method"]) == {"bicubic", "srcnn", "srresnet", "proposed"}
    assert set(table["dataset"]) == {"phantom_t1"}
    assert (table["scale"] == 2).all()
    trained = table[table["method"] != "bicubic"]
    assert (trained["steps"] == 2).all()
    assert table["psnr"].between(5, 60).all()
    for name in ("table1.csv", "table1.tex", "table1.md"):
        assert (smoke / "results/smoke/tables" / name).stat().st_size > 0
    trainings = [f"phantom_t1_x2_{name}" for name in ("srcnn", "proposed", "autoencoder")]
    for name in (*trainings, "vit_segmentation", "vit_organ"):
        assert (smoke / f"results/smoke/figures/{name}.png").stat().st_size > 0
    frozen = pd.read_csv(smoke / "results/smoke/tables/frozen.csv")
    assert {"mean tissue Dice", "organ balanced accuracy"} <= set(frozen["measure"])
    assert frozen["network"].str.startswith("auto-encoder").any()
    assert not list((smoke / "results/smoke/checkpoints").rglob("resume*"))


def test_second_run_has_nothing_to_do(smoke: Path) -> None:
    assert "Nothing to be done" in snakemake(smoke, *SMOKE)


def test_a_loss_weight_replans_its_method_and_the_tables_only(copy: Path) -> None:
    edit_params(copy, {"methods": {"srresnet": {"losses": {"l1": 0.5}}}})
    plan = snakemake(copy, "--dry-run", *SMOKE)
    jobs = planned_jobs(plan)
    assert jobs == {
        "train_sr": 1,
        "evaluate": 1,
        "loss_curves": 1,
        "write_tables": 1,
        "example_images": 1,
        "draw_figures": 1,
        "write_report": 1,
        "all": 1,
    }, plan
    assert "srcnn/best.pt" not in "\n".join(
        line for line in plan.splitlines() if line.strip().startswith("output:")
    )


def test_a_weight_of_the_autoencoder_replans_what_uses_it(copy: Path) -> None:
    edit_params(copy, {"autoencoder": {"weights": {"swap": 0.5}}})
    plan = snakemake(copy, "--dry-run", *SMOKE)
    jobs = planned_jobs(plan)
    assert jobs["train_autoencoder"] == jobs["train_sr"] == jobs["evaluate"] == 1
    assert "train_vit_pretext" not in jobs and "slice_dataset" not in jobs


def test_a_metric_replans_evaluations_only(copy: Path) -> None:
    edit_params(copy, {"metrics": {"preset": "volume"}})
    jobs = planned_jobs(snakemake(copy, "--dry-run", *SMOKE))
    page = {"example_images": 1, "draw_figures": 1, "write_report": 1}
    assert jobs == {"evaluate": 4, "write_tables": 1, **page, "all": 1}


def test_a_label_replans_no_training(copy: Path) -> None:
    edit_params(copy, {"methods": {"srresnet": {"label": "Residual"}}})
    jobs = planned_jobs(snakemake(copy, "--dry-run", *SMOKE))
    assert "train_sr" not in jobs
    assert jobs["write_tables"] == 1


def test_a_bad_parameter_stops_before_any_job(copy: Path) -> None:
    edit_params(copy, {"sr": {"stepz": 1}})
    printed = snakemake(copy, *SMOKE, check=False)
    assert "sr.stepz: unknown key" in printed
    assert "Job stats" not in printed


def test_tables_from_the_tracking_store_are_identical(copy: Path) -> None:
    tables = copy / "results/smoke/tables"
    again = copy / "again"
    run(copy, "mrsr", "tables", "-e", "smoke", "--from-mlflow", "--out", str(again))
    made = digests(again)
    assert set(made) == {"results.csv", "differences.csv", "table1.csv", "table1.md", "table1.tex"}
    assert made == {name: digest for name, digest in digests(tables).items() if name in made}


def test_tracking_holds_a_run_per_training_and_evaluation(copy: Path) -> None:
    code = (
        "import json, mlflow;"
        "mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        "runs = mlflow.search_runs(search_all_experiments=True, output_format='list');"
        "print('RUNS', json.dumps([[r.data.tags.get('stage'), r.data.tags.get('method'),"
        " sorted(r.data.metrics)] for r in runs]))"
    )
    printed = run(copy, "python", "-c", code).stdout
    runs = json.loads(printed.split("RUNS ")[1].splitlines()[0])
    kinds = sorted((stage, method) for stage, method, _ in runs)
    assert len(kinds) == 10  # the ViT's two phases, the auto-encoder, three methods; four measured
    assert len({stage for stage, _ in kinds}) == 2
    for stage, method, metrics in runs:
        expected = "total" if stage == "training" else "psnr"
        assert any(expected in name for name in metrics), (stage, method)


@pytest.mark.long
def test_dvc_keeps_two_experiments_and_a_clone_adopts_them(copy: Path, tmp_path: Path) -> None:
    # demo at smoke's size, so that two tracked experiments stand side by side
    small = {"steps": 2, "batch": 2, "patch": 32, "validate_every": 2, "validation_slices": 2}
    grid = [{"datasets": ["phantom_t1"], "scales": [2], "methods": ["bicubic", "srcnn"]}]
    limits = {"datasets": {"phantom_t1": {"max_volumes": 2, "max_slices": 4}}}
    change = {"sr": small, "data": limits}
    edit_experiment(copy, "demo", {"grid": grid, "set": change})
    edit_params(copy, {"tracked": ["demo", "smoke"]})
    run(copy, "mrsr", "track")
    commit(copy)
    remote = tmp_path / "remote"
    snakemake(copy, "all", "--config", "experiment=demo")
    before = digests(copy / "results")
    printed = run(copy, "dvc", "repro").stdout
    assert printed.count("Nothing to be done") >= 8, printed
    assert digests(copy / "results") == before
    assert "psnr" in run(copy, "dvc", "metrics", "show").stdout
    run(copy, "dvc", "remote", "add", "--default", "local", str(remote))
    run(copy, "dvc", "push")
    commit(copy)

    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(copy), str(clone))
    run(clone, "dvc", "pull")
    for name in ("smoke", "demo"):
        run(clone, "mrsr", "adopt", "--experiment", name)
        target = ("all", "--config", f"experiment={name}")
        assert "Nothing to be done" in snakemake(clone, *target)
        tables = f"results/{name}/tables"
        assert digests(clone / tables) == digests(copy / tables)
    # a changed checkpoint is no longer what dvc.lock says: adopt refuses
    weights = next((clone / "results/smoke/checkpoints").rglob("best.pt"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes() + b"x")
    refused = run(clone, "mrsr", "adopt", "--experiment", "smoke", check=False)
    assert refused.returncode == 2
    assert "the files differ from DVC's record" in refused.stdout


def test_adopt_wants_a_tracked_experiment(smoke: Path) -> None:
    refused = run(smoke, "mrsr", "adopt", "--experiment", "paper", check=False)
    assert refused.returncode == 2
    assert "tracked" in refused.stdout


def test_every_experiment_plans(smoke: Path, mirror: Path) -> None:
    for name in ("demo", "openms", "paper"):
        jobs = planned_jobs(
            snakemake(
                smoke, "--dry-run", "--quiet", "rules", "all", "--config", f"experiment={name}"
            )
        )
        assert jobs["train_sr"] >= 4


def test_the_cluster_profile_is_found_and_parses(smoke: Path) -> None:
    printed = run(smoke, "snakemake", "--profile", "slurm", "all", "--dry-run").stdout
    cells = loading.load(smoke / "params.yaml", "paper").cells  # unless told otherwise
    assert planned_jobs(printed)["evaluate"] == len(cells)
