"""Eq. 9 trained on a tiny store: `pytest tests/training/test_train_sr_adversarial.py`.

The discriminator's turn, the frozen networks, warm-up, what is logged, and the exact resume.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import command, curve, equal, in_step, lines, metrics, same, save, sr, weights
from mrsr import checkpoint
from mrsr.errors import INTERRUPTED
from mrsr.method.adversarial import TERMS
from mrsr.training import resume, train_sr

EQ9 = {"adversarial": 1.0, "vit": 1.0, "structure": 1.0, "texture": 0.9}
PROPOSED = {"l1": 1.0, **EQ9}
TINY: dict[str, Any] = {
    "method": "proposed", "losses": PROPOSED, "steps": 6, "validate_every": 3,
    "adversarial": {"base": 2, "lr": 1e-3},
    "features": {"validation_patches": 3, "gradient_norms_every": 2},
}  # fmt: skip
# what a state must keep
MUCH: dict[str, Any] = {
    "log_every": 3, "adversarial": {"warmup": 2, "updates": 2, "r1": 0.5}, "micro_batch": 2,
    "clip_gradient": 1.0,
}  # fmt: skip
Train = Callable[..., Path]


def arguments(stores: Path, frozen: dict[str, Path], out: Path, **changes: Any) -> list[str]:
    """Of a training with every term."""
    given = [text for name, path in frozen.items() for text in (f"--{name}", str(path))]
    return command(stores, out, sr(**{**TINY, **_tables(changes)}), *given)


def _tables(changes: dict[str, Any]) -> dict[str, Any]:
    inner = ("adversarial", "features")
    return changes | {key: {**TINY[key], **changes[key]} for key in inner if key in changes}


@pytest.fixture
def train(stores: Path, frozen: dict[str, Path], tmp_path: Path) -> Train:
    """Train in this process: `train(name, **changes)` gives the folder with the results."""

    def one(out: str = "run", **changes: Any) -> Path:
        train_sr.main(arguments(stores, frozen, tmp_path / out, **changes))
        return tmp_path / out

    return one


@pytest.fixture(scope="module")
def trained(
    stores: Path, frozen: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Trainings that several tests compare theirs with."""
    found = {}
    for name, changes in (("plain", {}), ("much", MUCH)):
        found[name] = tmp_path_factory.mktemp("trained") / name
        train_sr.main(arguments(stores, frozen, found[name], **changes))
    return found


def test_every_term_is_finite_and_logged_with_its_gradient(trained: dict[str, Path]) -> None:
    done = trained["plain"]
    assert list(metrics(done)) == list(range(1, 7))
    for step, found in metrics(done).items():
        assert set(PROPOSED) | set(TERMS) | {"total", "lr"} <= set(found)
        assert all(value is not None and math.isfinite(value) for value in found.values())
        expected = sum(weight * found[name] for name, weight in PROPOSED.items())
        assert found["total"] == pytest.approx(expected, rel=1e-4)
        assert 0 <= found["accuracy_real"] <= 1 and 0 <= found["accuracy_fake"] <= 1
        for name in PROPOSED:
            assert (found.get(f"gradient/{name}", 0) > 0) == (step % 2 == 0)
        assert ("gradient_ratio/vit" in found) == (step % 2 == 0)
        assert "gradient_ratio/l1" not in found
    for split in ("validation", "test"):
        for found in metrics(done, split).values():
            assert set(found) == {*PROPOSED, "total", "psnr"}
            assert all(math.isfinite(value) for value in found.values())
            expected = sum(weight * found[name] for name, weight in PROPOSED.items())
            assert found["total"] == pytest.approx(expected)
    best = checkpoint.load(done / "best.pt")
    assert len(best.provenance["vit_sha256"]) == len(best.provenance["autoencoder_sha256"]) == 64


def test_eq9_as_printed_without_a_pixel_term(train: Train) -> None:
    done = train(
        losses=EQ9, optimizer={"decoupled": False},
        model={"name": "srresnet", "options": {"features": 8, "blocks": 1}},
    )  # fmt: skip
    found = metrics(done)
    assert {"gradient/vit", "gradient/adversarial"} <= set(found[2])
    assert not any(key.startswith("gradient_ratio") for row in found.values() for key in row)
    scores = curve(done, "validation", "psnr")
    best = 3 if scores[0] >= scores[1] else 6
    assert checkpoint.load(done / "best.pt").provenance["step"] == best


