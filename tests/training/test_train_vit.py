"""The ViT's training command on tiny stores: `pytest tests/training/test_train_vit.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from mrsr.params.settings import namespace

from mrsr import checkpoint, compute, files
from mrsr.errors import UserError
from mrsr.method import features, organ_task, pretexts, segmentation
from mrsr.models import unetr
from mrsr.params import loading
from mrsr.resampling import degrade, upsample
from mrsr.training import train_vit
from project import ROOT

NETWORK = {
    "hidden": 12, "layers": 2, "heads": 2, "mlp": 16, "patch": 16, "size": [16, 32, 32],
    "feature_size": 2,
}  # fmt: skip


def write_store(
    path: Path,
    seed: int,
    organ: str = "brain",
    labels: bool = True,
    size: tuple[int, int] = (36, 34),
) -> Path:
    """Two volumes of 18 slices: bright balls (knee: stripes), labelled. Dataset: toy_<organ>."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format=1, dataset=f"toy_{organ}", organ=organ, contrast="T1", split="train"
        )
        file.attrs.update(settings="{}", digest=f"{organ}{seed}")
        z, y, x = np.mgrid[:18, : size[0], : size[1]]
        for number in range(2):
            centre = rng.uniform([8, 14, 14], [10, 20, 20])
            ball = np.hypot(np.hypot(z - centre[0], y - centre[1]), x - centre[2]) < 9
            shape = ball if organ == "brain" else (y + number) % 6 < 3
            image = (shape + 0.1 * rng.random(shape.shape)).astype("float32")
            group = file.create_group(f"volumes/{number:04d}")
            group.attrs.update(subject=f"s{number}", visit="", path="s.nii.gz", slope=1.0)
            group.attrs.update(intercept=0.0, scale=1.0, slice_index=list(range(18)))
            group.attrs.update(affine=np.eye(4), voxel_size=[1.0, 1.0, 1.0])
            group["data"] = image
            if labels:
                group["labels"] = shape.astype("uint8")
    return path


def settings(**changes: object) -> dict[str, object]:
    return {
        "experiment": "toy", "phase": "segmentation", "network": NETWORK, "classes": 2,
        "pretext": "organ", "mask_ratio": 0.5, "temperature": 0.1, "weights": "",
        "weights_sha256": "", "steps": 4, "batch": 2, "micro_batch": 0,
        "optimizer": {
            "name": "adamw", "lr": 3e-3, "betas": [0.9, 0.999], "weight_decay": 0.01,
            "decoupled": True,
        },
        "schedule": {"kind": "constant"}, "clip_gradient": 0.0, "seed": 0, "validate_every": 4,
        "validation_volumes": 1, "checkpoint_every": 1, "log_every": 1, "precision": "fp32",
        "compile": False, "channels_last": "auto", "device": "cpu", "threads": 1, "explode": 1e4,
        "encoder_rate": 1.0, "place": "auto", "scales": [2],
        "degradations": {"toy_brain": "bicubic", "toy_knee": "kspace"},
        "tracking": {"enabled": False}, **changes,
    }  # fmt: skip


def command(
    folder: Path, out: str, organs: tuple[str, ...] = ("brain",), start: str = "", **changes: object
) -> list[str]:
    stores = []
    for split, seed in (("train", 1), ("validation", 2), ("test", 3)):
        stores.append(f"--{split}")
        for organ in organs:
            path = folder / organ / f"{split}.h5"
            if not path.exists():
                write_store(path, seed, organ, labels=organ == "brain")
            stores.append(str(path))
    end = ["--start", str(folder / start)] if start else []
    arguments = ["--settings", json.dumps(settings(**changes)), *stores, *end]
    return [*arguments, "--out", str(folder / out / "best.pt")]


def run(folder: Path, out: str, *args: object, **changes: object) -> Path:
    train_vit.main(command(folder, out, *args, **changes))
    return folder / out


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(folder: Path, split: str, name: str) -> list[float]:
    return [line["metrics"][name] for line in lines(folder) if line.get("split") == split]


