"""MLflow gets everything once, and never stops anybody.

Run: pytest tests/tracking/test_tracking.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from builders import log_lines, record, two_methods, write_evaluation, write_training
from mrsr.errors import UserError
from mrsr.method import losses
from mrsr.tables.tables import write_tables
from mrsr.tracking import delivery, reading, store


@pytest.fixture
def uri(empty_store, tmp_path):
    (tmp_path / "store").mkdir()
    shutil.copy(empty_store, tmp_path / "store" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"


def runs(uri, stage):
    client = store._client(uri)
    found = client.get_experiment_by_name("demo")
    return client, client.search_runs([found.experiment_id], f"tags.stage = '{stage}'")


def history(client, run, name):
    points = client.get_metric_history(run.info.run_id, name)
    return [(p.step, p.value, p.timestamp) for p in sorted(points, key=lambda p: p.step)]


def test_a_training_arrives_once_in_whatever_pieces(tmp_path, uri, capsys):
    folder = tmp_path / "srcnn"
    assert delivery.deliver(
        write_training(folder, log_lines([1, 2, 3]), tail='{"time": 1'), None, uri
    )
    # killed, gone on from step 2: step 3 is written again, at another time
    again = log_lines([1, 2]) + log_lines([3, 4, 5, 6], when=2000.0)[1:]
    write_training(folder, again, end=True)
    for _ in range(3):
        assert delivery.deliver(folder, None, uri)
    client, (run,) = runs(uri, "training")
    assert history(client, run, "train/total") == [
        *((step, 1 / step, 1_001_000 + 1000 * (step - 1)) for step in (1, 2, 3)),
        *((step, 1 / step, 2_001_000 + 1000 * (step - 1)) for step in (4, 5, 6)),
    ]
    assert [step for step, *_ in history(client, run, "validation/psnr")] == [2, 4, 6]
    assert run.data.params["model.name"] == "srcnn" and run.data.params["losses.l2"] == "1.0"
    labels = {"experiment": "demo", "dataset": "phantom_t1", "scale": "2", "method": "srcnn"}
    assert labels.items() <= run.data.tags.items()
    assert run.data.tags["commit"] == "c0ffee" and run.data.tags["digest"] == "abc"
    assert run.info.status == "FINISHED" and run.info.end_time == 1_100_000
    names = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert names == {"best.pt", "log.jsonl", "curves.png", "card.md"}
    assert capsys.readouterr().err == ""


def test_line_18_a_loss_that_a_run_does_not_have_is_logged_as_0(tmp_path, uri):
    """MLflow draws a run without the parameter above all others: 1.01 for weights up to 1."""
    delivery.deliver(write_training(tmp_path / "srcnn", log_lines([1]), end=True), None, uri)
    weights = {"l1": 1.0, "vit": 0.5}
    value = record("vit_only") | {"losses": weights, "own_losses": weights | {"texture": 0.9}}
    delivery.deliver(write_evaluation(tmp_path, value), None, uri)
    delivery.deliver(write_evaluation(tmp_path, record() | {"losses": {}}), None, uri)  # untrained
    _, (training,) = runs(uri, "training")
    assert training.data.params["losses.l2"] == "1.0"
    _, evaluations = runs(uri, "evaluation")
    params = {run.data.tags["method"]: run.data.params for run in evaluations}
    for name in losses.LOSSES:
        assert name == "l2" or training.data.params[f"losses.{name}"] == "0.0"
        expected = str(weights.get(name, 0.0))
        assert params["vit_only"][f"losses.{name}"] == expected
    assert params["vit_only"]["own_losses.texture"] == "0.9"
    assert not any(key.startswith("losses.") for key in params["bicubic"])


def test_a_delivery_killed_between_two_batches_is_completed(tmp_path, uri, monkeypatch):
    monkeypatch.setattr(delivery, "CHUNK", 4)
    folder = write_training(tmp_path / "srcnn", log_lines(range(1, 7)), end=True)
    points, sent = delivery._points, []

    def killed(*arguments):
        sent.append(arguments)
        if len(sent) == 6:
            raise OSError("killed")
        return points(*arguments)

    monkeypatch.setattr(delivery, "_points", killed)
    assert not delivery.deliver(folder, None, uri)
    monkeypatch.setattr(delivery, "_points", points)
    assert delivery.deliver(folder, None, uri)
    client, (run,) = runs(uri, "training")
    assert [step for step, *_ in history(client, run, "train/total")] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_a_dying_server_made_twice_is_one(tmp_path, uri, monkeypatch):
    from mlflow.tracking import MlflowClient

    create = MlflowClient.create_run

    def twice(*arguments, **options):  # the first answer was lost, and the request sent again
        create(*arguments, **options)
        return create(*arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    folder = write_training(tmp_path / "srcnn", log_lines([1, 2]), end=True)
    assert delivery.deliver(folder, None, uri) and delivery.deliver(folder, None, uri)
    client, (run,) = runs(uri, "training")
    assert [step for step, *_ in history(client, run, "train/total")] == [1, 2]


def test_tables_from_the_store_are_the_tables_from_the_files(tmp_path, uri):
    files = [
        write_evaluation(tmp_path / "results" / "demo", record(method, scale, psnr))
        for method, scale, psnr in (("bicubic", 2, 31.1), ("srcnn", 2, 33.3), ("srcnn", 4, 27.2))
    ]
    old = write_evaluation(tmp_path / "results" / "demo", record("srcnn", 4, 1.0))
    assert delivery.deliver(old, None, uri)
    write_evaluation(tmp_path / "results" / "demo", record("srcnn", 4, 27.2))  # measured again
    write_training(tmp_path / "results" / "demo" / "checkpoints", log_lines([1, 2]), end=True)
    (tmp_path / "results" / "demo" / "other.json").write_text("{}")
    assert delivery.sync(tmp_path / "results" / "demo", uri) == (4, 0)
    assert delivery.sync(tmp_path / "results", uri) == (4, 0)
    assert len(runs(uri, "evaluation")[1]) == 4  # the old measurement stays, as a run

    settings = two_methods()
    local = write_tables(files, settings, tmp_path / "local")
    stored = write_tables(reading.from_mlflow("demo", uri), settings, tmp_path / "stored")
    assert [file.name for file in local] == [file.name for file in stored]
    for left, right in zip(local, stored, strict=True):
        assert left.read_bytes() == right.read_bytes()

    client, found = runs(uri, "evaluation")
    run = next(r for r in found if r.data.tags["mrsr.current"] == "true")
    assert {a.path for a in client.list_artifacts(run.info.run_id)} >= {"srcnn.json", "srcnn.csv"}
    assert run.data.metrics["psnr"] == pytest.approx(27.2)
    # an older measurement brought back (dvc checkout) is the current one again
    write_evaluation(tmp_path / "results" / "demo", record("srcnn", 4, 1.0))
    assert delivery.deliver(old, None, uri)
    current = {(r["method"], r["scale"]): r["psnr"] for r in reading.from_mlflow("demo", uri)}
    assert len(current) == 3 and current["srcnn", 4]["mean"] == 1.0
    with pytest.raises(UserError, match="no evaluations of experiment 'paper'"):
        reading.from_mlflow("paper", uri)


def test_a_dead_server_costs_one_line_and_seconds(tmp_path, capsys):
    uri = "http://user:secret@127.0.0.1:9"
    folder = write_training(tmp_path / "results" / "demo" / "srcnn", log_lines([1, 2]))
    write_evaluation(tmp_path / "results" / "demo", record())
    began = time.monotonic()
    assert not delivery.deliver(folder, None, uri)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "127.0.0.1:9" in error and "secret" not in error
    assert not delivery.deliver(folder, None, uri)  # the next minute's: said already
    assert capsys.readouterr().err == ""
    assert delivery.sync(tmp_path / "results", uri) == (0, 2)
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as stop:
        reading.from_mlflow("demo", uri)
    assert "secret" not in str(stop.value)
    assert time.monotonic() - began < 60


def test_off_and_broken_inputs(tmp_path, uri, capsys, monkeypatch):
    folder = write_training(tmp_path / "results" / "demo" / "srcnn", log_lines([1]))
    with monkeypatch.context() as patch:
        patch.setenv("MRSR_TRACKING", "off")
        assert store.init_store(f"sqlite:///{tmp_path}/none.db")
        assert delivery.deliver(tmp_path, None, f"sqlite:///{tmp_path}/none.db") is False
        assert not (tmp_path / "none.db").exists()
    off = SimpleNamespace(tracking=SimpleNamespace(enabled=False))
    assert not delivery.deliver(folder, off, "sqlite:////no/such/folder/x.db")
    assert capsys.readouterr().err == ""
    (folder / "log.jsonl").write_text("garbage\n")
    write_evaluation(tmp_path / "results" / "demo", record())
    # the broken one does not keep the other
    assert delivery.sync(tmp_path / "results", uri) == (1, 1)
    assert "line 1: not a JSON object" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    assert not delivery.deliver(folder, None, uri)
    assert "is not installed" in capsys.readouterr().err
    with pytest.raises(UserError, match="no folder"):
        delivery.sync(tmp_path / "none")


def test_a_store_that_is_no_database_is_a_warning(tmp_path, capsys):
    (tmp_path / "bad.db").write_text("not a database, but longer than a header " * 20)
    uri = f"sqlite:///{tmp_path / 'bad.db'}"
    assert not store.init_store(uri)
    assert not delivery.deliver(write_evaluation(tmp_path, record()), None, uri)
    assert capsys.readouterr().err.count("warning: ") == 2


def test_importing_needs_the_standard_library_alone():
    heavy = "{'mlflow', 'tqdm', 'torch', 'numpy', 'pydantic', 'yaml'}"
    code = f"import sys, mrsr.tracking.delivery; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_writers_at_once_on_a_store_nobody_initialised(tmp_path):
    code = (
        "import sys; from mrsr.tracking.delivery import deliver; sys.exit(not deliver(sys.argv[1]))"
    )
    writers = []
    for name in ("bicubic", "srcnn", "srresnet", "rdn"):
        file = write_evaluation(tmp_path, record(name))
        command = [sys.executable, "-W", "error", "-c", code, str(file)]
        writers.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
    for writer in writers:
        assert writer.communicate(timeout=120)[1] == "" and writer.returncode == 0
    assert len(reading.from_mlflow("demo", f"sqlite:///{tmp_path / 'mlflow.db'}")) == 4


def test_line_16_an_experiment_that_was_deleted_in_the_store(tmp_path, uri, capsys):
    files = [write_evaluation(tmp_path / "results" / "demo", record(scale=s)) for s in (2, 4)]
    assert delivery.deliver(files[0], None, uri)
    client = store._client(uri)
    client.delete_experiment(client.get_experiment_by_name("demo").experiment_id)
    capsys.readouterr()
    assert delivery.sync(tmp_path / "results", uri) == (0, 2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1, "once, not for every record"
    restore = re.search(r"`mlflow (experiments restore -x \d+)`", told)
    assert restore and "experiment 'demo' was deleted there" in told
    with pytest.raises(UserError, match="was deleted there; bring it back with"):
        reading.from_mlflow("demo", uri)
    # what the line says to do
    client.restore_experiment(restore[1].split()[-1])
    assert delivery.sync(tmp_path / "results", uri) == (2, 0)
    assert len(reading.from_mlflow("demo", uri)) == 2
