"""Pre-training of the ViT: 3D segmentation by Dice and cross-entropy (appendix B.1, Eq. 20).

Volumes come from the slice stores of labelled datasets (the phantom's tissues, or a folder of
image/label pairs), in the intensity scaling of super-resolution. `train_vit.py` runs it, with
`phase: segmentation`:

    python -m mrsr.training.train_vit --settings @vit.json --train train.h5 ...

Eq. 20 has squared denominators and counts the background as a class. It is computed per volume
patch and then averaged, so that micro-batches add up to the batch. If a class is neither in the
labels nor predicted, its Dice is 1 (both parts of the fraction get 1e-5).

On one CPU thread, use 2 patches or more at a time: for one small patch torch does not use the fast
3D convolution (measured with feature_size 8: 0.6 against 2.5 to 3.5 patches per second).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr import compute
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.params.jobs import Segmentation
from mrsr.slices import store
from mrsr.slices.memory import memory_available

TERMS = ("dice_loss", "cross_entropy")
_SMOOTH = 1e-5
_TRIES = 4  # attempts to find a patch with a label at its centre


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The two parts of Eq. 20, whose sum is the loss: `dice_loss` and `cross_entropy`.

    Args:
        logits: (batch, classes, D, H, W). labels: (batch, 1, D, H, W) whole numbers.
    """
    target = labels[:, 0].long()
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    given = logits.softmax(dim=1)
    over = tuple(range(2, logits.ndim))
    shared = 2 * (truth * given).sum(over) + _SMOOTH
    both = truth.square().sum(over) + given.square().sum(over) + _SMOOTH
    return {
        "dice_loss": 1 - (shared / both).mean(),
        "cross_entropy": F.cross_entropy(logits, target),
    }


