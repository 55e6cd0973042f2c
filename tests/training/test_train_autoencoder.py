"""The auto-encoder's training command: `pytest tests/training/test_train_autoencoder.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from builders import (
    autoencoder,
    command,
    curve,
    discs,
    equal,
    in_step,
    metrics,
    read,
    same,
    toy_stores,
    write_store,
)
from mrsr import checkpoint, compute, models
from mrsr.metrics import probe
from mrsr.params.jobs import Autoencoder
from mrsr.slices import holding
from mrsr.training import train_autoencoder, validate_autoencoder

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes of four slices each, the second larger."""
    return toy_stores(tmp_path_factory.mktemp("stores"), (4, 48, 48), (4, 64, 64))


@pytest.fixture
def run(stores: Path, tmp_path: Path) -> Run:
    """Train in this process; returns the folder with the results."""

    def train(out: str = "run", **changes: Any) -> Path:
        train_autoencoder.main(command(stores, tmp_path / out, autoencoder(**changes)))
        return tmp_path / out

    return train


@pytest.fixture(scope="module")
def whole(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "whole"
    train_autoencoder.main(command(stores, out, autoencoder()))
    return out


def test_a_training_logs_every_term_and_leaves_a_checkpoint(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]
    train, weights = metrics(whole), autoencoder()["weights"]
    assert {"reconstruction", "patch_swap", "consistency", "total"} <= set(train[1])
    assert "swap" not in train[2] and {"adversarial", "swap", "accuracy_real"} <= set(train[3])
    unit = {name: 255 if name in ("reconstruction", "patch_swap") else 1 for name in weights}
    total = sum(weights[name] * unit[name] * train[3][name] for name in weights)
    assert train[3]["total"] == pytest.approx(total, rel=1e-5)
    assert all(train[4][f"gradient/{name}"] > 0 for name in weights)
    for split in ("validation", "test"):
        held = metrics(whole, split)
        assert list(held) == [4, 8]
        assert set(held[4]) == {"reconstruction", "patch_swap", "consistency", "total", "psnr"}
    saved = checkpoint.load(whole / "best.pt")
    totals = curve(whole, "validation", "total")
    assert saved.provenance["step"] == (4 if totals[0] <= totals[1] else 8)
    assert saved.model_name == "autoencoder" and saved.options["texture"] == 16
    coder = checkpoint.network(whole / "last.pt")
    assert coder.encode(torch.rand(1, 1, 32, 32))[1].shape == (1, 16)


def test_printed_terms_alone_and_reconstruction_alone_train_too(run: Run) -> None:
    none = {"patch_swap": 0, "consistency": 0}
    printed = {"reconstruction": 1, "adversarial": 0.7, "swap": 0.7} | none
    options = {"pooling": "max", "size": 256, "channels": [4, 4, 2, 2]}
    one = run("printed", weights=printed, steps=3, network=options, gradient_norms_every=0)
    assert {"reconstruction", "total", "lr", "images_per_second"} == set(metrics(one)[1])
    assert {"adversarial", "swap", "discriminator"} <= set(metrics(one)[3])
    assert checkpoint.load(one / "best.pt").options["pooling"] == "max"
    alone = printed | {"adversarial": 0, "swap": 0}
    two = run("alone", weights=alone, steps=3, gradient_norms_every=0)
    for found in metrics(two).values():
        assert set(found) == {"reconstruction", "total", "lr", "images_per_second"}
        assert found["total"] == pytest.approx(255 * found["reconstruction"], rel=1e-6)


def validated(path: Path, device: str = "cpu") -> dict[str, float]:
    """The validation of one untrained network, as it would run on a device."""
    given = read(Autoencoder, autoencoder())
    torch.manual_seed(0)
    network = models.build("autoencoder", 2, autoencoder()["network"])
    held = holding.load(path, scale=2, degradation="bicubic", device="cpu")
    weights = {"reconstruction": 1.0, "consistency": 1.0}
    there = replace(compute.start(given), device=torch.device(device))
    return validate_autoencoder.evaluate(network, held, there, given, weights)


def store_of(path: Path, slices: int) -> Path:
    return write_store(path, discs(1, (slices // 2, 48, 48), (slices // 2, 64, 64)))


def test_a_blank_slice_costs_validation_that_slice_alone(tmp_path: Path) -> None:
    blank, without = (store_of(tmp_path / name, 24) for name in ("blank.h5", "without.h5"))
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
    path = store_of(tmp_path / "a.h5", 22)
    assert validated(path) == validated(path, "cuda")


def test_validation_groups_hold_every_slice_once() -> None:
    sizes = {48: 9, 64: 3, 80: 1}
    slices = [
        torch.full((1, size, size), float(n + 1)) for size in sizes for n in range(sizes[size])
    ]
    pieces = [(image[None, :, ::2, ::2], image[None]) for image in slices]
    groups = [hr for _, hr in validate_autoencoder._groups(pieces)]
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
    store = write_store(tmp_path / "a.h5", discs(0, (4, 50, 50), (4, 66, 66)))
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
        ({"weights": {"swap": 1}}, "weights.reconstruction: is missing"),
        ({"weights": autoencoder()["weights"] | {"reconstruction": 0}}, "must not be 0"),
        ({"discriminator": {"depth": 3}}, "discriminator.depth"),
        ({"patch_n": 0}, "patch_n"),
        ({"place": "nowhere"}, "place: must be one of"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, capsys: pytest.CaptureFixture[str], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(SystemExit):
        run(**changes)
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown


def test_augmentation_and_the_test_curve_can_be_left_out(run: Run) -> None:
    one, plain = run(steps=2), run("plain", steps=2, augment=False)
    assert curve(one, "train", "total") != curve(plain, "train", "total")
    alone = run("alone", steps=2, test_curve=False)
    assert metrics(one, "test") and not metrics(alone, "test") and equal(one, alone)


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_crash_in_any_step_ends_as_the_uninterrupted_run(
    run: Run, whole: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    def out_of_memory() -> None:
        raise MemoryError("crash")

    in_step(monkeypatch, at, out_of_memory)
    with pytest.raises(MemoryError):
        run("broken")
    same(run("broken"), whole)


def test_the_probe_writes_its_numbers(run: Run, stores: Path, tmp_path: Path) -> None:
    alone = dict.fromkeys(autoencoder()["weights"], 0) | {"reconstruction": 1}
    wide = {"structure_channels": 8, "texture": 64, "channels": [16, 16, 8, 8]}
    done, out = run(steps=2, weights=alone, batch=2, network=wide), tmp_path / "probe.json"
    probe.main(
        ["--checkpoint", str(done / "best.pt"), "--slices", str(stores / "test.h5"),
         "--out", str(out), "--limit", "6"]
    )  # fmt: skip
    result = json.loads(out.read_text())
    assert result["slices"] == 6 and result["pairs"] == 6 * 4
    assert result["psnr"] > result["psnr_without_texture"] + 0.5
    assert 0 <= result["texture_nearer"] <= 1 and result["structure_nearer"] > 0.9