def test_the_tables_change_nothing_without_their_losses(
    run: Callable[..., Path], trained: dict[str, Path]
) -> None:
    plain = run("plain")
    tabled = run("tabled", adversarial={"warmup": 3}, features={"target": "hr"})
    measured = run("measured", features={"gradient_norms_every": 5})
    assert equal(plain, tabled) and equal(plain, measured)
    assert len(lines(plain)) == len(lines(tabled)) == len(lines(measured))
    for done in (plain, tabled):
        for found in metrics(done).values():
            assert set(found) == {"l1", "total", "lr", "images_per_second"}
    assert [step for step, row in metrics(measured).items() if "gradient/l1" in row] == [5, 10]
    assert set(weights(trained["plain"])) == set(weights(plain))


def opponents(train: Train, **changes: Any) -> dict[str, Any]:
    """The discriminator's optimizer after a training, and its learning rate in each step."""
    kept: dict[str, Any] = {}
    write = resume.save

    def keep(*given: Any, step: int, parts: dict[str, Any], **others: Any) -> None:
        kept.update(copy.deepcopy(parts["opponent"].state_dict()["param_groups"][0]))
        kept["rates"] = [*kept.get("rates", []), kept["lr"]]
        write(*given, step=step, parts=parts, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "save", keep)
        train(
            "opponents", **changes | {"checkpoint_every": 1, "losses": {"l1": 1, "adversarial": 1}}
        )
    return kept


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_generators_decay_is_not_the_discriminators(train: Train, decoupled: bool) -> None:
    group = opponents(train, optimizer={"weight_decay": 0.1, "decoupled": decoupled})
    assert group["weight_decay"] == 0 and group["betas"] == (0.9, 0.999)


def test_the_discriminator_has_an_optimizer_and_a_schedule_of_its_own(train: Train) -> None:
    own = {"weight_decay": 0.2, "decoupled": False, "betas": [0.5, 0.9]}
    group = opponents(train, adversarial=own)
    assert group["weight_decay"] == 0.2 and group["betas"] == (0.5, 0.9)
    assert not group["decoupled_weight_decay"]
    followed = group["rates"]  # the generator's schedule: two steps of warm-up, then cosine
    assert followed[1] == pytest.approx(1e-3) and followed[-1] < 0.2e-3
    schedule = {"kind": "step", "every": 3, "factor": 0.1}
    rates = opponents(train, adversarial={**own, "schedule": schedule})["rates"]
    assert rates == pytest.approx([1e-3] * 3 + [1e-4] * 3)


def test_a_warm_up_is_the_pixel_training(train: Train) -> None:
    only = train("only", losses={"l1": 1.0})
    both = train("both", adversarial={"warmup": 5}, log_every=2)
    rows = metrics(both)
    assert list(rows) == [2, 4, 5, 6]  # the warm-up ends with a line of its own
    for step in (2, 4, 5):
        terms = {key for key in rows[step] if "/" not in key}
        assert terms == {"l1", "total", "lr", "images_per_second"}
    assert set(PROPOSED) | set(TERMS) <= set(rows[6])
    pixel = curve(only, "train", "l1")
    assert rows[2]["l1"] == pytest.approx(sum(pixel[:2]) / 2, rel=1e-12)
    assert rows[5]["l1"] == pytest.approx(pixel[4], rel=1e-12)
    assert rows[6]["l1"] == pytest.approx(pixel[5], rel=1e-12)  # before the sixth step acts
    assert not equal(only, both)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": {"target": "hr", "vit_reduce": "pooled", "vit_layers": [0, 1, -1]}},
        {"features": {"random": ["vit", "autoencoder"], "vit_reduce": "centred"}},
        {"features": {"autoencoder_size": 256}, "steps": 1},
        {"adversarial": {"r1": 1.0, "updates": 2, "norm": "none", "pool": False}},
        {"micro_batch": 2, "clip_gradient": 0.1},
        {"losses": {"l1": 1.0, "vit": 1.0}},
        {"losses": {"l1": 1.0, "adversarial": 0.1}},
        {"precision": "bf16", "scale": 4},
    ],
)
def test_every_choice_trains_and_changes_the_result(
    train: Train, trained: dict[str, Path], changes: dict[str, Any]
) -> None:
    changes = {"steps": 2, "validate_every": 2, "schedule": {"warmup": 0}} | changes
    found = metrics(train("other", **changes))
    assert all(math.isfinite(value) for row in found.values() for value in row.values())
    first, plain = found[1], metrics(trained["plain"])[1]
    # the same weights and images in the first step: what differs is what was chosen
    assert any(first.get(name) != plain[name] for name in ("total", "discriminator", "r1"))
    r1 = changes.get("adversarial", {}).get("r1", 0.0)
    assert (first.get("r1", 0.0) > 0) == bool(r1)


