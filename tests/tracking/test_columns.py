"""What a person sees in MLflow's table of runs: names, durations, data, models, one PSNR.

Run: pytest tests/tracking/test_columns.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builders import log_lines, record, write_evaluation, write_training
from mrsr.files import sha256
from mrsr.tracking import delivery, labels, model, store


@pytest.fixture
def project(empty_store, tmp_path, monkeypatch) -> Path:
    """The root of a project, which is the current folder, with an empty store."""
    folder = tmp_path / "a project"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    return folder


def address() -> str:
    """The store in the current folder. Absolute, because MLflow keeps open what it has opened."""
    return f"sqlite:///{Path.cwd()}/mlflow.db"


def trained(folder: Path) -> Path:
    """A finished training whose log names its slice stores."""
    lines = log_lines([1, 2])
    lines[0] |= {"data": ["a" * 64, "b" * 64, "c" * 64]}
    lines[0]["provenance"]["commit"] = "c0ffee+dirty"
    return write_training(folder / "results" / "demo" / "checkpoints" / "srcnn", lines, end=True)


def measured(folder: Path, weights: Path, psnr: float = 33.3, when: float = 2000.0) -> Path:
    value = record("srcnn", 2, psnr) | {
        "started": when,
        "seconds": 12.5,
        "slices_digest": "c" * 64,
    }
    value["checkpoint_sha256"] = sha256(weights)
    return write_evaluation(folder / "results" / "demo", value)


def stored():
    """The client, the experiment, and its runs by stage."""
    client = store._client(address())
    found = client.get_experiment_by_name("demo")
    runs = client.search_runs([found.experiment_id])
    return client, found, {run.data.tags["stage"]: run for run in runs}


def test_a_row_tells_what_it_is(project):
    training = trained(project)
    assert delivery.sync(project / "results", address()) == (1, 0)
    measured(project, training / "best.pt")
    assert delivery.sync(project / "results", address()) == (2, 0)
    assert delivery.sync(project / "results", address()) == (2, 0)
    _, experiment, runs = stored()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "results/demo/report.html" in experiment.tags["mlflow.note.content"]
    one, other = runs["training"], runs["evaluation"]
    assert one.info.run_name == "srcnn 2x phantom_t1"
    assert other.info.run_name == "srcnn 2x phantom_t1 test"
    assert other.info.end_time - other.info.start_time == 12_500
    assert other.info.start_time == 2_000_000
    assert "results/demo/report.html" in one.data.tags["mlflow.note.content"]
    source = {key: one.data.tags[f"mlflow.source.{key}"] for key in ("name", "git.commit")}
    assert source == {"name": "mrsr.training.train_sr", "git.commit": "c0ffee"}
    assert one.data.tags["mlflow.source.git.dirty"] == "True"
    assert one.data.tags["cell"] == other.data.tags["cell"] == "phantom_t1 2x"
    # settings and what came of them in one row, and the evaluation below it
    assert other.data.tags["mlflow.parentRunId"] == one.info.run_id
    assert one.data.metrics["psnr"] == other.data.metrics["psnr"] == pytest.approx(33.3)
    assert one.data.params["losses.l2"] == "1.0"


def test_the_final_psnr_is_that_of_the_last_measurement_and_there_once(project):
    training = trained(project)
    measured(project, training / "best.pt")
    for _ in range(2):
        assert delivery.sync(project / "results", address()) == (2, 0)
    measured(project, training / "best.pt", 31.0, when=3000.0)
    for _ in range(2):
        assert delivery.sync(project / "results", address()) == (2, 0)
    client = store._client(address())
    experiment = client.get_experiment_by_name("demo").experiment_id
    (run,) = client.search_runs([experiment], "tags.stage = 'training'")
    points = client.get_metric_history(run.info.run_id, "psnr")
    points.sort(key=lambda point: point.timestamp)
    assert [point.value for point in points] == pytest.approx([33.3, 31.0])
    # another method's evaluation of the same weights stands below, and says nothing of this one
    value = record("ensemble", 2, 99.0) | {"checkpoint_sha256": sha256(training / "best.pt")}
    assert delivery.deliver(write_evaluation(project / "results" / "demo", value), None, address())
    again = client.get_run(run.info.run_id)
    assert again.data.metrics["psnr"] == pytest.approx(31.0)
    below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert sorted(each.data.tags["method"] for each in below) == ["ensemble", "srcnn", "srcnn"]


def test_a_record_of_an_earlier_version_lasts_as_long_as_its_forward_passes(project):
    assert delivery.deliver(
        write_evaluation(project / "results" / "demo", record()), None, address()
    )
    _, _, runs = stored()
    info = runs["evaluation"].info
    assert info.end_time - info.start_time == pytest.approx(999 * 100, abs=1)
    assert "mlflow.parentRunId" not in runs["evaluation"].data.tags  # bicubic has no training


def test_the_column_of_datasets_names_the_slice_stores(project):
    training = trained(project)
    measured(project, training / "best.pt")
    assert delivery.sync(project / "results", address()) == (2, 0)
    client, _, runs = stored()
    shown = {
        stage: {
            (item.tags[0].value, item.dataset.name, json.loads(item.dataset.source)["uri"])
            for item in client.get_run(run.info.run_id).inputs.dataset_inputs
        }
        for stage, run in runs.items()
    }
    place = "results/demo/slices/phantom_t1"
    assert shown["training"] == {
        ("training", "phantom_t1", f"{place}/train.h5"),
        ("validation", "phantom_t1", f"{place}/validation.h5"),
        ("testing", "phantom_t1", f"{place}/test.h5"),
    }
    assert shown["evaluation"] == {("testing", "phantom_t1", f"{place}/test.h5")}


def test_guides_and_the_stores_of_the_vision_transformer_are_told_apart():
    guided = {"dataset": "phantom_t2", "type": "guided"}
    found = labels.stores_of_training(guided, ["a", "b", "c", "d", "e", "f"])
    assert found[2:4] == [("phantom_t2", "c", "test"), ("phantom_t2 guide", "d", "train")]
    own = {"dataset": "openms_t1", "type": "self"}
    assert labels.stores_of_training(own, ["a"]) == [("openms_t1", "a", "test")]
    vit = {"dataset": "vit", "degradations": {"phantom_t1": "bicubic", "phantom_knee": "kspace"}}
    assert labels.stores_of_training(vit, {"train": ["a", "b"], "test": ["c", "d"]}) == [
        ("phantom_t1", "a", "train"), ("phantom_knee", "b", "train"),
        ("phantom_t1", "c", "test"), ("phantom_knee", "d", "test"),
    ]  # fmt: skip
    assert labels.stores_of_training({"dataset": "phantom_t1"}, None) == []  # an earlier log
    name = {"dataset": "vit", "scale": "1", "method": "organ"}
    assert labels.run_name("training", name) == "organ vit"


def test_the_best_checkpoint_is_a_model_with_a_signature_and_no_second_copy(project):
    folder = trained(project)
    for _ in range(2):
        assert delivery.deliver(folder, None, address())
    client, experiment, runs = stored()
    (logged,) = client.search_logged_models([experiment.experiment_id])
    run = runs["training"]
    assert (logged.name, str(logged.status)) == ("srcnn-phantom_t1-2x", "READY")
    assert logged.source_run_id == run.info.run_id
    assert logged.tags["checkpoint"] == f"runs:/{run.info.run_id}/best.pt"
    outputs = client.get_run(run.info.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [logged.model_id]
    files = list((project / "mlartifacts").rglob("*.*")) + list(
        (project / "mlartifacts").rglob("MLmodel")
    )
    assert sum(file.name == "best.pt" for file in files) == 1
    from mlflow.models import Model

    (description,) = [file for file in files if file.name == "MLmodel"]
    signature = Model.load(str(description)).signature
    assert signature.inputs.inputs[0].shape == (-1, 1, -1, -1)
    assert signature.outputs.inputs[0].name == "super_resolved"


def test_a_model_that_a_dying_server_made_twice_is_one(project, monkeypatch):
    from mlflow.tracking import MlflowClient

    create = MlflowClient.create_logged_model

    def twice(*arguments, **options):
        create(*arguments, **options)
        create(*arguments, **options)
        raise OSError("killed")

    folder = trained(project)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_logged_model", twice)
        assert not delivery.deliver(folder, None, address())
    assert delivery.deliver(folder, None, address())
    client, experiment, _ = stored()
    assert len(client.search_logged_models([experiment.experiment_id])) == 1


def test_the_model_card_says_what_the_log_says():
    lines = log_lines([1, 2])
    lines.append({"event": "warning", "text": "below bicubic"})
    lines.append({"event": "end", "time": 1100.0, "seconds": 100.0, "best_step": 2})
    text = model.card(lines)
    for part in (
        *("# srcnn, phantom_t1, 2x", "not for diagnosis", "| best validation | psnr 32 |"),
        *('| losses | {"l2": 1.0} |', "| commit | c0ffee |", "Warning: below bicubic"),
        "mrsr enhance scan.nii.gz",
    ):
        assert part in text, part


def test_artifacts_are_found_after_the_folder_was_moved(project, monkeypatch):
    assert delivery.deliver(trained(project), None, address())
    moved = project.rename(project.with_name("elsewhere"))
    monkeypatch.chdir(moved)
    client, _, runs = stored()
    run = runs["training"].info.run_id
    assert "best.pt" in {file.path for file in client.list_artifacts(run)}
    with open(client.download_artifacts(run, "card.md", str(moved.parent))) as text:
        assert "# srcnn" in text.read()


def test_a_store_of_an_earlier_version_is_made_movable(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "relative_places", lambda uri: None)
        patch.setattr(store, "relative_places", lambda uri: None)
        assert delivery.deliver(trained(project), None, address())
        _, _, runs = stored()
        assert runs["training"].info.artifact_uri.startswith("file:///")
    moved = project.rename(project.with_name("elsewhere"))
    monkeypatch.chdir(moved)
    assert store.init_store(address())  # what a run of the workflow, and `mrsr sync`, begin with
    client, _, runs = stored()
    assert runs["training"].info.artifact_uri.startswith("mlartifacts/demo/")
    run = runs["training"].info.run_id
    assert "best.pt" in {file.path for file in client.list_artifacts(run)}