def refused(
    folder: Path, capsys: pytest.CaptureFixture[str], *args: object, **changes: object
) -> str:
    with pytest.raises(SystemExit) as caught:
        run(folder, "refused", *args, **changes)
    assert caught.value.code == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return message


def test_segmentation_then_each_pretext(tmp_path: Path) -> None:
    both = ("brain", "knee")
    done = run(tmp_path, "seg", both, steps=25, validate_every=25)  # knees have no labels
    assert sorted(p.name for p in done.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]
    total = curve(done, "train", "total")
    assert np.mean(total[-5:]) < 0.8 * np.mean(total[:5])
    first = lines(done)[0]["settings"]
    assert (first["dataset"], first["method"]) == ("vit", "segmentation")
    for split in ("validation", "test"):
        (line,) = [line["metrics"] for line in lines(done) if line.get("split") == split]
        assert set(line) == {"dice_loss", "cross_entropy", "total", "dice", "dice_1"}
    best = checkpoint.load(done / "best.pt")
    assert best.model_name == "unetr"
    assert best.provenance["metrics"]["validation"]["dice"] == curve(done, "validation", "dice")[0]
    assert checkpoint.network(done / "best.pt")(torch.rand(1, 1, 16, 32, 32)).shape[1] == 2

    wanted = {
        "organ": {"cross_entropy", "total", "accuracy", "balanced_accuracy"}
        | {"histogram_accuracy", "histogram_balanced_accuracy"},
        "masked": {"squared_error", "total"},
        "contrastive": {"nt_xent", "total", "accuracy"},
    }
    start = features.load_encoder(done / "best.pt")
    for pretext, names in wanted.items():
        more = {"phase": "pretext", "pretext": pretext, "steps": 12, "batch": 8, "micro_batch": 4}
        tuned = run(tmp_path, pretext, both, "seg/best.pt", **more)
        assert set(lines(tuned)[-2]["metrics"]) == names
        total = curve(tuned, "train", "total")
        assert np.mean(total[-3:]) < np.mean(total[:3])
        encoder = features.load_encoder(tuned / "best.pt")
        assert encoder.grid == start.grid
        assert not torch.equal(encoder.patch.weight, start.patch.weight)


def test_equal_settings_give_equal_bytes_and_micro_batches_the_batch(tmp_path: Path) -> None:
    one, two = (run(tmp_path, name) for name in ("one", "two"))
    assert (one / "last.pt").read_bytes() == (two / "last.pt").read_bytes()
    three, four = (run(tmp_path, str(m), precision="fp64", micro_batch=m) for m in (0, 1))
    assert curve(three, "train", "total") == pytest.approx(curve(four, "train", "total"), rel=1e-9)