def test_micro_batches_give_the_full_batch(train: Train) -> None:
    # batch norm sees each part by itself
    whole, parts = (
        train(str(size), adversarial={"norm": "none"}, micro_batch=size, steps=4)
        for size in (0, 3)  # 3 + 1 of 4
    )
    names = {
        "train": [*PROPOSED, "total", "discriminator", "gradient/vit", "gradient/adversarial"],
        "validation": [*PROPOSED],
    }
    for split, compared in names.items():
        for name in compared:
            pair = [
                [row.get(name, 0.0) for row in metrics(f, split).values()] for f in (whole, parts)
            ]
            assert pair[1] == pytest.approx(pair[0], rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("at", [2, 3, 4, 6])
def test_a_crash_in_any_step_ends_as_the_uninterrupted_run(
    train: Train, trained: dict[str, Path], at: int
) -> None:
    def out_of_memory() -> None:
        raise MemoryError("crash")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        in_step(patch, at, out_of_memory)
        train("broken", **MUCH)
    same(train("broken", **MUCH), trained["much"])


def test_a_signal_saves_discriminator_and_optimizer_bit_for_bit(
    train: Train, trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in (1, 3, 5):
        in_step(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(SystemExit) as stop:
            train("stopped", **MUCH)
        assert stop.value.code == INTERRUPTED
        state = (tmp_path / "stopped" / "resume.pt").read_bytes().split(b"\n", 1)[1]
        (tmp_path / "state").write_bytes(state)
        kept = torch.load(tmp_path / "state", weights_only=True)["parts"]
        assert set(kept) == {"network", "optimizer", "discriminator", "opponent"}
        assert (len(kept["opponent"]["state"]) > 0) == (at > 2)  # after the warm-up
    same(train("stopped", **MUCH), trained["much"])


def test_a_frozen_network_trained_anew_discards_the_state(
    stores: Path, frozen: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    vit = shutil.copy(frozen["vit"], tmp_path / "vit.pt")
    given = arguments(stores, frozen | {"vit": vit}, tmp_path / "run", steps=3)
    in_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(SystemExit):
        train_sr.main(given)
    saved = checkpoint.load(vit)
    changed = {key: value + 0.1 for key, value in saved.weights.items()}
    save(vit, saved.model_name, saved.options, changed)
    capfd.readouterr()
    train_sr.main(given)
    assert "belongs to other settings or data" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "dropped", "problem"),
    [
        ({"losses": EQ9, "adversarial": {"warmup": 3}}, "", "adversarial.warmup needs a pixel"),
        ({"adversarial": {"depth": 3}}, "", "adversarial.depth: unknown key"),
        ({"features": {"depth": 3}}, "", "features.depth: unknown key"),
        ({}, "vit", "losses vit: give the trained network with --vit"),
        ({}, "autoencoder", "losses structure, texture: give"),
        ({"adversarial": {"base": 0}}, "", "adversarial.base: must be 1 or more"),
        ({"adversarial": {"updates": 0}}, "", "adversarial.updates: must be 1 or more"),
        ({"adversarial": {"schedule": {"kind": "spiral"}}}, "", "schedule.kind: must be one of"),
        ({"micro_batch": 3}, "", "adversarial.norm batch needs more than one image"),
        ({"features": {"validation_patches": 1}}, "", "a larger patch or features.validation_p"),
    ],
)
def test_wrong_settings_are_one_line(
    stores: Path, frozen: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    changes: dict[str, Any], dropped: str, problem: str,
) -> None:  # fmt: skip
    paths = {name: path for name, path in frozen.items() if name != dropped}
    with pytest.raises(SystemExit) as stop:
        train_sr.main(arguments(stores, paths, tmp_path / "run", **changes))
    assert stop.value.code == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mrsr: error: ") and problem in last
