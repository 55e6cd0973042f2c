"""The training command on a tiny store: `pytest tests/training/test_train_sr.py`.

`python tests/test_train_sr.py` rewrites the golden loss curve, after a change that is meant to
alter results.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mrsr import checkpoint
from mrsr.errors import Diverged
from mrsr.method import losses
from mrsr.tracking import delivery
from mrsr.training import train_sr
from project import ROOT

GOLDEN = ROOT / "tests" / "data" / "golden_srresnet.json"


def write_store(path: Path, seed: int, slices: int = 6, size: int = 32) -> Path:
    """A slice store of smooth blobs with edges, in the layout of store.py."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    volume = np.zeros((slices, size, size))
    for image in volume:
        for _ in range(6):
            cy, cx, radius = [*rng.uniform(0.2, 0.8, 2).tolist(), rng.uniform(0.05, 0.3)]
            image += rng.uniform(0.2, 1.0) * (np.hypot(y - cy, x - cx) < radius)
        image += 0.3 * np.sin(20 * x * rng.uniform(0.5, 1.5)) ** 2
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset="toy", organ="brain", contrast="T1", split="train")
        file.attrs.update(settings="{}", digest=f"toy{seed}")
        group = file.create_group("volumes/0000")
        group.attrs.update(subject="s0", visit="", path="s0.nii.gz", slope=1.0, intercept=0.0)
        group.attrs.update(scale=float(volume.max()), slice_index=list(range(slices)))
        group.attrs.update(affine=np.eye(4), voxel_size=[1.0, 1.0, 1.0])
        group.create_dataset("data", data=volume.astype("float32"), chunks=(1, size, size))
    return path


def settings(**changes: object) -> dict[str, object]:
    """Settings of a training of seconds."""
    return {
        "experiment": "toy", "dataset": "toy", "scale": 2, "method": "srresnet",
        "degradation": "bicubic",
        "model": {
            "name": "srresnet",
            "options": {"features": 8, "blocks": 1, "norm": "none", "skip": "bicubic"},
        },
        "losses": {"l1": 1.0}, "steps": 10, "batch": 4, "micro_batch": 0, "patch": 16,
        "optimizer": {
            "name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.1,
            "decoupled": True,
        },
        "schedule": {"kind": "cosine", "warmup": 2, "floor": 0.01}, "clip_gradient": 0.0,
        "augment": True, "seed": 0, "validate_every": 5, "checkpoint_every": 2, "log_every": 1,
        "validation_slices": 2, "test_curve": True, "precision": "auto", "compile": False,
        "channels_last": "auto", "device": "cpu", "threads": 1, "explode": 1e4,
        "tracking": {"enabled": False},
        **changes,
    }  # fmt: skip


def command(folder: Path, changes: dict[str, object], out: str = "run") -> list[str]:
    """Arguments of one training on the stores in `folder`, made if they are not there."""
    for number, split in enumerate(("train", "validation", "test")):
        if not (folder / f"{split}.h5").exists():
            write_store(folder / f"{split}.h5", number)
    return [
        "--settings", json.dumps(settings(**changes)),
        "--train", str(folder / "train.h5"), "--validation", str(folder / "validation.h5"),
        "--test", str(folder / "test.h5"), "--out", str(folder / out / "best.pt"),
    ]  # fmt: skip


def run(folder: Path, out: str = "run", **changes: object) -> Path:
    """Train in this process; returns the folder with the results."""
    train_sr.main(command(folder, changes, out))
    return folder / out


