"""The ViT's training command on tiny stores: `pytest tests/training/test_train_vit.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders import (
    VIT,
    command,
    curve,
    in_step,
    lines,
    metrics,
    organ_store,
    organ_stores,
    pretext,
    read,
    same,
    segmentation,
    weights,
)
from mrsr import checkpoint, compute, files
from mrsr.errors import UserError
from mrsr.method import features, organ_task, pretexts
from mrsr.method import segmentation as task_3d
from mrsr.models import unetr
from mrsr.params.jobs import Pretext
from mrsr.resampling import degrade, upsample
from mrsr.training import train_vit

BOTH = ("brain", "knee")
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return organ_stores(tmp_path_factory.mktemp("organs"))


@pytest.fixture(scope="module")
def segmented(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation of the brains: the knees have no labels."""
    out = tmp_path_factory.mktemp("vit") / "seg"
    table = segmentation(steps=20, validate_every=20)
    train_vit.main(command(stores, out, table, kinds=BOTH))
    return out


@pytest.fixture
def run(stores: Path, tmp_path: Path) -> Run:
    """Train in this process; `kinds` of stores. Returns the folder with the results."""

    def train(
        out: str, table: dict[str, Any], start: Path | None = None, kinds: tuple[str, ...] = BOTH
    ) -> Path:
        given = ["--start", str(start)] if start else []
        train_vit.main(command(stores, tmp_path / out, table, *given, kinds=kinds))
        return tmp_path / out

    return train


