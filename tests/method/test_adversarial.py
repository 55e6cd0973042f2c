"""Adversarial losses against hand-computed values: `pytest tests/method/test_adversarial.py`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mrsr.method import adversarial, discriminator


def test_generator_loss_is_minus_log_of_the_sigmoid() -> None:
    logits = torch.tensor([[0.3], [-1.2]])
    expected = -torch.log(torch.sigmoid(logits)).mean()
    assert torch.isclose(adversarial.generator_loss(logits), expected)


def test_the_loss_of_a_hopeless_generator_is_finite_and_has_a_gradient() -> None:
    logits = torch.full((1, 1), -200.0, requires_grad=True)  # sigmoid rounds to zero
    loss = adversarial.generator_loss(logits)
    loss.backward()
    assert loss.item() == pytest.approx(200.0) and logits.grad.item() == pytest.approx(-1.0)


def test_discriminator_loss_and_accuracies() -> None:
    real, fake = torch.tensor([[2.0], [-1.0]]), torch.tensor([[-3.0], [0.5]])
    expected = -sum(math.log(1 / (1 + math.exp(-x))) for x in (2.0, -1.0)) / 2
    expected -= sum(math.log(1 - 1 / (1 + math.exp(-x))) for x in (-3.0, 0.5)) / 2
    assert adversarial.discriminator_loss(real, fake).item() == pytest.approx(expected)
    undecided = adversarial.discriminator_loss(torch.zeros(1), torch.zeros(1))
    assert undecided.item() == pytest.approx(2 * math.log(2))
    assert adversarial.accuracy(real, real=True).item() == 0.5
    assert adversarial.accuracy(fake, real=False).item() == 0.5


def test_r1_is_the_squared_gradient_norm_per_image() -> None:
    weights = torch.randn(1, 1, 4, 4)
    images = torch.rand(3, 1, 4, 4, requires_grad=True)
    logits = (images * weights).sum(dim=(1, 2, 3))[:, None]
    expected = weights.square().sum().item()
    assert adversarial.r1_penalty(logits, images).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("r1", [0.0, 10.0])
def test_terms_reach_the_discriminator_and_not_the_generator(r1: float) -> None:
    network = discriminator.build(2, base=4)
    fake = torch.rand(2, 1, 16, 16, requires_grad=True)
    total, terms = adversarial.discriminator_terms(network, torch.rand(2, 1, 16, 16), fake, r1)
    total.backward()
    assert tuple(terms) == adversarial.TERMS
    assert fake.grad is None
    assert all(parameter.grad is not None for parameter in network.maps.parameters())
    expected = terms["discriminator"] + 0.5 * r1 * terms["r1"]
    assert torch.isclose(total, expected) and (terms["r1"] > 0) == (r1 > 0)


def test_frozen_passes_gradients_through_and_keeps_none() -> None:
    network = discriminator.build(2, base=4)
    network.logit.bias.requires_grad_(False)
    image = torch.rand(2, 1, 16, 16, requires_grad=True)
    with adversarial.frozen(network):
        adversarial.generator_loss(network(image)).backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.logit.weight.requires_grad and not network.logit.bias.requires_grad


def buffers(network: nn.Module) -> dict[str, Tensor]:
    """Running statistics of a discriminator, copied."""
    return {key: value.clone() for key, value in network.named_buffers()}


def test_looking_through_a_discriminator_moves_none_of_its_statistics() -> None:
    torch.manual_seed(0)
    network = discriminator.build(2, base=4)
    images = torch.rand(3, 1, 16, 16)
    before = buffers(network)
    with adversarial.frozen(network):
        frozen = network(images)
    assert before and all(
        torch.equal(value, before[key]) for key, value in buffers(network).items()
    )
    assert torch.equal(frozen, network(images))  # in training mode: statistics of the batch
    assert not all(torch.equal(value, before[key]) for key, value in buffers(network).items())


def test_one_process_alone_judges_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(discriminator.build(2, base=4))
    images = torch.rand(3, 1, 16, 16)
    with adversarial.frozen(network):
        expected = network(images)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="SyncBatchNorm"):  # it would wait for the others
        network(images)
    before = buffers(network)
    with adversarial.on_batch_statistics(network):
        found = network(images)
    torch.testing.assert_close(found, expected)
    assert network.training and all(module.training for module in network.modules())
    after = buffers(network)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_a_discriminator_learns_to_tell_noise_from_flat_images() -> None:
    torch.manual_seed(0)
    network = discriminator.build(2, base=4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        real, fake = torch.rand(4, 1, 16, 16), torch.rand(4, 1, 1, 1).expand(-1, -1, 16, 16)
        total, terms = adversarial.discriminator_terms(network, real, fake)
        total.backward()
        optimizer.step()
    assert terms["accuracy_real"] == 1 and terms["accuracy_fake"] == 1