def lines(folder: Path) -> list[dict[str, object]]:
    """The log, parsed."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(folder: Path, split: str, name: str) -> list[float]:
    """One metric of one split over the steps."""
    return [line["metrics"][name] for line in lines(folder) if line.get("split") == split]


def test_a_training_leaves_best_last_and_log(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert sorted(path.name for path in done.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]
    log = lines(done)
    assert log[0]["event"] == "start" and log[0]["settings"]["steps"] == 10
    assert log[-1]["event"] == "end" and log[-1]["seconds"] > 0
    train = [line for line in log if line.get("split") == "train"]
    assert [line["step"] for line in train] == list(range(1, 11))
    assert set(train[0]["metrics"]) == {"l1", "total", "lr", "images_per_second"}
    for split in ("validation", "test"):
        assert [line["step"] for line in log if line.get("split") == split] == [5, 10]
    best = checkpoint.load(done / "best.pt")
    assert best.model_name == "srresnet" and best.scale == 2
    assert best.provenance["step"] in (5, 10) and best.provenance["threads"] == 1
    assert best.settings["losses"] == {"l1": 1.0}
    assert checkpoint.network(done / "last.pt")(torch.rand(1, 1, 5, 7)).shape == (1, 1, 10, 14)


def test_best_is_the_best_validation_and_the_test_set_never_chooses(tmp_path: Path) -> None:
    scores = iter([30.0, 1.0, 35.0, 2.0, 33.0, 99.0])  # validation, test, validation, ...

    def fake(network: object, *_: object) -> dict[str, float]:
        return {"psnr": next(scores)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_sr, "evaluate", fake)
        done = run(tmp_path, steps=6, validate_every=2)
    assert checkpoint.load(done / "best.pt").provenance["step"] == 4
    assert lines(done)[-1]["best_step"] == 4


def test_same_settings_same_bytes_and_no_test_curve_changes_nothing(tmp_path: Path) -> None:
    one, two = run(tmp_path, "one"), run(tmp_path, "two")
    assert (one / "best.pt").read_bytes() == (two / "best.pt").read_bytes()
    three = run(tmp_path, "three", test_curve=False)
    weights = [checkpoint.load(folder / "best.pt").weights for folder in (one, three)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not curve(three, "test", "psnr")


def test_golden_loss_curve(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    done = run(tmp_path)
    assert curve(done, "train", "l1") == pytest.approx(golden["l1"], rel=1e-4)
    assert curve(done, "validation", "psnr") == pytest.approx(golden["psnr"], rel=1e-4)


def test_micro_batches_give_the_full_batch(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", precision="fp64")
    parts = run(tmp_path, "parts", precision="fp64", micro_batch=3)  # 3 + 1 of 4
    assert curve(parts, "train", "l1") == pytest.approx(curve(whole, "train", "l1"), rel=1e-9)


@pytest.mark.parametrize("name", ["srcnn", "srresnet"])
def test_options_of_every_kind_train(tmp_path: Path, name: str) -> None:
    model = {"name": name, "options": {"skip": "bicubic"} if name == "srcnn" else
             {"features": 4, "blocks": 1}}  # fmt: skip
    done = run(
        tmp_path, model=model, scale=4, degradation="kspace", losses={"l2": 1, "l1": 0.5},
        steps=2, clip_gradient=1.0, precision="bf16", patch=0, channels_last="off",
        schedule={"kind": "step", "every": 1}, optimizer=settings()["optimizer"] | {"name": "sgd"},
    )  # fmt: skip
    assert (done / "best.pt").exists()


def test_weights_decay_decoupled_or_coupled(tmp_path: Path) -> None:
    optimizer = settings()["optimizer"] | {"weight_decay": 10.0}
    one = run(tmp_path, "one", steps=3, optimizer=optimizer)
    two = run(tmp_path, "two", steps=3, optimizer=optimizer | {"decoupled": False})
    assert curve(one, "train", "l1") != curve(two, "train", "l1")


def test_nan_stops_with_step_and_term_and_saves_nothing_bad(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def bomb(sr: torch.Tensor, hr: torch.Tensor, context: object) -> torch.Tensor:
        return (sr - hr).abs().mean() * (math.nan if context.step == 7 else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(losses.LOSSES, "bomb", bomb)
        with pytest.raises(SystemExit) as stop:
            run(tmp_path, losses={"bomb": 1.0})
    assert stop.value.code == Diverged.exit_code
    message = capfd.readouterr().err
    assert "step 7" in message and "'bomb'" in message and "Traceback" not in message
    assert not (tmp_path / "run" / "best.pt").exists()
    state = (tmp_path / "run" / "resume.pt").read_bytes().split(b"\n", 1)[1]
    (tmp_path / "state").write_bytes(state)
    kept = torch.load(tmp_path / "state", weights_only=True)
    assert kept["step"] == 6
    assert all(torch.isfinite(value).all() for value in kept["parts"]["network"].values())


def test_an_exploding_loss_stops(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, optimizer=settings()["optimizer"] | {"lr": 1e6}, explode=10.0)
    assert re.search(r"step \d+: loss term '\w+' (exploded|is not finite)", capfd.readouterr().err)


def test_a_large_weight_is_no_explosion(tmp_path: Path) -> None:
    done = run(tmp_path, losses={"l1": 1e4}, explode=10.0, steps=2)
    assert max(curve(done, "train", "l1")) < 10 < min(curve(done, "train", "total"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"losses": {"l3": 1}}, "losses.l3"),
        ({"losses": {"l1": 0}}, "every weight is zero"),
        ({"model": {"name": "none_such", "options": {}}}, "none_such"),
        ({"model": {"name": "srresnet", "options": {"depth": 3}}}, "depth"),
        ({"model": {"name": "bicubic", "options": {}}}, "nothing to train"),
        ({"patch": 999_998}, "patch"),
        ({"steps": 0}, "steps"),
        ({"precision": "fp8"}, "precision"),
        ({"device": "abacus"}, "abacus"),
        ({"schedule": {"kind": "spiral"}}, "spiral"),
        ({"optimizer": settings()["optimizer"] | {"name": "lion"}}, "lion"),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, **changes)
    assert stop.value.code == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mrsr: error: ") and problem in last
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_missing_setting_and_a_missing_store_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tmp_path, {})
    (tmp_path / "train.h5").unlink()
    with pytest.raises(SystemExit):
        train_sr.main(arguments)
    assert "train.h5" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        train_sr.main(["--settings", '{"scale": 2}', *arguments[2:]])
    assert "is missing" in capfd.readouterr().err


def test_plain_lines_off_a_terminal_and_a_bar_on_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, steps=4, log_every=2)
    plain = capfd.readouterr().err
    assert re.search(
        r"toy x2 srresnet  step 2/4  l1 \S+  total \S+  lr \S+  images_per_second", plain
    )
    assert re.search(r"left \d+:\d\d:\d\d", plain) and "\r" not in plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        run(tmp_path, "again", steps=4, log_every=2)
    assert "\r" in capfd.readouterr().err


def test_a_failing_tracker_costs_one_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def down(*_: object) -> bool:
        raise ConnectionError("nobody answers")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "deliver", down)
        done = run(tmp_path, steps=2, tracking={"enabled": True})
    assert (done / "best.pt").exists()
    assert "warning: tracking failed" in capfd.readouterr().err


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    changes = {"precision": "fp64", "steps": 4}
    run(tmp_path, "one", **changes)
    port = 20_000 + os.getpid() % 20_000
    with tempfile.TemporaryFile() as errors:
        jobs = [
            subprocess.Popen(
                [sys.executable, "-m", "mrsr.training.train_sr", *command(tmp_path, changes, "two")],
                env=os.environ | {
                    "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                },
                stderr=errors,
            )
            for rank in range(2)
        ]  # fmt: skip
        codes = [job.wait(timeout=120) for job in jobs]
        errors.seek(0)
        assert codes == [0, 0], errors.read().decode()
    pair = [checkpoint.load(tmp_path / name / "last.pt").weights for name in ("one", "two")]
    for key, value in pair[0].items():
        torch.testing.assert_close(pair[1][key], value, rtol=1e-9, atol=1e-12)
    losses_of = [curve(tmp_path / name, "train", "l1") for name in ("one", "two")]
    assert losses_of[1] == pytest.approx(losses_of[0], rel=1e-9)


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, steps=1)
    assert signal.getsignal(signal.SIGTERM) is before


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        made = run(Path(name))
        golden = {"l1": curve(made, "train", "l1"), "psnr": curve(made, "validation", "psnr")}
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