@pytest.mark.parametrize("phase", [pytest.param("segmentation", marks=pytest.mark.slow), "pretext"])
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path: Path, phase: str) -> None:
    both, start = ("brain", "knee"), ""
    if phase == "pretext":
        run(tmp_path, "seg", both, steps=1)
        start = "seg/best.pt"
    more = {"phase": phase, "steps": 40, "batch": 4, "validate_every": 20}
    whole = run(tmp_path, "whole", both, start, **more)
    arguments = [
        sys.executable,
        "-m",
        "mrsr.training.train_vit",
        *command(tmp_path, "cut", both, start, **more),
    ]
    job = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    state = tmp_path / "cut" / "resume.previous.pt"
    limit = time.monotonic() + 120
    while not state.exists() and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert state.exists() and not (tmp_path / "cut" / "best.pt").exists()
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "going on at step" in done.stderr
    for name in ("best.pt", "last.pt"):
        ours, theirs = (checkpoint.load(f / name).weights for f in (tmp_path / "cut", whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert curve(tmp_path / "cut", "train", "total") == curve(whole, "train", "total")


def test_users_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    network = unetr.build(**NETWORK, classes=2)
    path = tmp_path / "mine.pt"
    torch.save(network.state_dict(), path)
    sha = files.sha256(path)
    done = run(tmp_path, "own", weights=path.as_uri(), weights_sha256=sha, steps=0)
    found = checkpoint.load(done / "best.pt")
    assert all(torch.equal(found.weights[k], v) for k, v in network.state_dict().items())
    assert found.settings["weights"] == "mine.pt" and found.settings["weights_sha256"] == sha
    assert str(tmp_path) not in (done / "log.jsonl").read_text()
    trained = run(tmp_path, "more", weights=str(path), steps=1)
    before = network.state_dict()["vit.norm.weight"]
    moved = checkpoint.load(trained / "last.pt").weights["vit.norm.weight"] - before
    assert 0 < moved.abs().max() < 0.01

    assert "checksum" in refused(tmp_path, capsys, weights=str(path), weights_sha256="0" * 64)
    address = "https://example.org/w.pt?key=secret"
    message = refused(tmp_path, capsys, weights=address)
    assert "weights_sha256" in message and "secret" not in message
    message = refused(tmp_path, capsys, weights=str(path), classes=3)
    assert "out.conv.conv.bias is [2], the network has [3]" in message


def test_what_cannot_be_trained_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "seg", steps=1)
    pretext = {"phase": "pretext", "batch": 4}
    brain = (("brain",), "seg/best.pt")
    assert "two organs" in refused(tmp_path, capsys, *brain, **pretext)
    assert "--start" in refused(tmp_path, capsys, ("brain", "knee"), **pretext)
    assert "pretext must be" in refused(tmp_path, capsys, *brain, **pretext | {"pretext": "x"})
    one = pretext | {"pretext": "contrastive", "micro_batch": 1}
    assert "micro-batch" in refused(tmp_path, capsys, *brain, **one)
    assert "no labels" in refused(tmp_path, capsys, ("knee",))
    assert "classes is 1" in refused(tmp_path, capsys, classes=1)
    assert "phase must be" in refused(tmp_path, capsys, phase="x")
    assert "steps" in refused(tmp_path, capsys, steps=0)


@pytest.mark.parametrize("phase", ["segmentation", "pretext"])
def test_every_number_is_handed_over(phase: str) -> None:
    """A job has no defaults of its own: what it reads is a field of params.yaml's section."""
    handed = loading.load(ROOT / "params.yaml", "demo").vit_settings(phase, "organ")
    required = {*train_vit.REQUIRED, *train_vit.OF_PHASE[phase]}
    assert required <= set(handed) and "encoder_rate" in required
    assert ("place" in required) == ("place" in handed) == (phase == "pretext")
    for name in required:
        rest = {key: value for key, value in handed.items() if key != name}
        with pytest.raises(UserError, match=f"'{name}' is missing"):
            train_vit._settings(json.dumps(rest))


def pool(folder: Path, size: tuple[int, int]) -> dict[str, list[Path]]:
    """Stores of brains and knees by split."""
    return {
        split: [
            write_store(folder / f"{organ}_{split}.h5", seed, organ, size=size)
            for organ in ("brain", "knee")
        ]
        for split, seed in (("train", 1), ("validation", 2))
    }


def organ_task(stores: dict[str, list[Path]], **changes: object) -> SimpleNamespace:
    """The organ pretext task on them, 64 crops a batch."""
    given = namespace(settings(phase="pretext", batch=64, validation_volumes=0, **changes))
    torch.manual_seed(0)
    encoder = unetr.build(**NETWORK, dimensions=2)
    return pretexts.task(given, compute.start(given), encoder, (32, 32), stores)


def blurred_from(hr: torch.Tensor, blurred: torch.Tensor, scale: int, kind: str) -> bool:
    """Whether it is hr degraded and enlarged; a crop is flipped after that."""
    every = [(), (-1,), (-2,), (-2, -1)]
    made = [upsample(degrade(hr.flip(axes), scale, kind), scale).flip(axes) for axes in every]
    return any(torch.allclose(image, blurred, atol=1e-5) for image in made)


def scales_of(shown: list[tuple[torch.Tensor, ...]], scales: list[int]) -> list[int]:
    """The scale of each degraded image, which its HR version and its dataset must lead to."""
    found = []
    for hr, degraded, organs in shown:
        for sharp, blurred, organ in zip(hr, degraded, organs, strict=True):
            kind = ("bicubic", "kspace")[int(organ)]
            fits = [s for s in scales if blurred_from(sharp, blurred, s, kind)]
            assert len(fits) == 1
            found += fits
    return found


def test_pretext_images_are_degraded_as_their_dataset_at_every_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of the crop's size, so that a degraded image can be made again from its HR one."""
    shown: list[tuple[torch.Tensor, ...]] = []
    original = organ_task.Organ.prepare

    def seen(self: organ_task.Organ, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        shown.append(given[:3])
        return original(self, *given)

    monkeypatch.setattr(organ_task.Organ, "prepare", seen)
    task = organ_task(pool(tmp_path, (32, 32)), scales=[2, 4])
    first = task.draw(0)
    drawn = scales_of(shown, [2, 4])
    assert 20 < drawn.count(4) < 44  # of 64
    again = organ_task(pool(tmp_path, (32, 32)), scales=[2, 4]).draw(0)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))

    shown.clear()
    task.evaluate("validation")
    held = scales_of(shown, [2, 4])
    assert len(held) == 2 * 2 * 18 and held.count(4) == len(held) // 2


