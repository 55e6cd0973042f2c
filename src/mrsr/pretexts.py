"""Self-supervised fine-tuning of the ViT on the slices to be super-resolved (section 3.2).

Three pre-text tasks, each with a loss of its own: `organ` (the paper's: which organ is it? a
zero-initialised D x K layer and cross-entropy), `masked` (masked auto-encoding) and `contrastive`,
the other two that the paper tried. `train_vit.py` runs them:
`python -m mrsr.train_vit --settings @vit.json --train brain.h5 knee.h5 ...` with `phase: pretext`.

What is fine-tuned is the encoder collapsed to 2D (`models/unetr.py`), on crops of slices, half of
them degraded and upsampled again: exactly what the losses of the super-resolution show it. Its
checkpoint holds the 2D encoder; D is its hidden size, since the paper's "dimension of the flattened
patches" is the one they are embedded in. The prediction head of the segmentation is dropped by the
collapse, and the pre-text's own head is not kept: the feature extractor needs neither.

Stores are pooled evenly, and the organ is the attribute of the store. Each dataset is degraded its
own way, at the scales of the experiment: one ViT serves all of them, so each crop draws its scale
by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr import batches, degrade, loop, store
from mrsr.errors import UserError
from mrsr.models.unetr import PATCH, Encoder2d
from mrsr.precision import full

PRETEXTS = ("organ", "masked", "contrastive")
_CHUNK = 32  # images of one forward pass of validation
_BINS, _BRIGHTEST = 32, 1.5  # of the trivial classifier's histograms


class Organ(nn.Module):
    """Which organ? Zero-initialised D x K layer on the mean token, cross-entropy over K organs."""

    term = "cross_entropy"

    def __init__(self, encoder: Encoder2d, organs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.hidden, organs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def logits(self, images: Tensor) -> Tensor:
        """(batch, organs) of images (batch, 1, H, W)."""
        return self.head(self.encoder(images, [-1])[0].mean(dim=1))

    def prepare(
        self, hr: Tensor, degraded: Tensor, organs: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The pair that `forward` takes: either version of each image, and its organ."""
        return _either(hr, degraded, rng), organs

    def forward(self, images: Tensor, organs: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return F.cross_entropy(full(self.logits(images)), organs)

    def measure(self, images: Tensor, organs: Tensor) -> dict[str, float]:
        """Nothing beyond the loss; accuracies are of all images together, see `organ_scores`."""
        return {}


class Masked(nn.Module):
    """What is under the mask? Mean squared error of the masked patches' pixels.

    A learned token takes the place of the masked patches, and one linear layer, zero at first,
    predicts the pixels from the tokens. mask_ratio: the part of the patches that is masked.
    """

    term = "squared_error"

    def __init__(self, encoder: Encoder2d, mask_ratio: float) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio must lie between 0 and 1, not {mask_ratio}")
        self.encoder = encoder
        self.mask_ratio = mask_ratio
        self.token = nn.Parameter(torch.zeros(encoder.hidden))
        self.head = nn.Linear(encoder.hidden, PATCH * PATCH)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def prepare(
        self, hr: Tensor, degraded: Tensor, organs: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Either version of each image, and (batch, tokens) 1 where a patch is masked."""
        images = _either(hr, degraded, rng)
        count = -(-hr.shape[-2] // PATCH) * -(-hr.shape[-1] // PATCH)
        if count < 2:
            raise UserError("the masked pre-text needs crops of 2 patches or more, 32 pixels")
        masked = min(count - 1, max(1, round(self.mask_ratio * count)))
        order = rng.random((len(hr), count)).argsort(axis=1)
        return images, torch.from_numpy(order < masked).to(hr)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        tokens, grid = self.encoder.patches(images)
        where = mask[..., None] > 0
        tokens = torch.where(where, self.token.to(tokens.dtype), tokens)
        states = self.encoder.states(tokens + self.encoder.position(grid), [-1])
        wanted = F.unfold(degrade.pad_to(images, PATCH)[0], PATCH, stride=PATCH).mT
        error = (full(self.head(states[0])) - wanted).square().mean(dim=2)
        return (error * mask).sum() / mask.sum()

    def measure(self, images: Tensor, mask: Tensor) -> dict[str, float]:
        """Nothing beyond the loss."""
        return {}


class Contrastive(nn.Module):
    """Which two are views of one slice? Normalised temperature-scaled cross-entropy (SimCLR).

    Two random views of each image (part, flip, gain, version); the others of the micro-batch are
    what they are told from, so a micro-batch needs at least two images.
    """

    term = "nt_xent"

    def __init__(self, encoder: Encoder2d, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, not {temperature}")
        self.encoder = encoder
        self.temperature = temperature
        hidden = encoder.hidden
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, min(128, hidden))
        )

    def prepare(
        self, hr: Tensor, degraded: Tensor, organs: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Two views of every image."""
        one, two = (_view(_either(hr, degraded, rng), rng) for _ in range(2))
        return one, two

    def _similarities(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        codes = full(self.head(self.encoder(torch.cat([one, two]), [-1])[0].mean(dim=1)))
        codes = F.normalize(codes, dim=1)
        own = torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        table = (codes @ codes.mT / self.temperature).masked_fill(own, float("-inf"))
        return table, torch.arange(len(codes), device=codes.device).roll(len(one))

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        table, partner = self._similarities(one, two)
        return F.cross_entropy(table, partner)

    def measure(self, one: Tensor, two: Tensor) -> dict[str, float]:
        """`accuracy`: how often the most similar view is the other one of the same slice."""
        table, partner = self._similarities(one, two)
        return {"accuracy": float((table.argmax(dim=1) == partner).float().mean())}


def _either(hr: Tensor, degraded: Tensor, rng: np.random.Generator) -> Tensor:
    """Of each pair of images the HR or the degraded one, at random."""
    chosen = torch.from_numpy(rng.random((len(hr), 1, 1, 1)) < 0.5).to(hr.device)
    return torch.where(chosen, hr, degraded)


def _view(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A random part (0.6 to 1 of the side), flipped at random, intensities times 0.8 to 1.2."""
    n = len(images)
    side = rng.uniform(0.6, 1.0, n)
    flip = np.where(rng.random((2, n)) < 0.5, -1.0, 1.0)
    shift = rng.uniform(-1, 1, (2, n)) * (1 - side)
    theta = np.zeros((n, 2, 3))
    theta[:, 0, 0], theta[:, 1, 1] = side * flip[0], side * flip[1]
    theta[:, 0, 2], theta[:, 1, 2] = shift
    grid = F.affine_grid(torch.from_numpy(theta).to(images), list(images.shape), False)
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (n, 1, 1, 1))).to(images)
    return gain * F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def organ_scores(predicted: Tensor, organs: Tensor) -> dict[str, float]:
    """Accuracy, and balanced accuracy: the mean over organs of the part found. Both (n,)."""
    right = (predicted == organs).double()
    each = [float(right[organs == organ].mean()) for organ in organs.unique()]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(each))}


def histogram_classifier(images: Tensor, organs: Tensor, count: int) -> Callable[[Tensor], Tensor]:
    """The trivial classifier to compare with: logistic regression on an image's histogram.

    images: (n, 1, H, W), organs: (n,) to learn from. Returns a function from images to organs. It
    sees how often each of 32 intensities occurs and no position: what it gets right needs no ViT.
    """

    def histogram(pictures: Tensor) -> Tensor:
        bins = (pictures.flatten(1).double().cpu() * (_BINS / _BRIGHTEST)).long()
        return F.one_hot(bins.clamp(0, _BINS - 1), _BINS).double().mean(dim=1).sqrt()

    seen, organs = histogram(images), organs.cpu()
    layer = nn.Linear(_BINS, count).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    # rare organs count as much as common ones, as in balanced accuracy
    share = len(organs) / (count * torch.bincount(organs, minlength=count).clamp(min=1).double())
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(seen), organs, weight=share)
        loss = loss + 1e-4 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda pictures: layer(histogram(pictures)).argmax(dim=1).detach()


def organs_of(paths: list[Path]) -> list[str]:
    """The organ of each store.

    Raises:
        UserError: a store does not say.
    """
    found = [str(store.attributes(path).get("organ", "")) for path in paths]
    for path, organ in zip(paths, found, strict=True):
        if not organ:
            raise UserError(
                f"{path} does not say which organ it shows; set `organ` and slice again"
            )
    return found


def task(
    settings: SimpleNamespace,
    machine: loop.Machine,
    encoder: Encoder2d,
    size: tuple[int, int],
    stores: dict[str, list[Path]],
) -> SimpleNamespace:
    """A pre-text as `train_vit`'s loop takes it; see `segmentation.task`.

    encoder: collapsed, or trained before. size: of the crops. settings: `scales` of the degraded
    version, each as likely as the others, and `degradations`, the kind for each dataset.

    Raises:
        UserError: an unknown pre-text, fewer than two organs for `organ`, an organ that is not in
            the training stores, slices smaller than a crop, no scale, a dataset that
            `degradations` does not have.
    """
    named = {split: organs_of(paths) for split, paths in stores.items()}
    names = sorted(set(named["train"]))
    if settings.pretext == "organ" and len(names) < 2:
        raise UserError(
            f"the organ pre-text needs two organs or more, the training stores show {names}; add "
            "a dataset of another organ (such as phantom_knee) or choose another pretext"
        )
    share = settings.batch // machine.world
    if settings.pretext == "contrastive" and min(settings.micro_batch or 2, share) < 2:
        raise UserError(
            "the contrastive pre-text needs 2 images or more in a micro-batch of each process"
        )
    unknown = sorted(set().union(*named.values()) - set(names))
    if unknown and settings.pretext == "organ":
        raise UserError(f"no training store shows the organ '{unknown[0]}'; train on it too")
    if settings.pretext == "organ":
        network: nn.Module = Organ(encoder, len(names))
    elif settings.pretext == "masked":
        network = Masked(encoder, settings.mask_ratio)
    elif settings.pretext == "contrastive":
        network = Contrastive(encoder, settings.temperature)
    else:
        raise UserError(f"pretext must be one of {', '.join(PRETEXTS)}, not '{settings.pretext}'")
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
            pair = (hr, degrade.upsample(lr, slices.scale))
            rows.append((*(image[..., : size[0], : size[0]] for image in pair), organ))
        hr, degraded, organs = zip(*rows, strict=True)
        return (
            _cat(hr, machine),
            _cat(degraded, machine),
            torch.tensor(organs, device=machine.device),
        )

    def draw(step: int) -> tuple[Tensor, Tensor]:
        # all processes make the whole batch and take their share: chances as with one process
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
        # in another order than the volumes', so that a chunk holds slices of many
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
        # accuracy first: held-out organs are not evenly many, and a loss may fall by that alone
        return [float(metrics.get("balanced_accuracy", 0.0)), -float(metrics["total"])]

    return SimpleNamespace(
        network=network, encoder=encoder, terms=(network.term,), splits=list(held),
        draw=draw, losses=losses, evaluate=evaluate, score=score,
    )  # fmt: skip


def _open(path: Path, settings: SimpleNamespace, machine: loop.Machine) -> list[batches.Slices]:
    """A store's slices at each of the scales, degraded as its dataset is."""
    dataset = str(store.attributes(path).get("dataset", ""))
    if dataset not in settings.degradations:
        raise UserError(
            f"{path}: settings do not say how dataset '{dataset}' is degraded; add it to "
            "`degradations`"
        )
    versions = [
        batches.load(
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
    pool: list[tuple[list[batches.Slices], int]], size: int, volumes: int, machine: loop.Machine
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
                degradeds.append(degrade.upsample(lr, versions[turn].scale)[centre])
            seen += len(hr)
            organs += [organ] * len(hr)
    return _cat(hrs, machine), _cat(degradeds, machine), torch.tensor(organs, device=machine.device)


def _cat(images: Any, machine: loop.Machine) -> Tensor:
    return torch.cat(tuple(images)).to(machine.dtype)
