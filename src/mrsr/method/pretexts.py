"""Self-supervised fine-tuning of the ViT on the slices to be super-resolved (section 3.2).

Three pretext tasks, each with its own loss: `organ` (the paper's: which organ is it? A
zero-initialised D x K layer and cross-entropy), and the two others that the paper tried, `masked`
(masked auto-encoding) and `contrastive`. `train_vit.py` runs them, with `phase: pretext`:

    python -m mrsr.training.train_vit --settings @vit.json --train brain.h5 knee.h5 ...

The encoder collapsed to 2D (`models/unetr.py`) is fine-tuned on crops of slices. Half of them are
degraded and upsampled again, as the losses of the super-resolution will feed it such images. The
checkpoint has the 2D encoder; D is its hidden size, since the paper's "dimension of the flattened
patches" is the one they are embedded in. Neither the prediction head of the segmentation nor that
of the pretext task is kept: the feature extractor needs neither.

All stores contribute equally, and a store's attribute gives the organ. Each dataset is degraded in
its own way, at the scales of the experiment: one ViT serves all scales, so each crop draws its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrsr import compute, resampling
from mrsr.errors import UserError
from mrsr.method.contrastive_task import Contrastive
from mrsr.method.masked_task import Masked
from mrsr.method.organ_task import Organ, histogram_classifier, organ_scores, organs_of
from mrsr.models.unetr import Encoder2d
from mrsr.params.jobs import Pretext
from mrsr.slices import batches, holding, store

_CHUNK = 32  # images of one forward pass of validation


def task(
    settings: Pretext,
    machine: compute.Machine,
    encoder: Encoder2d,
    size: tuple[int, int],
    stores: dict[str, list[Path]],
) -> SimpleNamespace:
    """A pretext task in the form that `train_vit` expects; see `segmentation.task`.

    encoder: collapsed, or trained before. size: of the crops. settings: `scales` of the degraded
    version, each as likely as the others, and `degradations`, the kind for each dataset.

    Raises:
        UserError: an unknown pretext task, fewer than two organs for `organ`, an organ that no
            training store has, slices smaller than a crop, no scale, or a dataset that is not in
            `degradations`.
    """
    named = {split: organs_of(paths) for split, paths in stores.items()}
    names = sorted(set(named["train"]))
    if settings.pretext == "organ" and len(names) < 2:
        raise UserError(
            f"the organ pretext task needs two organs or more, but the training stores have {names}; "
            "add a dataset of another organ (such as phantom_knee) or choose another pretext"
        )
    share = settings.batch // machine.world
    if settings.pretext == "contrastive" and min(settings.micro_batch or 2, share) < 2:
        raise UserError(
            "the contrastive pretext task needs 2 images or more in a micro-batch of each process"
        )
    unknown = sorted(set().union(*named.values()) - set(names))
    if unknown and settings.pretext == "organ":
        raise UserError(f"no training store has the organ '{unknown[0]}'; train on it too")
    if settings.pretext == "organ":
        network: Organ | Masked | Contrastive = Organ(encoder, len(names))
    elif settings.pretext == "masked":
        network = Masked(encoder, settings.mask_ratio)
    else:
        network = Contrastive(encoder, settings.temperature)
    network = machine.place(network)

    if not settings.scales:
        raise UserError("settings: scales is empty; give those of the experiment, such as [2, 4]")
    pools = {
        split: [(_open(path, settings, machine), names.index(organ) if organ in names else 0)
                for path, organ in zip(paths, named[split], strict=True)]
        for split, paths in stores.items() if split == "train" or machine.first
    }  # fmt: skip

    def crops(first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """HR and degraded crops and their organs: `count` of an endless stream, from `first`."""
        rows = []
        for place in range(first, first + count):
            number, which = divmod(place, len(pools["train"]))
            versions, organ = pools["train"][which]
            drawn = np.random.default_rng([settings.seed, place, 7]).integers(len(versions))
            slices = versions[drawn]
            side = size[0] + -size[0] % slices.scale
            lr, hr = batches.batch(
                slices, number, batch=1, patch=side, seed=settings.seed, augment=True
            )
            pair = (hr, resampling.upsample(lr, slices.scale))
            rows.append((*(image[..., : size[0], : size[0]] for image in pair), organ))
        fine, coarse, labels = zip(*rows, strict=True)
        return (
            _cat(fine, machine),
            _cat(coarse, machine),
            torch.tensor(labels, device=machine.device),
        )

    def draw(step: int) -> tuple[Tensor, Tensor]:
        # every process makes the whole batch and takes its share, so random numbers are as with one
        rng = np.random.default_rng([settings.seed, step, 5, 0])
        one, two = network.prepare(*crops(step * settings.batch, settings.batch), rng)
        mine = slice(machine.rank * share, (machine.rank + 1) * share)
        return one[mine], two[mine]

    def losses(forward: Callable[..., Tensor], *pair: Tensor) -> dict[str, Tensor]:
        with machine.autocast():
            return {network.term: forward(*pair)}

    held = {
        split: _held(pool, size[0], settings.validation_volumes, machine)
        for split, pool in pools.items()
        if split != "train"
    }
    trivial: dict[str, dict[str, float]] = {}
    if settings.pretext == "organ" and held:
        hr, degraded, organs = crops(0, max(256, 64 * len(stores["train"])))
        classify = histogram_classifier(torch.cat([hr, degraded]), organs.repeat(2), len(names))
        for split, (hr, degraded, organs) in held.items():
            scores = organ_scores(classify(torch.cat([hr, degraded])), organs.cpu().repeat(2))
            trivial[split] = {f"histogram_{name}": value for name, value in scores.items()}

    @torch.no_grad()
    def evaluate(split: str) -> dict[str, float]:
        """The loss (twice: by its name and as `total`), and the accuracies where there are any."""
        network.eval()
        hr, degraded, organs = held[split]
        rng = np.random.default_rng([settings.seed, 6])
        sums: dict[str, float] = {}
        # shuffled, so that a chunk has slices of many volumes
        order = torch.from_numpy(rng.permutation(len(hr))).to(hr.device)
        parts = [part for part in order.split(_CHUNK) if len(part) > 1 or len(order) == 1]
        guesses, truth = [], []
        for part in parts:
            pair = network.prepare(hr[part], degraded[part], organs[part], rng)
            with machine.autocast():
                each = {network.term: network(*pair).item(), **network.measure(*pair)}
            for name, value in each.items():
                sums[name] = sums.get(name, 0.0) + value * len(part)
            if isinstance(network, Organ):
                for images in (hr[part], degraded[part]):
                    guesses.append(network.logits(images).argmax(dim=1))
                    truth.append(organs[part])
        network.train()
        metrics = {name: value / sum(map(len, parts)) for name, value in sums.items()}
        metrics["total"] = metrics[network.term]
        if guesses:
            metrics |= organ_scores(torch.cat(guesses), torch.cat(truth)) | trivial[split]
        return metrics

    def score(metrics: dict[str, Any]) -> list[float]:
        # accuracy first: held-out organs are not balanced, and a loss may fall by that alone
        return [float(metrics.get("balanced_accuracy", 0.0)), -float(metrics["total"])]

    return SimpleNamespace(
        network=network, encoder=encoder, terms=(network.term,), splits=list(held),
        draw=draw, losses=losses, evaluate=evaluate, score=score,
    )  # fmt: skip


def _open(path: Path, settings: Pretext, machine: compute.Machine) -> list[holding.Slices]:
    """A store's slices at each of the scales, degraded as its dataset is."""
    dataset = str(store.attributes(path).get("dataset", ""))
    if dataset not in settings.degradations:
        raise UserError(
            f"{path}: no degradation given for dataset '{dataset}'; add it to `degradations`"
        )
    versions = [
        holding.load(
            path,
            scale=scale,
            degradation=settings.degradations[dataset],
            device=machine.device,
            place=settings.place,
        )
        for scale in settings.scales
    ]
    first = versions[0]
    for other in versions[1:]:  # the same HR slices; they differ in their padding alone
        if (other.canvas, other.place) == (first.canvas, first.place):
            other.hr = first.hr
    return versions