def test_pretext_crops_need_not_divide_by_the_scale(tmp_path: Path) -> None:
    task = organ_task(pool(tmp_path, (36, 34)), scales=[3])
    images, organs = task.draw(0)
    assert images.shape == (64, 1, 32, 32) and organs.float().mean() == 0.5
    assert np.isfinite(task.evaluate("validation")["total"])


def test_a_pretext_needs_scales_and_a_degradation_of_each_dataset(tmp_path: Path) -> None:
    stores = pool(tmp_path, (32, 32))
    with pytest.raises(UserError, match="scales is empty"):
        organ_task(stores, scales=[])
    with pytest.raises(UserError, match="'toy_knee' is degraded; add it"):
        organ_task(stores, degradations={"toy_brain": "bicubic"})


def scored(monkeypatch: pytest.MonkeyPatch, dice: list[float]) -> None:
    """Validation's Dice, validation by validation, in place of the network's."""
    original, given = segmentation.evaluate, iter(dice)

    def made_up(*args: object, **more: object) -> dict[str, float]:
        return original(*args, **more) | {"dice": next(given)}

    monkeypatch.setattr(segmentation, "evaluate", made_up)


def test_a_score_that_is_no_number_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [0.3, 0.1, float("nan"), 0.9, 0.2, 0.1, 0.1, float("nan")]  # validation, test by turns
    scored(monkeypatch, held)
    done = run(tmp_path, "run", steps=4, validate_every=1)
    assert curve(done, "validation", "dice") == [0.3, None, 0.2, 0.1]
    found = checkpoint.load(done / "best.pt").provenance
    assert found["step"] == 1 and found["metrics"]["validation"]["dice"] == 0.3


def test_no_score_at_all_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [float("nan")] * 4)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, "run", steps=2, validate_every=1)
    assert caught.value.code == 4
    (message,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "no validation gave a finite score" in message
    assert not (tmp_path / "run" / "best.pt").exists()


def test_the_transformer_may_learn_at_a_rate_of_its_own(tmp_path: Path) -> None:
    moved = []
    for factor in (1.0, 0.1):
        done = run(tmp_path, str(factor), steps=1, encoder_rate=factor)
        torch.manual_seed(0)
        before = unetr.build(**NETWORK, classes=2).state_dict()
        after = checkpoint.load(done / "last.pt").weights
        moved.append([
            (after[key] - before[key]).abs().max().item()
            for key in ("vit.norm.bias", "out.conv.conv.bias")
        ])  # fmt: skip
    assert moved[1][0] == pytest.approx(0.1 * moved[0][0], rel=1e-3)
    assert moved[1][1] == pytest.approx(moved[0][1], rel=1e-3)
