"""MLflow gets everything once, and never stops anybody. Run: pytest tests/tracking/test_tracking.py"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrsr.errors import UserError
from mrsr.tables.tables import write_tables
from mrsr.tracking import delivery, store

SETTINGS = {
    **{"experiment": "demo", "dataset": "phantom_t1", "scale": 2, "method": "srcnn"},
    **{"model": {"name": "srcnn", "options": {}}, "losses": {"l2": 1.0}, "steps": 6},
}
PRESET = {
    **{"name": "slice", "level": "slice", "data_range": "slice_max", "border": 0},
    **{"window": "gaussian", "window_size": 11, "sigma": 1.5, "k1": 0.01, "k2": 0.03},
    **{"covariance": "population", "clip": False},
}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store initialised once; tests copy it."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert store.init_store(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(empty_store, tmp_path):
    (tmp_path / "store").mkdir()
    shutil.copy(empty_store, tmp_path / "store" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"


def log_lines(steps, when=1000.0):
    start = {"event": "start", "time": 1000.0, "settings": SETTINGS, "digest": "abc"}
    lines = [start | {"provenance": {"commit": "c0ffee"}}]
    for step in steps:
        metrics = {"total": 1.0 / step, "lr": 1e-3, "odd": None}
        lines.append({"time": when + step, "step": step, "split": "train", "metrics": metrics})
        if step % 2 == 0:
            metrics = {"psnr": 30.0 + step}
            line = {"time": when + step, "step": step, "split": "validation", "metrics": metrics}
            lines.append(line)
    return lines


def training(folder: Path, lines: list[dict], end: bool = False, tail: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if end:
        lines = [*lines, {"event": "end", "time": 1100.0, "seconds": 100.0}]
        (folder / "best.pt").write_bytes(b"weights")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def record(method="bicubic", scale=2, psnr=31.123456789012345):
    metric = {"mean": psnr, "low": psnr - 1 / 3, "high": psnr + 0.1}
    return {
        **{"format": 1, "experiment": "demo", "dataset": "phantom_t1", "scale": scale},
        **{
            "method": method,
            "preset": PRESET,
            "subjects": [f"subject-{i:04d}" for i in range(400)],
        },
        **{"n_subjects": 400, "n_slices": 999, "psnr": metric, "interval": "95 %"},
        **{"ssim": {"mean": 0.9, "low": None, "high": None}, "settings_digest": "def"},
        **{"nmse": {"mean": 1 / 300, "low": None, "high": None}, "seconds_per_slice": 0.1},
        **{"parameters": 8129, "steps": 6, "patches": 96, "commit": "c0ffee"},
        "per_subject": {f"subject-{i:04d}": {"psnr": 1.0 * i} for i in range(400)},
    }


def evaluation(folder: Path, value: dict) -> Path:
    file = folder / "metrics" / "phantom_t1" / f"x{value['scale']}" / f"{value['method']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    file.with_suffix(".csv").write_text("psnr\n1\n")
    return file


def runs(uri, stage):
    client = store._client(uri)
    found = client.get_experiment_by_name("demo")
    return client, client.search_runs([found.experiment_id], f"tags.stage = '{stage}'")


def history(client, run, name):
    points = client.get_metric_history(run.info.run_id, name)
    return [(p.step, p.value, p.timestamp) for p in sorted(points, key=lambda p: p.step)]


def test_a_training_arrives_once_in_whatever_pieces(tmp_path, uri, capsys):
    folder = tmp_path / "srcnn"
    assert delivery.deliver(training(folder, log_lines([1, 2, 3]), tail='{"time": 1'), None, uri)
    # killed, gone on from step 2: step 3 is written again, at another time
    again = log_lines([1, 2]) + log_lines([3, 4, 5, 6], when=2000.0)[1:]
    training(folder, again, end=True)
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
    assert names == {"best.pt", "log.jsonl", "curves.png"}
    assert capsys.readouterr().err == ""


def test_a_delivery_killed_between_two_batches_is_completed(tmp_path, uri, monkeypatch):
    monkeypatch.setattr(delivery, "CHUNK", 4)
    folder = training(tmp_path / "srcnn", log_lines(range(1, 7)), end=True)
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
    folder = training(tmp_path / "srcnn", log_lines([1, 2]), end=True)
    assert delivery.deliver(folder, None, uri) and delivery.deliver(folder, None, uri)
    client, (run,) = runs(uri, "training")
    assert [step for step, *_ in history(client, run, "train/total")] == [1, 2]


def test_tables_from_the_store_are_the_tables_from_the_files(tmp_path, uri):
    files = [
        evaluation(tmp_path / "results" / "demo", record(method, scale, psnr))
        for method, scale, psnr in (("bicubic", 2, 31.1), ("srcnn", 2, 33.3), ("srcnn", 4, 27.2))
    ]
    old = evaluation(tmp_path / "results" / "demo", record("srcnn", 4, 1.0))
    assert delivery.deliver(old, None, uri)
    evaluation(tmp_path / "results" / "demo", record("srcnn", 4, 27.2))  # measured again
    training(tmp_path / "results" / "demo" / "checkpoints", log_lines([1, 2]), end=True)
    (tmp_path / "results" / "demo" / "other.json").write_text("{}")
    assert delivery.sync(tmp_path / "results" / "demo", uri) == (4, 0)
    assert delivery.sync(tmp_path / "results", uri) == (4, 0)
    assert len(runs(uri, "evaluation")[1]) == 4  # the old measurement stays, as a run

    methods = [{"key": key, "label": key, "kind": "baseline"} for key in ("bicubic", "srcnn")]
    settings = {
        **{"experiment": "demo", "tables": {"table1": ["phantom_t1"]}, "scales": [2, 4]},
        **{"datasets": {"phantom_t1": "Phantom T1"}, "methods": methods, "preset": PRESET},
    }
    local = write_tables(files, settings, tmp_path / "local")
    stored = write_tables(delivery.from_mlflow("demo", uri), settings, tmp_path / "stored")
    assert [file.name for file in local] == [file.name for file in stored]
    for left, right in zip(local, stored, strict=True):
        assert left.read_bytes() == right.read_bytes()

    client, found = runs(uri, "evaluation")
    run = next(r for r in found if r.data.tags["mrsr.current"] == "true")
    assert {a.path for a in client.list_artifacts(run.info.run_id)} >= {"srcnn.json", "srcnn.csv"}
    assert run.data.metrics["psnr.mean"] == pytest.approx(27.2)
    # an older measurement brought back (dvc checkout) is the current one again
    evaluation(tmp_path / "results" / "demo", record("srcnn", 4, 1.0))
    assert delivery.deliver(old, None, uri)
    current = {(r["method"], r["scale"]): r["psnr"] for r in delivery.from_mlflow("demo", uri)}
    assert len(current) == 3 and current["srcnn", 4]["mean"] == 1.0
    with pytest.raises(UserError, match="no evaluations of experiment 'paper'"):
        delivery.from_mlflow("paper", uri)


def test_a_dead_server_costs_one_line_and_seconds(tmp_path, capsys):
    uri = "http://user:secret@127.0.0.1:9"
    folder = training(tmp_path / "results" / "demo" / "srcnn", log_lines([1, 2]))
    evaluation(tmp_path / "results" / "demo", record())
    began = time.monotonic()
    assert not delivery.deliver(folder, None, uri)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "127.0.0.1:9" in error and "secret" not in error
    assert not delivery.deliver(folder, None, uri)  # the next minute's: said already
    assert capsys.readouterr().err == ""
    assert delivery.sync(tmp_path / "results", uri) == (0, 2)
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as stop:
        delivery.from_mlflow("demo", uri)
    assert "secret" not in str(stop.value)
    assert time.monotonic() - began < 60


def test_off_and_broken_inputs(tmp_path, uri, capsys, monkeypatch):
    folder = training(tmp_path / "results" / "demo" / "srcnn", log_lines([1]))
    with monkeypatch.context() as patch:
        patch.setenv("MRSR_TRACKING", "off")
        assert store.init_store(f"sqlite:///{tmp_path}/none.db")
        assert delivery.deliver(tmp_path, None, f"sqlite:///{tmp_path}/none.db") is False
        assert not (tmp_path / "none.db").exists()
    off = SimpleNamespace(tracking=SimpleNamespace(enabled=False))
    assert not delivery.deliver(folder, off, "sqlite:////no/such/folder/x.db")
    assert capsys.readouterr().err == ""
    (folder / "log.jsonl").write_text("garbage\n")
    evaluation(tmp_path / "results" / "demo", record())
    assert delivery.sync(tmp_path / "results", uri) == (
        1,
        1,
    )  # the broken one does not keep the other
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
    assert not delivery.deliver(evaluation(tmp_path, record()), None, uri)
    assert capsys.readouterr().err.count("warning: ") == 2


def test_importing_needs_the_standard_library_alone():
    code = "import sys, mrsr.tracking.delivery; bad = {'mlflow', 'tqdm', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit(str(bad) if bad else 0)"], check=True)


@pytest.mark.slow
def test_writers_at_once_on_a_store_nobody_initialised(tmp_path):
    code = "import sys; from mrsr import tracking; sys.exit(not tracking.deliver(sys.argv[1]))"
    writers = []
    for name in ("bicubic", "srcnn", "srresnet", "rdn"):
        file = evaluation(tmp_path, record(name))
        command = [sys.executable, "-W", "error", "-c", code, str(file)]
        writers.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
    for writer in writers:
        assert writer.communicate(timeout=120)[1] == "" and writer.returncode == 0
    assert len(delivery.from_mlflow("demo", f"sqlite:///{tmp_path / 'mlflow.db'}")) == 4
