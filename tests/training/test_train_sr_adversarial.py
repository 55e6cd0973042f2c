"""Eq. 9 trained on a tiny store: `pytest tests/training/test_train_sr_adversarial.py`.

The discriminator's turn, the frozen networks, warm-up, what is logged, and the exact resume.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from test_features import write_frozen
from test_resume import same
from test_train_sr import command as pixel_command
from test_train_sr import curve, lines, run

from mrsr import checkpoint
from mrsr.errors import INTERRUPTED
from mrsr.method import losses
from mrsr.method.adversarial import TERMS
from mrsr.training import resume, train_sr

EQ9 = {"adversarial": 1.0, "vit": 1.0, "structure": 1.0, "texture": 0.9}
PROPOSED = {"l1": 1.0, **EQ9}
RIVAL = {"base": 2, "lr": 1e-3}
FEATURES = {"validation_patches": 3, "gradient_norms_every": 2}


def command(folder: Path, out: str, **changes: Any) -> list[str]:
    """Arguments of a training with every term; the frozen networks are made if not there."""
    if not (folder / "vit").exists():
        write_frozen(folder)
    features = {**FEATURES, **changes.pop("features", {})}
    rival = {**RIVAL, **changes.pop("adversarial", {})}
    given = {"method": "proposed", "losses": PROPOSED, "steps": 6, "validate_every": 3}
    arguments = pixel_command(folder, given | changes | {
        "adversarial": rival, "features": features,
    }, out)  # fmt: skip
    return [
        *arguments, "--vit", str(folder / "vit" / "best.pt"),
        "--autoencoder", str(folder / "autoencoder" / "best.pt"),
    ]  # fmt: skip


def train(folder: Path, out: str = "run", **changes: Any) -> Path:
    """Train in this process; returns the folder with the results."""
    train_sr.main(command(folder, out, **changes))
    return folder / out


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """The trained weights."""
    return checkpoint.load(folder / name).weights


def equal(one: Path, two: Path, name: str = "last.pt") -> bool:
    """Whether two trainings ended with the same weights."""
    pair = weights(one, name), weights(two, name)
    return all(torch.equal(value, pair[1][key]) for key, value in pair[0].items())


def test_every_term_is_finite_and_logged_with_its_gradient(tmp_path: Path) -> None:
    done = train(tmp_path)
    train_lines = [line for line in lines(done) if line.get("split") == "train"]
    assert [line["step"] for line in train_lines] == list(range(1, 7))
    for line in train_lines:
        metrics = line["metrics"]
        assert set(PROPOSED) | set(TERMS) | {"total", "lr"} <= set(metrics)
        assert all(value is not None and math.isfinite(value) for value in metrics.values())
        expected = sum(weight * metrics[name] for name, weight in PROPOSED.items())
        assert metrics["total"] == pytest.approx(expected, rel=1e-4)
        for name in ("accuracy_real", "accuracy_fake"):
            assert 0 <= metrics[name] <= 1
        for name in PROPOSED:
            assert (f"gradient/{name}" in metrics) == (line["step"] % 2 == 0)
            if line["step"] % 2 == 0:
                assert metrics[f"gradient/{name}"] > 0
        assert ("gradient_ratio/vit" in metrics) == (line["step"] % 2 == 0)
        assert "gradient_ratio/l1" not in metrics
    for split in ("validation", "test"):
        for line in (line for line in lines(done) if line.get("split") == split):
            metrics = line["metrics"]
            assert set(metrics) == {*PROPOSED, "total", "psnr"}
            assert all(math.isfinite(value) for value in metrics.values())
            expected = sum(weight * metrics[name] for name, weight in PROPOSED.items())
            assert metrics["total"] == pytest.approx(expected)
    best = checkpoint.load(done / "best.pt")
    assert len(best.provenance["vit_sha256"]) == len(best.provenance["autoencoder_sha256"]) == 64
    assert set(best.weights) == set(weights(run(tmp_path, "pixel", steps=1)))


def test_eq9_as_printed_without_a_pixel_term(tmp_path: Path) -> None:
    optimizer = {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.1}
    done = train(
        tmp_path, losses=EQ9, optimizer={**optimizer, "decoupled": False},
        model={"name": "srresnet", "options": {"features": 8, "blocks": 1}},
    )  # fmt: skip
    metrics = [line["metrics"] for line in lines(done) if line.get("split") == "train"]
    assert {"gradient/vit", "gradient/adversarial"} <= set(metrics[1])
    assert not any(key.startswith("gradient_ratio") for row in metrics for key in row)
    scores = curve(done, "validation", "psnr")
    assert checkpoint.load(done / "best.pt").provenance["step"] == (
        3 if scores[0] >= scores[1] else 6
    )


def test_the_tables_change_nothing_without_their_losses(tmp_path: Path) -> None:
    plain = run(tmp_path, "plain")
    tabled = run(tmp_path, "tabled", adversarial={"warmup": 3}, features={"target": "hr"})
    watched = run(tmp_path, "watched", features={"gradient_norms_every": 5})
    assert equal(plain, tabled) and equal(plain, watched)
    assert len(lines(plain)) == len(lines(tabled)) == len(lines(watched))
    assert set(lines(plain)[1]["metrics"]) == {"l1", "total", "lr", "images_per_second"}
    assert len(curve(plain, "train", "l1")) == 10
    with_norm = [line["step"] for line in lines(watched) if "gradient/l1" in str(line)]
    assert with_norm == [5, 10]


def opponents(folder: Path, **changes: Any) -> dict[str, Any]:
    """The discriminator's optimizer after a training, and its learning rate in each step."""
    kept: dict[str, Any] = {}
    save = resume.save

    def keep(*arguments: Any, step: int, parts: dict[str, Any], **others: Any) -> None:
        kept.update(copy.deepcopy(parts["opponent"].state_dict()["param_groups"][0]))
        kept["rates"] = [*kept.get("rates", []), kept["lr"]]
        save(*arguments, step=step, parts=parts, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "save", keep)
        train(folder, **changes | {"checkpoint_every": 1})
    return kept