@pytest.fixture
def refused(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a training ends with."""

    def message(*given: Any, **more: Any) -> str:
        with pytest.raises(SystemExit) as caught:
            run("refused", *given, **more)
        assert caught.value.code == 2
        (found,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        return found

    return message


def test_the_segmentation_learns_and_leaves_a_checkpoint(segmented: Path) -> None:
    done = segmented
    assert sorted(p.name for p in done.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]
    total = curve(done, "train", "total")
    assert np.mean(total[-5:]) < 0.85 * np.mean(total[:5])
    first = lines(done)[0]["settings"]
    assert (first["dataset"], first["method"]) == ("vit", "segmentation")
    for split in ("validation", "test"):
        (found,) = metrics(done, split).values()
        assert set(found) == {"dice_loss", "cross_entropy", "total", "dice", "dice_1"}
    best = checkpoint.load(done / "best.pt")
    assert best.model_name == "unetr"
    assert best.provenance["metrics"]["validation"]["dice"] == curve(done, "validation", "dice")[0]
    assert checkpoint.network(done / "best.pt")(torch.rand(1, 1, 16, 32, 32)).shape[1] == 2


ACCURACIES = {"accuracy", "balanced_accuracy", "histogram_accuracy", "histogram_balanced_accuracy"}


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("organ", {"cross_entropy", "total"} | ACCURACIES),
        ("masked", {"squared_error", "total"}),
        ("contrastive", {"nt_xent", "total", "accuracy"}),
    ],
)
def test_each_pretext_task_moves_the_encoder(
    run: Run, segmented: Path, task: str, names: set[str]
) -> None:
    table = pretext(task, steps=12, batch=8, micro_batch=4)
    tuned = run(task, table, segmented / "best.pt")
    assert set(metrics(tuned, "test")[12]) == names
    total = curve(tuned, "train", "total")
    assert np.mean(total[-3:]) < np.mean(total[:3])
    start = features.load_encoder(segmented / "best.pt")
    encoder = features.load_encoder(tuned / "best.pt")
    assert encoder.grid == start.grid
    assert not torch.equal(encoder.patch.weight, start.patch.weight)


def test_equal_settings_give_equal_bytes_and_micro_batches_the_batch(run: Run) -> None:
    one, two = (run(name, segmentation(steps=1)) for name in ("one", "two"))
    assert (one / "last.pt").read_bytes() == (two / "last.pt").read_bytes()
    totals = [
        curve(run(str(m), segmentation(precision="fp64", micro_batch=m, steps=1)), "train", "total")
        for m in (0, 1)
    ]
    assert totals[0] == pytest.approx(totals[1], rel=1e-9)


@pytest.mark.parametrize(("make", "at"), [(segmentation, 3), (pretext, 8)])
def test_a_crash_ends_as_the_uninterrupted_run(
    run: Run, segmented: Path, make: Callable[..., dict[str, Any]], at: int
) -> None:
    table = make(steps=at + 2, validate_every=at - 1, checkpoint_every=2)
    start = segmented / "best.pt" if make is pretext else None
    whole = run("whole", table, start)

    def out_of_memory() -> None:
        raise MemoryError("crash")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryError):
        in_step(patch, at, out_of_memory)
        run("broken", table, start)
    same(run("broken", table, start), whole)


def test_users_weights(run: Run, tmp_path: Path, refused: Callable[..., str]) -> None:
    torch.manual_seed(5)
    network = unetr.build(**VIT, classes=2)
    path = tmp_path / "mine.pt"
    torch.save(network.state_dict(), path)
    sha = files.sha256(path)
    done = run("own", segmentation(weights=path.as_uri(), weights_sha256=sha, steps=0))
    found = checkpoint.load(done / "best.pt")
    assert all(torch.equal(found.weights[k], v) for k, v in network.state_dict().items())
    assert found.settings["weights"] == "mine.pt" and found.settings["weights_sha256"] == sha
    assert str(tmp_path) not in (done / "log.jsonl").read_text()
    trained = run("more", segmentation(weights=str(path), steps=1))
    before = network.state_dict()["vit.norm.weight"]
    moved = weights(trained)["vit.norm.weight"] - before
    assert 0 < moved.abs().max() < 0.01

    assert "checksum" in refused(segmentation(weights=str(path), weights_sha256="0" * 64))
    address = "https://example.org/w.pt?key=secret"
    message = refused(segmentation(weights=address))
    assert "weights_sha256" in message and "secret" not in message
    message = refused(segmentation(weights=str(path), classes=3))
    assert "out.conv.conv.bias is [2], the network has [3]" in message


def test_what_cannot_be_trained_is_said(refused: Callable[..., str], segmented: Path) -> None:
    start = segmented / "best.pt"
    assert "two organs" in refused(pretext(), start, kinds=("brain",))
    assert "--start" in refused(pretext())
    assert "pretext: must be one of" in refused(pretext("x"), start)
    assert "micro-batch" in refused(pretext("contrastive", micro_batch=1), start)
    assert "no labels" in refused(segmentation(), kinds=("knee",))
    assert "classes must be 2 or more" in refused(segmentation(classes=1))
    assert "phase: must be one of" in refused(segmentation(phase="x"))
    assert "steps" in refused(segmentation(steps=0))


def pool(folder: Path, size: tuple[int, int]) -> dict[str, list[Path]]:
    """Stores of brains and knees by split."""
    return {
        split: [organ_store(folder / f"{organ}_{split}.h5", seed, organ, size) for organ in BOTH]
        for split, seed in (("train", 1), ("validation", 2))
    }


def organs(stores: dict[str, list[Path]], **changes: object) -> SimpleNamespace:
    """The organ pretext task on them, 64 crops a batch."""
    given = read(Pretext, pretext(batch=64, validation_volumes=0, **changes))
    torch.manual_seed(0)
    encoder = unetr.build(**VIT, dimensions=2)
    return pretexts.task(given, compute.start(given), encoder, (32, 32), stores)


def blurred_from(hr: torch.Tensor, blurred: torch.Tensor, scale: int, kind: str) -> bool:
    """Whether it is hr degraded and enlarged; a crop is flipped after that."""
    every = [(), (-1,), (-2,), (-2, -1)]
    made = [upsample(degrade(hr.flip(axes), scale, kind), scale).flip(axes) for axes in every]
    return any(torch.allclose(image, blurred, atol=1e-5) for image in made)


def scales_of(shown: list[tuple[torch.Tensor, ...]], scales: list[int]) -> list[int]:
    """The scale of each degraded image, which its HR version and its dataset must lead to."""
    found = []
    for images in shown:
        for sharp, blurred, organ in zip(*images, strict=True):
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
    task = organs(pool(tmp_path, (32, 32)), scales=[2, 4])
    first = task.draw(0)
    drawn = scales_of(shown, [2, 4])
    assert 20 < drawn.count(4) < 44  # of 64
    again = organs(pool(tmp_path, (32, 32)), scales=[2, 4]).draw(0)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))

    shown.clear()
    task.evaluate("validation")
    held = scales_of(shown, [2, 4])
    assert len(held) == 2 * 2 * 18 and held.count(4) == len(held) // 2


def test_pretext_crops_need_not_divide_by_the_scale(tmp_path: Path) -> None:
    task = organs(pool(tmp_path, (36, 34)), scales=[3])
    images, shown = task.draw(0)
    assert images.shape == (64, 1, 32, 32) and shown.float().mean() == 0.5
    assert np.isfinite(task.evaluate("validation")["total"])


def test_a_pretext_needs_scales_and_a_degradation_of_each_dataset(tmp_path: Path) -> None:
    stores = pool(tmp_path, (32, 32))
    with pytest.raises(UserError, match="scales is empty"):
        organs(stores, scales=[])
    with pytest.raises(UserError, match="no degradation given for dataset 'toy_knee'"):
        organs(stores, degradations={"toy_brain": "bicubic"})


def scored(monkeypatch: pytest.MonkeyPatch, dice: list[float]) -> None:
    """Validation's Dice, validation by validation, in place of the network's."""
    original, given = task_3d.evaluate, iter(dice)

    def made_up(*args: object, **more: object) -> dict[str, float]:
        return original(*args, **more) | {"dice": next(given)}

    monkeypatch.setattr(task_3d, "evaluate", made_up)


def test_a_score_that_is_no_number_is_never_the_best(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [0.3, 0.1, float("nan"), 0.9, 0.2, 0.1, 0.1, float("nan")]  # validation, test by turns
    scored(monkeypatch, held)
    done = run("run", segmentation(validate_every=1))
    assert curve(done, "validation", "dice") == [0.3, None, 0.2, 0.1]
    found = checkpoint.load(done / "best.pt").provenance
    assert found["step"] == 1 and found["metrics"]["validation"]["dice"] == 0.3


def test_no_score_at_all_is_an_error(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [float("nan")] * 4)
    with pytest.raises(SystemExit) as caught:
        run("run", segmentation(steps=2, validate_every=1))
    assert caught.value.code == 4
    (message,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "no validation gave a finite score" in message
    assert not (tmp_path / "run" / "best.pt").exists()


def test_the_transformer_may_learn_at_a_rate_of_its_own(run: Run) -> None:
    moved = []
    for factor in (1.0, 0.1):
        done = run(str(factor), segmentation(steps=1, encoder_rate=factor))
        torch.manual_seed(0)
        before, after = unetr.build(**VIT, classes=2).state_dict(), weights(done)
        moved.append([
            (after[key] - before[key]).abs().max().item()
            for key in ("vit.norm.bias", "out.conv.conv.bias")
        ])  # fmt: skip
    assert moved[1][0] == pytest.approx(0.1 * moved[0][0], rel=1e-3)
    assert moved[1][1] == pytest.approx(moved[0][1], rel=1e-3)
