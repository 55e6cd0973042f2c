"""The auto-encoder's training command on a tiny store: `pytest tests/training/test_train_autoencoder.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from mrsr.params.settings import namespace

from mrsr import checkpoint, compute, models
from mrsr.metrics import probe
from mrsr.params import loading
from mrsr.slices import holding
from mrsr.training import train_autoencoder
from project import ROOT


def write_store(path: Path, seed: int, slices: int = 8, size: int = 48) -> Path:
    """A slice store of discs, in the layout of store.py; the second volume is larger."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset="toy", organ="brain", contrast="T1", split="train")
        file.attrs.update(settings="{}", digest=f"toy{seed}")
        for number, side in enumerate((size, size + 16)):
            y, x = np.mgrid[:side, :side] / side
            volume = np.zeros((slices // 2, side, side))
            for image in volume:
                for _ in range(6):
                    cy, cx, radius = [*rng.uniform(0.2, 0.8, 2).tolist(), rng.uniform(0.05, 0.3)]
                    image += rng.uniform(0.2, 1.0) * (np.hypot(y - cy, x - cx) < radius)
            group = file.create_group(f"volumes/{number:04d}")
            group.attrs.update(subject=f"s{number}", visit="", path="s.nii.gz", slope=1.0)
            group.attrs.update(intercept=0.0, scale=float(volume.max()))
            group.attrs.update(slice_index=list(range(len(volume))), affine=np.eye(4))
            group.attrs.update(voxel_size=[1.0, 1.0, 1.0])
            group.create_dataset("data", data=volume.astype("float32"), chunks=(1, side, side))
    return path


def settings(**changes: object) -> dict[str, object]:
    """Settings of a training of seconds."""
    return {
        "experiment": "toy", "dataset": "toy", "scale": 2, "degradation": "bicubic",
        "network": {"structure_channels": 2, "texture": 16, "size": 0, "channels": [8, 8, 4, 4]},
        "weights": {
            "reconstruction": 1, "adversarial": 0.7, "swap": 0.7, "patch_swap": 0.5,
            "consistency": 0.1,
        },
        "intensity_range": 255.0, "patch": 0, "patch_n": 12, "augment": True, "place": "auto",
        "test_curve": True, "discriminator": {"base": 4, "lr": 1e-4, "crop": 32, "warmup": 2},
        "steps": 8, "batch": 4, "micro_batch": 2,
        "optimizer": {
            "name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0,
            "decoupled": True,
        },
        "schedule": {"kind": "cosine", "warmup": 2, "floor": 0.01}, "clip_gradient": 0.0,
        "seed": 0, "validate_every": 4, "validation_slices": 0, "checkpoint_every": 2,
        "log_every": 1, "gradient_norms_every": 4, "precision": "fp32", "compile": False,
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
    train_autoencoder.main(command(folder, changes, out))
    return folder / out


def lines(folder: Path) -> list[dict[str, object]]:
    """The log, parsed."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_training_logs_every_term_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert sorted(path.name for path in done.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]
    train = {line["step"]: line["metrics"] for line in lines(done) if line.get("split") == "train"}
    assert {"reconstruction", "patch_swap", "consistency", "total"} <= set(train[1])
    assert "swap" not in train[2] and {"adversarial", "swap", "accuracy_real"} <= set(train[3])
    assert all(train[4][f"gradient/{name}"] > 0 for name in settings()["weights"])
    held = [line.get("split") for line in lines(done)]
    assert held.count("validation") == 2 and held.count("test") == 2
    saved = checkpoint.load(done / "best.pt")
    assert saved.model_name == "autoencoder" and saved.options["texture"] == 16
    assert checkpoint.network(done / "last.pt").encode(torch.rand(1, 1, 32, 32))[1].shape == (1, 16)


def test_printed_terms_alone_and_reconstruction_alone_train_too(tmp_path: Path) -> None:
    printed = {"reconstruction": 1, "adversarial": 0.7, "swap": 0.7}
    run(tmp_path, "printed", weights=printed, steps=2, network={"pooling": "max", "size": 32})
    run(tmp_path, "alone", weights={"reconstruction": 1}, steps=2)


def validated(path: Path, device: str = "cpu") -> dict[str, float]:
    """The validation of one untrained network, as it would run on a device."""
    given = namespace(settings())
    machine = compute.start(given)
    torch.manual_seed(0)
    network = models.build("autoencoder", 2, settings()["network"])
    held = holding.load(path, scale=2, degradation="bicubic", device="cpu")
    weights = {"reconstruction": 1.0, "consistency": 1.0}
    there = replace(machine, device=torch.device(device))
    return train_autoencoder.evaluate(network, held, there, given, weights)


def test_a_blank_slice_costs_validation_that_slice_alone(tmp_path: Path) -> None:
    blank, without = (write_store(tmp_path / name, 1, 24) for name in ("blank.h5", "without.h5"))
    with h5py.File(blank, "r+") as file:
        file["volumes/0000/data"][5] = 0
    with h5py.File(without, "r+") as file:
        group = file["volumes/0000"]
        kept = np.delete(group["data"][:], 5, axis=0)
        del group["data"]
        group["data"] = kept
        group.attrs["slice_index"] = list(range(len(kept)))
    found = validated(blank)
    assert found == pytest.approx(validated(without), rel=1e-6)
    assert all(np.isfinite(list(found.values())))
    with h5py.File(without, "r+") as file:
        for volume in file["volumes"].values():
            volume["data"][:] = 0
    assert all(np.isnan(list(validated(without).values())))


def test_cpu_and_gpu_validate_alike(tmp_path: Path) -> None:
    """Whom a slice meets must not depend on the device, or each would choose another checkpoint."""
    path = write_store(tmp_path / "a.h5", 1, 22)
    assert validated(path) == validated(path, "cuda")


def test_validation_groups_hold_every_slice_once() -> None:
    sizes = {48: 9, 64: 3, 80: 1}
    slices = [
        torch.full((1, size, size), float(n + 1)) for size in sizes for n in range(sizes[size])
    ]
    pieces = [(image[None, :, ::2, ::2], image[None]) for image in slices]
    groups = [hr for _, hr in train_autoencoder._groups(pieces)]
    assert [(len(hr), hr.shape[-1]) for hr in groups] == [(4, 48), (5, 48), (3, 64)]
    assert [hr.amax().item() for hr in groups] == [4, 9, 3]


def test_a_batch_holds_different_slices(tmp_path: Path) -> None:
    order = train_autoencoder.batch_numbers(10, 4, 50)
    assert len(order) == 50
    assert all((4 * k) // 10 == (4 * k + 3) // 10 for k in order)
    assert train_autoencoder.batch_numbers(8, 4, 3).tolist() == [0, 1, 2]
    for count, batch in ((8, 3), (2, 4)):
        with pytest.raises(Exception, match="x1 and x2"):
            train_autoencoder.batch_numbers(count, batch, 5)


def test_the_size_of_training_images(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.h5", 0, size=50)
    slices = holding.load(store, scale=2, degradation="bicubic", device="cpu")
    assert train_autoencoder.image_size(slices, 0, 256) == 50
    assert train_autoencoder.image_size(slices, 0, 32) == 32
    assert train_autoencoder.image_size(slices, 0, 0) == 48
    assert train_autoencoder.image_size(slices, 24, 256) == 24


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch": 3}, "even"),
        ({"batch": 40}, "x1 and x2 differ"),
        ({"weights": {"swap": 1}}, "reconstruction"),
        ({"discriminator": {"depth": 3}}, "discriminator.depth"),
        ({"patch_n": 0}, "patch_n"),
        ({"place": "nowhere"}, "place 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, **changes)
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown


def test_every_number_is_handed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job has no defaults of its own: what it reads is a field of params.yaml's section."""
    in_force = loading.load(ROOT / "params.yaml", "demo")
    handed = in_force.autoencoder_settings("phantom_t1", 2)
    assert set(train_autoencoder.REQUIRED) <= set(handed)
    for name in ("augment", "test_curve", "place", "patch", "intensity_range"):
        arguments = command(tmp_path, {})
        arguments[1] = json.dumps({k: v for k, v in settings().items() if k != name})
        with pytest.raises(SystemExit):
            train_autoencoder.main(arguments)
        assert f"'{name}' is missing" in capsys.readouterr().err


def test_augmentation_and_the_test_curve_can_be_left_out(tmp_path: Path) -> None:
    whole, plain = run(tmp_path, steps=2), run(tmp_path, "plain", steps=2, augment=False)
    totals = [[x["metrics"]["total"] for x in lines(d) if "split" in x] for d in (whole, plain)]
    assert totals[0] != totals[1]
    alone = run(tmp_path, "alone", steps=2, test_curve=False)
    assert {line.get("split") for line in lines(alone)} == {None, "train", "validation"}


def test_killed_and_resumed_gives_the_same_weights(tmp_path: Path) -> None:
    whole = run(tmp_path, "whole")
    arguments = command(tmp_path, {}, "killed")
    code = (
        "import sys, os, signal; from mrsr import resume, train_autoencoder\n"
        "save = resume.save\n"
        "def then_die(*a, step, **k):\n"
        "    save(*a, step=step, **k)\n"
        "    if step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "resume.save = then_die\n"
        "train_autoencoder.main(sys.argv[1:])\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=os.environ
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "best.pt").exists()
    train_autoencoder.main(arguments)
    one, two = (
        checkpoint.load(tmp_path / name / "last.pt").weights for name in ("killed", "whole")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert whole.exists()


def test_the_probe_writes_its_numbers(tmp_path: Path) -> None:
    done = run(tmp_path, network={"size": 0}, steps=2, weights={"reconstruction": 1}, batch=2)
    out = tmp_path / "probe.json"
    probe.main(
        ["--checkpoint", str(done / "best.pt"), "--slices", str(tmp_path / "test.h5"),
         "--out", str(out), "--limit", "6"]
    )  # fmt: skip
    result = json.loads(out.read_text())
    assert result["slices"] == 6 and result["pairs"] == 6 * 4
    assert result["psnr"] > result["psnr_without_texture"] + 0.5
    assert 0 <= result["texture_nearer"] <= 1 and result["structure_nearer"] > 0.9