@pytest.mark.parametrize("decoupled", [True, False])
def test_the_generators_decay_is_not_the_discriminators(tmp_path: Path, decoupled: bool) -> None:
    optimizer = {"name": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.1}
    group = opponents(tmp_path, optimizer=optimizer | {"decoupled": decoupled})
    assert group["weight_decay"] == 0 and group["betas"] == (0.9, 0.999)


def test_the_discriminator_has_an_optimizer_and_a_schedule_of_its_own(tmp_path: Path) -> None:
    rival = {"weight_decay": 0.2, "decoupled": False, "betas": [0.5, 0.9]}
    group = opponents(tmp_path, adversarial=rival)
    assert group["weight_decay"] == 0.2 and group["betas"] == (0.5, 0.9)
    assert not group["decoupled_weight_decay"]
    followed = group["rates"]  # the generator's schedule: two steps of warm-up, then cosine
    assert followed[1] == pytest.approx(1e-3) and followed[-1] < 0.2e-3
    schedule = {"kind": "step", "every": 3, "factor": 0.1}
    own = opponents(tmp_path, adversarial={**rival, "schedule": schedule})["rates"]
    assert own == pytest.approx([1e-3] * 3 + [1e-4] * 3)


def test_a_warm_up_is_the_pixel_training(tmp_path: Path) -> None:
    adversarial = {"warmup": 5}
    only = train(tmp_path, "only", steps=6, losses={"l1": 1.0})
    both = train(tmp_path, "both", steps=6, adversarial=adversarial, log_every=2)
    rows = {line["step"]: line["metrics"] for line in lines(both) if line.get("split") == "train"}
    assert sorted(rows) == [2, 4, 5, 6]  # the warm-up ends with a line of its own
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
        {"adversarial": {"r1": 1.0, "updates": 2, "norm": "none", "pool": False}},
        {"micro_batch": 2, "clip_gradient": 0.1},
        {"losses": {"l1": 1.0, "vit": 1.0}},
        {"losses": {"l1": 1.0, "adversarial": 0.1}},
        {"precision": "bf16", "scale": 4},
        {"features": {"autoencoder_size": 256}, "steps": 1},
    ],
)
def test_every_choice_trains_and_changes_the_result(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain = train(tmp_path, "plain", **({"steps": 1} if "steps" in changes else {}))
    other = train(tmp_path, "other", **changes)
    metrics = [line["metrics"] for line in lines(other) if "metrics" in line]
    assert all(math.isfinite(value) for row in metrics for value in row.values())
    assert not ("scale" not in changes and equal(plain, other))
    r1 = changes.get("adversarial", {}).get("r1", 0.0)
    assert (metrics[0].get("r1", 0.0) > 0) == bool(r1)


def test_micro_batches_give_the_full_batch(tmp_path: Path) -> None:
    rival = {"norm": "none"}  # batch norm sees each part by itself
    names = [*PROPOSED, "total", "discriminator", "gradient/vit", "gradient/adversarial"]
    whole = train(tmp_path, "whole", adversarial=rival)
    parts = train(tmp_path, "parts", adversarial=rival, micro_batch=3)  # 3 + 1 of 4
    for split in ("train", "validation"):
        for name in names if split == "train" else PROPOSED:
            pair = [
                [row["metrics"].get(name, 0.0) for row in lines(f) if row.get("split") == split]
                for f in (whole, parts)
            ]
            assert pair[1] == pytest.approx(pair[0], rel=1e-3, abs=1e-6), name


def crash_at(patch: pytest.MonkeyPatch, step: int, how: Any) -> None:
    """`how` is called in the middle of a step, once."""
    left = [step]

    def l1(sr: torch.Tensor, hr: torch.Tensor, context: Any) -> torch.Tensor:
        if context.step is not None and context.step in left:
            left.clear()
            how()
        return losses.l1(sr, hr)

    patch.setitem(losses.LOSSES, "l1", l1)


CHANGES: dict[str, Any] = {
    "checkpoint_every": 2,
    "log_every": 3,
    "adversarial": {"warmup": 2, "updates": 2, "r1": 0.5},
    "micro_batch": 2,
    "clip_gradient": 1.0,
}


@pytest.mark.parametrize("at", [2, 3, 4, 6])
def test_a_crash_in_any_step_ends_as_the_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = train(tmp_path, "whole", **CHANGES)

    def out_of_memory() -> None:
        raise MemoryError("crash")

    crash_at(monkeypatch, at, out_of_memory)
    with pytest.raises(MemoryError):
        train(tmp_path, "broken", **CHANGES)
    same(train(tmp_path, "broken", **CHANGES), whole)


def test_a_signal_saves_discriminator_and_optimizer_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path, "whole", **CHANGES | {"steps": 9})
    for at in (3, 5, 8):
        crash_at(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(SystemExit) as stop:
            train(tmp_path, "stopped", **CHANGES | {"steps": 9})
        assert stop.value.code == INTERRUPTED
        state = (tmp_path / "stopped" / "resume.pt").read_bytes().split(b"\n", 1)[1]
        (tmp_path / "state").write_bytes(state)
        kept = torch.load(tmp_path / "state", weights_only=True)["parts"]
        assert set(kept) == {"network", "optimizer", "discriminator", "opponent"}
        assert len(kept["opponent"]["state"]) > 0
    same(train(tmp_path, "stopped", **CHANGES | {"steps": 9}), whole)


def test_a_frozen_network_trained_anew_discards_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    crash_at(monkeypatch, 5, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(SystemExit):
        train(tmp_path)
    path = tmp_path / "vit" / "best.pt"
    saved = checkpoint.load(path)
    changed = {key: value + 0.1 for key, value in saved.weights.items()}
    checkpoint.save(
        path, model_name=saved.model_name, options=saved.options, scale=2, weights=changed,
        settings={}, provenance={},
    )  # fmt: skip
    capfd.readouterr()
    train(tmp_path)
    assert "belongs to other settings or data" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "dropped", "problem"),
    [
        ({"losses": EQ9, "adversarial": {"warmup": 3}}, "", "adversarial.warmup needs a pixel"),
        ({"adversarial": {"depth": 3}}, "", "adversarial.depth is unknown"),
        ({"features": {"depth": 3}}, "", "features.depth is unknown"),
        ({}, "--vit", "losses vit: give the trained network with --vit"),
        ({}, "--autoencoder", "losses structure, texture: give"),
        ({"adversarial": {"base": 0}}, "", "base must be 1"),
        ({"adversarial": {"updates": 0}}, "", "updates must be 1"),
        ({"adversarial": {"schedule": {"kind": "spiral"}}}, "", "schedule.kind must be cosine"),
        ({"micro_batch": 3}, "", "adversarial.norm batch needs more than one image"),
        ({"features": {"validation_patches": 1}}, "", "a larger patch or features.validation_p"),
    ],
)
def test_wrong_settings_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], dropped: str,
    problem: str,
) -> None:  # fmt: skip
    arguments = command(tmp_path, "run", **changes)
    if dropped:
        at = arguments.index(dropped)
        del arguments[at : at + 2]
    with pytest.raises(SystemExit) as stop:
        train_sr.main(arguments)
    assert stop.value.code == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("mrsr: error: ") and problem in last


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": 4, "adversarial": {"norm": "none"}}
    train(tmp_path, "one", **changes)
    port = 20_000 + os.getpid() % 20_000
    with tempfile.TemporaryFile() as errors:
        jobs = [
            subprocess.Popen(
                [sys.executable, "-m", "mrsr.training.train_sr", *command(tmp_path, "two", **changes)],
                env=os.environ | {
                    "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                },
                stderr=errors,
            )
            for rank in range(2)
        ]  # fmt: skip
        codes = [job.wait(timeout=240) for job in jobs]
        errors.seek(0)
        assert codes == [0, 0], errors.read().decode()
    for name in [*PROPOSED, "discriminator", "accuracy_real", "accuracy_fake"]:
        pair = [curve(tmp_path / folder, "train", name) for folder in ("one", "two")]
        assert pair[1] == pytest.approx(pair[0], rel=1e-3, abs=1e-6), name
    for name in ("gradient/vit", "gradient/l1"):
        pair = [
            [row["metrics"][name] for row in lines(tmp_path / folder) if row.get("step") == 2
             and row["split"] == "train"]
            for folder in ("one", "two")
        ]  # fmt: skip
        assert pair[1] == pytest.approx(pair[0], rel=1e-3)
