"""`make gpu` without a GPU: parts that end, fail and take too long, and a whole run on a CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from builders import discs, write_store
from mrsr.errors import UserError
from project import ROOT

# what a bare machine does not have
ABSENT = ("pydantic", "nibabel", "monai", "snakemake", "mlflow", "pandas", "typer", "rich", "yaml",
          "matplotlib", "requests", "einops", "nilearn", "hypothesis", "dvc")  # fmt: skip


def module(name: str) -> ModuleType:
    """A script of bench/gpu."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", ROOT / "bench/gpu" / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look there
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return module("run")


@pytest.fixture
def run(gpu: ModuleType, tmp_path: Path) -> Any:
    """A run of a minute on no machine in particular."""
    found = {"minutes": 1.0, "machine": {"device": "cpu"}, "dataset": "toy", "scale": 2}
    return gpu.Run(tmp_path, time.monotonic() + 60, found)


@pytest.mark.parametrize(
    ("code", "state"),
    [("print('fine')", "done"), ("raise SystemExit('no')", "failed"), ("", "done")],
)
def test_a_part_ends_in_a_state(run: Any, code: str, state: str) -> None:
    done = run.part("some", [sys.executable, "-c", code], 30)
    assert done.state == state
    assert done.said == {"print('fine')": ["fine"], "": []}.get(code, ["no"])