def dice_scores(predicted: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Dice of each tissue (1 to classes - 1) of one volume; NaN if it is in neither.

    predicted, labels: whole numbers of one shape.
    """
    scores = []
    for label in range(1, classes):
        ours, theirs = predicted == label, labels == label
        total = int(ours.sum()) + int(theirs.sum())
        scores.append(2 * int((ours & theirs).sum()) / total if total else float("nan"))
    return scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A labelled volume of a store; `images` and `labels` are None if it stays on disk."""

    path: Path
    volume: store.StoredVolume
    image: np.ndarray | None = None
    labels: np.ndarray | None = None

    def read(self, first: int = 0, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Normalised float32 magnitudes and uint8 labels of slices, both (n, H, W)."""
        part = slice(first, None if count is None else first + count)
        if self.image is not None and self.labels is not None:
            return self.image[part], self.labels[part]
        which = range(*part.indices(self.volume.shape[0]))
        with store.open_store(self.path) as file:
            stored = store.read_slices(file, self.volume, which)
            labels = store.read_labels(file, self.volume, which)
        return _image(stored, self.volume), labels


def _image(stored: np.ndarray, volume: store.StoredVolume) -> np.ndarray:
    image = store.normalised(stored, volume)
    return np.abs(image) if np.iscomplexobj(image) else image


def load(paths: list[Path], classes: int, limit: int = 0) -> list[Labelled]:
    """The labelled volumes of stores, in memory if all fit into half of it.

    limit: number of volumes per store (0: all). A store without labels is skipped with a message.

    Raises:
        UserError: no volume has labels, or a label is not below `classes`.
    """
    chosen = []
    for path in paths:
        volumes = [volume for volume in store.read_store(path) if volume.has_labels]
        if not volumes:
            say(f"{path} has no labels and is not used for the segmentation")
        chosen += [(path, volume) for volume in volumes[: limit or None]]
    if not chosen:
        raise UserError(
            f"no labels in {', '.join(map(str, paths))}; the segmentation needs a labelled "
            "dataset (slice it again if it was sliced before labels were kept)"
        )
    needed = sum(5 * int(np.prod(volume.shape)) for _, volume in chosen)
    resident = needed < 0.5 * memory_available(torch.device("cpu"))
    held = []
    for path, volume in chosen:
        labels = store.read_labels(path, volume)
        if labels.max() >= classes:
            raise UserError(
                f"{path}: {volume.path} has label {labels.max()}, but classes is {classes}; "
                "set vit.classes to the largest label plus 1"
            )
        if resident:
            image = _image(store.read_slices(path, volume), volume)
            held.append(Labelled(path=path, volume=volume, image=image, labels=labels))
        else:
            held.append(Labelled(path=path, volume=volume))
    return held


def patches(
    volumes: list[Labelled],
    step: int,
    *,
    batch: int,
    size: tuple[int, int, int],
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> tuple[Tensor, Tensor]:
    """Images and labels (batch / world, 1, *size): float32 and uint8, on the CPU.

    A pure function of (volumes, seed, step), like `batches.batch`. Half of the patches have a
    labelled voxel at their centre, if a few attempts find one. Each is flipped at random along its
    three axes, and its intensities are scaled by 0.9 to 1.1. Volumes smaller than `size` are
    padded.
    """
    n = len(volumes)
    share = batch // world
    images = torch.empty(share, 1, *size)
    labels = torch.empty(share, 1, *size, dtype=torch.uint8)
    for row in range(share):
        place = step * batch + rank * share + row  # in an endless stream of permutations
        order = np.random.default_rng([seed, place // n, 3]).permutation(n)
        rng = np.random.default_rng([seed, place, 4])
        image, label = _cut(volumes[order[place % n]], size, rng)
        flips = tuple(int(axis) for axis in np.flatnonzero(rng.random(3) < 0.5))
        gain = np.float32(rng.uniform(0.9, 1.1))
        images[row, 0] = torch.from_numpy(np.flip(image, flips) * gain)
        labels[row, 0] = torch.from_numpy(np.flip(label, flips).copy())
    return images, labels


def _cut(
    held: Labelled, size: tuple[int, int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    room = [max(0, have - want) for have, want in zip(held.volume.shape, size, strict=True)]
    wanted = rng.random() < 0.5
    for corner in rng.integers(0, np.array(room) + 1, (_TRIES if wanted else 1, 3)):
        z, y, x = (int(number) for number in corner)
        image, labels = held.read(z, size[0])
        image, labels = (part[:, y : y + size[1], x : x + size[2]] for part in (image, labels))
        if labels[tuple(number // 2 for number in labels.shape)]:
            break
    missing = [(0, want - have) for have, want in zip(image.shape, size, strict=True)]
    if any(after for _, after in missing):
        image, labels = np.pad(image, missing, mode="edge"), np.pad(labels, missing, mode="edge")
    return image, labels


def segmented(network: nn.Module, image: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(n, 1, D, H, W) -> logits (n, classes, D, H, W), by windows of `size` (appendix B.1)."""
    from monai.inferers import sliding_window_inference

    found = sliding_window_inference(image, size, 4, network, overlap=0.5)
    return cast(Tensor, found)  # of one output, a tensor


@torch.no_grad()
def evaluate(
    network: nn.Module,
    volumes: list[Labelled],
    machine: compute.Machine,
    *,
    size: tuple[int, int, int],
    classes: int,
) -> dict[str, float]:
    """Eq. 20, the mean tissue Dice (`dice`) and each tissue's (`dice_1`, ...) on whole volumes.

    With a sliding window of `size`, overlap 0.5 (appendix B.1). Means over the volumes that have
    the tissue.
    """
    network.eval()
    terms, scores = [], []
    for held in volumes:
        image, labels = (torch.from_numpy(part)[None, None] for part in held.read())
        with machine.autocast():
            found = segmented(network, image.to(machine.device, machine.dtype), size)
        logits = found.to(machine.dtype)
        labels = labels.to(machine.device)
        each = dice_cross_entropy(logits, labels)
        terms.append([float(each[name]) for name in TERMS])
        scores.append(dice_scores(logits.argmax(dim=1)[0], labels[0, 0], classes))
    network.train()
    metrics = dict(zip(TERMS, np.mean(terms, axis=0).tolist(), strict=True))
    metrics["total"] = sum(metrics.values())
    table = np.array(scores)
    seen = ~np.isnan(table).all(axis=0)
    tissues = {f"dice_{i + 1}": float(np.nanmean(table[:, i])) for i in np.flatnonzero(seen)}
    return {**metrics, "dice": float(np.mean(list(tissues.values()) or [0.0])), **tissues}


def task(
    settings: Segmentation,
    machine: compute.Machine,
    network: nn.Module,
    stores: dict[str, list[Path]],
) -> SimpleNamespace:
    """What `train_vit` needs of a phase; `pretexts.task` returns the same for a pretext task.

    network: to be trained. terms: names of the loss terms. draw(step): a pair of tensors, this
    process's share. losses(forward, *pair): the terms, whose sum is minimised. evaluate(split):
    metrics. score(metrics): to be maximised, the first number first. encoder: the part to save,
    here the whole network.
    """
    size, classes = settings.network.size, settings.classes
    training = load(stores["train"], classes)
    held = {
        split: load(stores[split], classes, settings.validation_volumes)
        for split in ("validation", "test")
        if stores.get(split) and machine.first
    }

    def draw(step: int) -> tuple[Tensor, Tensor]:
        images, labels = patches(
            training,
            step,
            batch=settings.batch,
            size=size,
            seed=settings.seed,
            rank=machine.rank,
            world=machine.world,
        )
        return images.to(machine.device, machine.dtype), labels.to(machine.device)

    def losses(forward: Callable[..., Tensor], *pair: Tensor) -> dict[str, Tensor]:
        with machine.autocast():
            logits = forward(pair[0])
        return dice_cross_entropy(logits.to(machine.dtype), pair[1])

    def measure(split: str) -> dict[str, float]:
        return evaluate(network, held[split], machine, size=size, classes=classes)

    def score(metrics: dict[str, Any]) -> list[float]:
        return [float(metrics["dice"])]

    return SimpleNamespace(
        network=network, encoder=network, terms=TERMS, splits=list(held),
        draw=draw, losses=losses, evaluate=measure, score=score,
    )  # fmt: skip