def _held(
    pool: list[tuple[list[holding.Slices], int]], size: int, volumes: int, machine: compute.Machine
) -> tuple[Tensor, Tensor, Tensor]:
    """HR and degraded central crops (n, 1, size, size) of all slices, and their organs (n,).

    The slices take the scales in turn.
    """
    hrs, degradeds, organs = [], [], []
    for versions, organ in pool:
        slices, seen = versions[0], 0
        wanted = [volume.key for volume in slices.volumes[: volumes or None]]
        for together in zip(*map(batches.whole, versions), strict=True):
            piece, _, hr = together[0]
            if piece.volume.key not in wanted:
                break
            if min(piece.size) < size:
                raise UserError(
                    f"{slices.path}: slices of {piece.size[0]}x{piece.size[1]} are smaller than "
                    f"the ViT's {size}; set a smaller vit.network.size"
                )
            top, left = ((number - size) // 2 for number in piece.size)
            centre = (..., slice(top, top + size), slice(left, left + size))
            hrs.append(hr[centre])
            for row in range(len(hr)):
                turn = (seen + row) % len(versions)
                lr = together[turn][1][row : row + 1]
                degradeds.append(resampling.upsample(lr, versions[turn].scale)[centre])
            seen += len(hr)
            organs += [organ] * len(hr)
    return _cat(hrs, machine), _cat(degradeds, machine), torch.tensor(organs, device=machine.device)


def _cat(images: Any, machine: compute.Machine) -> Tensor:
    return torch.cat(tuple(images)).to(machine.dtype)