def test_a_part_is_ended_when_its_time_is_over(
    run: Any, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that does not listen."""
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    deaf = "import signal, time; signal.signal(15, lambda *_: None); print('on', flush=True)\n"
    done = run.part("deaf", [sys.executable, "-c", deaf + "while True: time.sleep(0.01)"], 1.5)
    assert done.state == "cut off" and done.seconds < 10


def test_a_stopped_run_leaves_no_part_behind(run: Any, gpu: ModuleType, tmp_path: Path) -> None:
    """Also where the signal comes before the part has started."""
    run.stopped = "SIGTERM"
    sleep = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    with pytest.raises(gpu.Stopped, match="SIGTERM"):
        run.part("sleep", [sys.executable, "-c", sleep + "time.sleep(600)"], 30)
    told = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    assert not told or not Path("/proc", told).exists()


FAKE = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
name, out = given["--job"], pathlib.Path(given["--out"])
if name == "broken":
    sys.exit("mrsr: error: nothing to see")
out.mkdir(parents=True)
(out / "best.pt").write_bytes(b"x" * (17_000_000 if name == "large" else 5))
psnr = {"validation": {"network": 31.0, "bicubic": 30.0}, "test": {"network": 29, "bicubic": 28}}
(out / "result.json").write_text(json.dumps({"steps": 9, "seconds": 3, "step_seconds": 0.1,
                                             "psnr": psnr}))
"""


@pytest.fixture
def fake(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that take no time."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(gpu, "TRAINING", tmp_path / "fake.py")


def jobs(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "share": 1.0} for name in names]


@pytest.mark.usefixtures("fake")
def test_trainings_are_told_as_they_end(run: Any, gpu: ModuleType, tmp_path: Path) -> None:
    gpu.trainings(run, tmp_path, jobs("good", "broken", "large"))
    table = json.loads((tmp_path / "results.json").read_text())["trainings"]
    assert [entry["state"] for entry in table.values()] == ["done", "failed", "done"]
    assert table["good"]["psnr"]["test"] == {"network": 29, "bicubic": 28}
    assert (tmp_path / "checkpoints/good.pt").read_bytes() == b"xxxxx"
    assert table["large"]["checkpoint"] == "left out: 17 MB"
    assert not (tmp_path / "checkpoints/large.pt").exists()
    text = (tmp_path / "results.md").read_text()
    assert "| good | done | 9 | 3 | 100.0 | 31.00 (30.00) | 29.00 (28.00) |" in text
    assert "| broken | failed mrsr: error: nothing to see |" in text


@pytest.mark.usefixtures("fake")
def test_what_is_done_is_kept_and_the_rest_begins_again(
    run: Any, gpu: ModuleType, tmp_path: Path
) -> None:
    run.found["trainings"] = {"good": {"state": "done", "mark": 1, "steps": 1, "seconds": 1,
                                       "step_seconds": 1, "checkpoint": ""},
                              "second": {"state": "cut off"}}  # fmt: skip
    gpu.trainings(run, tmp_path, jobs("good", "second"))
    assert run.found["trainings"]["good"]["mark"] == 1
    assert run.found["trainings"]["second"]["steps"] == 9


@pytest.mark.usefixtures("fake")
def test_without_time_nothing_starts(run: Any, gpu: ModuleType, tmp_path: Path) -> None:
    run.end = time.monotonic() + 10
    gpu.trainings(run, tmp_path, jobs("good"))
    assert run.found["trainings"]["good"]["state"] == "not started: no time was left"


def test_an_earlier_run_counts_if_it_is_of_the_same_pack(gpu: ModuleType, tmp_path: Path) -> None:
    same = {"minutes": 1.0, "digest": "a"}
    kept = {**same, "trainings": {"good": {"state": "done"}}}
    (tmp_path / "results.json").write_text(json.dumps(kept))
    (tmp_path / "work").mkdir()
    assert gpu._kept(tmp_path, same, fresh=False) == kept
    assert gpu._kept(tmp_path, {**same, "digest": "b"}, fresh=False) == {**same, "digest": "b"}
    assert not (tmp_path / "work").exists()
    (tmp_path / "results.json").write_text('{"half')
    assert gpu._kept(tmp_path, same, fresh=False) == same


def test_without_a_pack_there_is_a_line(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--pack", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has no jobs.json; run `python bench/gpu/pack.py`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny experiment with its stores, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, split in enumerate(("train", "validation", "test")):
        volumes = [(1000 * data).astype("int16") for data in discs(seed, (6, 64, 64))]
        store = tmp_path / f"results/tiny_gpu/slices/phantom_t1/{split}.h5"
        write_store(store, volumes, dataset="phantom_t1", digest=split)
    content = {
        "description": "tiny", "about": "", "size": "tiny",
        "grid": [{"datasets": ["phantom_t1"], "scales": [2],
                  "methods": ["bicubic", "srresnet", "proposed"]}],
        "tables": {"table1": ["phantom_t1"]},
        "vit_data": {"labelled": ["phantom_t1"], "pool": ["phantom_t1", "phantom_knee"]},
    }  # fmt: skip
    (tmp_path / "tiny_gpu.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "tiny_gpu.yaml"


def test_the_pack_has_slices_and_settings(experiment: Path, tmp_path: Path) -> None:
    pack = module("pack")
    out = tmp_path / "pack"
    pack.main(["--experiment", str(experiment), "--params", str(ROOT / "params.yaml"),
               "--out", str(out)])  # fmt: skip
    content = json.loads((out / "jobs.json").read_text())
    names = [job["name"] for job in content["jobs"]]
    assert names == ["srresnet", "vit", "autoencoder", "proposed"]
    assert content["jobs"][-1]["needs"] == ["vit", "autoencoder"]
    assert content["jobs"][0]["settings"]["model"]["options"]["features"] == 8
    assert sorted(path.name for path in (out / "stores").iterdir()) == [
        "test.h5", "train.h5", "validation.h5",
    ]  # fmt: skip


def test_what_cannot_be_carried_is_refused(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = module("pack")
    monkeypatch.setattr(pack, "LARGEST", 1000)
    with pytest.raises(UserError, match="MB of slices, and 0 can be carried"):
        pack.pack(str(experiment), tmp_path / "pack", ROOT / "params.yaml")
    assert not (tmp_path / "pack").exists()
    with pytest.raises(UserError, match="one dataset at one scale"):
        pack.pack("demo", tmp_path / "pack", ROOT / "params.yaml")


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds none of ABSENT."""
    (tmp_path / "absent").mkdir()
    for name in ABSENT:
        line = f"raise ModuleNotFoundError('a bare machine has no {name}', name='{name}')\n"
        (tmp_path / "absent" / f"{name}.py").write_text(line)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "absent"), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kind_of_training_on_a_bare_machine(
    experiment: Path, tmp_path: Path, bare: dict[str, str]
) -> None:
    """The ViT from random weights, the auto-encoder, and the method that looks through both."""
    module("pack").pack(str(experiment), tmp_path / "pack", ROOT / "params.yaml")
    path = os.pathsep.join((str(ROOT / "src"), bare["PYTHONPATH"]))
    results = {}
    for name in ("srresnet", "vit", "autoencoder", "proposed"):
        command = [sys.executable, str(ROOT / "bench/gpu/training.py"), "--job", name]
        command += ["--pack", str(tmp_path / "pack"), "--out", str(tmp_path / "work" / name)]
        command += ["--until", str(time.time() + 600), "--steps", "6"]
        done = subprocess.run(
            command, env={**bare, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        results[name] = json.loads((tmp_path / "work" / name / "result.json").read_text())
    assert {result["steps"] for result in results.values()} == {6}
    for name in ("srresnet", "proposed"):
        for split in ("validation", "test"):
            psnr = results[name]["psnr"][split]
            assert 10 < psnr["bicubic"] < 60
            assert 0 < abs(psnr["network"] - psnr["bicubic"]) < 10
    assert "psnr" not in results["vit"]


@pytest.mark.slow
def test_a_training_without_its_frozen_networks_is_a_line(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module("pack").pack(str(experiment), tmp_path / "pack", ROOT / "params.yaml")
    training = module("training")
    words = ["--pack", str(tmp_path / "pack"), "--until", "0", "--out", str(tmp_path / "w/p")]
    for job, said in (("proposed", "needs the vit"), ("nothing", "no job 'nothing'")):
        with pytest.raises(SystemExit) as caught:
            training.main([*words, "--job", job])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_on_a_bare_machine(experiment: Path, tmp_path: Path, bare: dict[str, str]) -> None:
    """Stopped at once and started again, it ends in time and tells of each part how it ended.

    How far the trainings get depends on the machine; test_every_kind_of_training has one of each.
    """
    module("pack").pack(str(experiment), tmp_path / "pack", ROOT / "params.yaml")
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "bench/gpu/run.py"), "--minutes", "1"]
    command += ["--pack", str(tmp_path / "pack"), "--out", str(out)]
    first = subprocess.Popen(command, env=bare, stdout=subprocess.DEVNULL)
    while not (out / "results.json").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 75
    assert json.loads((out / "results.json").read_text())["dataset"] == "phantom_t1"
    began = time.monotonic()
    done = subprocess.run(command, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60 + 120  # importing torch may take a busy machine a minute
    found = json.loads((out / "results.json").read_text())
    assert found["tests"]["state"] == "skipped"
    assert found["benchmarks"]["floor"]["state"] in ("done", "cut off")
    assert list(found["trainings"]) == ["srresnet", "vit", "autoencoder", "proposed"]
    for name, entry in found["trainings"].items():
        assert entry["state"] in ("done", "cut off", "failed", "not started: no time was left")
        if entry["state"] == "failed":
            assert "give it more time" in entry["said"][-1] or "in time" in entry["said"][-1], entry
        assert f"| {name} | {entry['state']}" in (out / "results.md").read_text()


@pytest.mark.slow
def test_the_tests_of_a_gpu_run_on_a_cpu(tmp_path: Path) -> None:
    """As `make gpu` starts them, without plugins; where there is no GPU they say so."""
    folder = ROOT / "tests/gpu"
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini"), str(folder)]
    command += ["--confcutdir", str(folder), "-p", "no:cacheprovider", "-rs", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1",
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MRSR_TEST_DEVICE": "cpu"}  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "5 passed, 1 skipped" in done.stdout
