"""Losses of the ViT's trainings by hand: `pytest tests/method/test_pretexts.py`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrsr.errors import UserError
from mrsr.method import contrastive_task, masked_task, organ_task, segmentation
from mrsr.models import unetr


def encoder() -> unetr.Encoder2d:
    torch.manual_seed(0)
    return unetr.build(hidden=16, layers=2, heads=2, mlp=32, size=[16, 32, 32], dimensions=2)


def images(n: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_equation_20_by_hand() -> None:
    # two voxels, two classes: probabilities (0.8, 0.2) of a 0 and (0.4, 0.6) of a 1
    given = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    logits = given.log().T.reshape(1, 2, 1, 1, 2)
    found = segmentation.dice_cross_entropy(logits, torch.tensor([0, 1]).reshape(1, 1, 1, 1, 2))
    first = 0.8 / (1 + 0.8**2 + 0.4**2)
    second = 0.6 / (1 + 0.2**2 + 0.6**2)
    assert found["dice_loss"].item() == pytest.approx(1 - 2 / 2 * (first + second), abs=1e-4)
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert found["cross_entropy"].item() == pytest.approx(expected, abs=1e-5)


def test_equation_20_is_a_mean_over_the_batch_and_perfect_is_zero() -> None:
    labels = torch.randint(0, 3, (4, 1, 2, 3, 4))
    logits = torch.randn(4, 3, 2, 3, 4)
    whole = segmentation.dice_cross_entropy(logits, labels)
    parts = [
        segmentation.dice_cross_entropy(one, two)
        for one, two in zip(logits.split(1), labels.split(1), strict=True)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(value, sum(part[name] for part in parts) / 4)
    perfect = 50.0 * torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
    assert sum(segmentation.dice_cross_entropy(perfect, labels).values()) < 1e-5


def test_dice_scores() -> None:
    labels, predicted = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 0, 2])
    found = segmentation.dice_scores(predicted, labels, 4)
    assert found[:2] == [0.5, 1.0] and math.isnan(found[2])


def test_organ_head_starts_at_zero_and_learns() -> None:
    network = organ_task.Organ(encoder(), 3)
    assert sum(p.abs().sum() for p in network.head.parameters()) == 0
    assert network.head.weight.shape == (3, 16)
    organs = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = network(images(), organs)
    assert loss.item() == pytest.approx(math.log(3))
    loss.backward()
    assert network.head.weight.grad.abs().max() > 0
    assert organ_task.organ_scores(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2])) == {
        "accuracy": 0.75,
        "balanced_accuracy": 0.5,
    }


def test_masked_pixels_alone_are_predicted_and_cannot_be_seen() -> None:
    network = masked_task.Masked(encoder(), 0.5)
    hr = images()
    same, mask = network.prepare(hr, hr, torch.zeros(6), np.random.default_rng(0))
    assert torch.equal(same, hr) and mask.shape == (6, 4) and (mask.sum(dim=1) == 2).all()
    # the head predicts nothing at first: the loss is the masked pixels' mean square
    pixels = hr.unfold(2, 16, 16).unfold(3, 16, 16).reshape(6, 4, 256)
    expected = (pixels.square().mean(dim=2) * mask).sum() / mask.sum()
    torch.testing.assert_close(network(hr, mask), expected)
    torch.nn.init.normal_(network.head.weight)
    tokens = []
    hook = network.head.register_forward_hook(lambda _, given, __: tokens.append(given[0]))
    blank = hr * (1 - mask.reshape(6, 1, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3))
    for pictures in (hr, blank):
        network(pictures, mask)
    hook.remove()
    assert torch.equal(*tokens)


def test_contrastive_by_hand() -> None:
    network = contrastive_task.Contrastive(encoder(), 0.5)
    one, two = images(3, 1), images(3, 2)
    codes = network.head(network.encoder(torch.cat([one, two]))[-1].mean(dim=1))
    codes = torch.nn.functional.normalize(codes, dim=1).detach()
    expected = 0.0
    for i in range(6):
        table = [math.exp(float(codes[i] @ codes[j]) / 0.5) for j in range(6)]
        expected -= math.log(table[(i + 3) % 6] / (sum(table) - table[i])) / 6
    assert network(one, two).item() == pytest.approx(expected, rel=1e-4)
    assert network.measure(one, one)["accuracy"] == 1.0
    views = network.prepare(one, one, torch.zeros(3), np.random.default_rng(0))
    assert views[0].shape == one.shape and not torch.equal(*views)


def test_either_version_is_seen() -> None:
    hr, degraded = torch.ones(50, 1, 2, 2), torch.zeros(50, 1, 2, 2)
    seen, _ = organ_task.Organ(encoder(), 2).prepare(
        hr, degraded, torch.zeros(50), np.random.default_rng(0)
    )
    assert 10 < seen[:, 0, 0, 0].sum() < 40
    assert torch.equal(seen, seen[:, :, :1, :1].expand_as(seen))


def test_histogram_classifier_sees_intensities_and_no_shape() -> None:
    dark, bright = 0.3 * images(20, 1), 0.3 * images(20, 2) + 0.6
    organs = torch.tensor([0] * 20 + [1] * 20)
    classify = organ_task.histogram_classifier(torch.cat([dark, bright]), organs, 2)
    assert torch.equal(classify(torch.cat([0.3 * images(3, 5), 0.3 * images(3, 6) + 0.6])),
                       torch.tensor([0, 0, 0, 1, 1, 1]))  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda: masked_task.Masked(encoder(), 1.0),
        lambda: contrastive_task.Contrastive(encoder(), 0.0),
    ],
)
def test_numbers_out_of_range(make: object) -> None:
    with pytest.raises(UserError):
        make()
