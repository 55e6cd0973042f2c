"""Validation of the super-resolution training: `pytest tests/training/test_validation.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders import read, sr
from mrsr import models
from mrsr.compute import Machine
from mrsr.method import adversarial, features
from mrsr.method import discriminator as discriminators
from mrsr.params.jobs import SuperResolution
from mrsr.params.schema import Features
from mrsr.slices import batches, holding
from mrsr.training import validation

MACHINE = Machine(torch.device("cpu"))
WEIGHTS = {"l1": 1.0, "adversarial": 2.0}


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_the_adversarial_term_is_that_of_a_training_step(stores: Path, micro_batch: int) -> None:
    """Statistics of the batch, as in training, and the running ones stay as they are."""
    torch.manual_seed(0)
    path = stores / "validation.h5"
    held = holding.load(path, scale=2, degradation="bicubic", device=MACHINE.device)
    generator = models.build("srresnet", 2, {"features": 4, "blocks": 1})
    discriminator = discriminators.build(2, base=2)
    frozen = features.load(WEIGHTS, Features(validation_patches=3), {}, MACHINE, 0)
    settings = read(SuperResolution, sr(micro_batch=micro_batch))

    lr, _ = batches.batch(held, 0, batch=3, patch=16, seed=0, augment=False)
    with torch.no_grad(), adversarial.frozen(discriminator):
        logits = discriminator(generator.eval()(lr))
    before = {key: value.clone() for key, value in discriminator.named_buffers()}
    found = validation.evaluate(generator, held, MACHINE, settings, WEIGHTS, frozen, discriminator)
    expected = adversarial.generator_loss(logits).item()
    assert found["adversarial"] == pytest.approx(expected, rel=1e-5)
    assert found["total"] == pytest.approx(found["l1"] + 2.0 * found["adversarial"])
    after = dict(discriminator.named_buffers())
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert discriminator.training and generator.training
