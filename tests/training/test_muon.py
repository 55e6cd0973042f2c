"""Muon: its update, which parameters it takes, resume. Run: pytest tests/training/test_muon.py"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders import equal, in_step, lines, read, sr
from mrsr import models
from mrsr.params.jobs import SuperResolution
from mrsr.params.schema import Optimizer
from mrsr.training import muon, optimizers

SETTINGS = Optimizer(name="muon", lr=1e-3, muon_lr=5e-3, weight_decay=0.1)


def test_singular_values_become_one_and_vectors_stay() -> None:
    torch.manual_seed(0)
    for shape in ((6, 20), (20, 6), (7, 7)):
        matrix = torch.randn(shape, dtype=torch.float64)
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        found = muon.orthogonalised(matrix[None])[0]
        inner = u.T @ found @ v.T  # diagonal: the new singular values
        torch.testing.assert_close(inner, inner.diagonal().diag(), rtol=0, atol=1e-9)
        assert values.max() / values.min() > 1.5
        assert inner.diagonal().min() > 0.5 and inner.diagonal().max() < 1.3


def test_a_vector_of_length_three_by_hand() -> None:
    """Rank one: the only singular value is 1 after scaling, and the polynomial acts on it alone."""
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    found = muon.orthogonalised(torch.tensor([[[2.0, 1.0, 2.0]]], dtype=torch.float64))[0]
    expected = value * torch.tensor([[2.0, 1.0, 2.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(found, expected)
    assert not muon.orthogonalised(torch.zeros(2, 3, 4)).any()


def test_it_is_torchs_muon_for_matrices() -> None:
    """torch iterates in bfloat16, so steps agree to a percent of their size."""
    torch.manual_seed(0)
    start, gradients = torch.randn(12, 8), torch.randn(3, 12, 8)
    weights = [nn.Parameter(start.clone()) for _ in range(2)]
    ours = muon.Muon([weights[0]], lr=0.1, weight_decay=0.2)
    theirs = torch.optim.Muon(
        [weights[1]], lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in gradients:
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (weights[1] - start).norm()
    assert (weights[0] - weights[1]).norm() < 0.02 * moved
    assert moved > 0.1


def test_a_convolution_is_a_matrix_in_any_memory_layout() -> None:
    torch.manual_seed(0)
    kernel, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(kernel.clone().to(memory_format=layout))
        weight.grad = gradient.clone().to(memory_format=layout)
        muon.Muon([weight], lr=0.1, weight_decay=0.0).step()
        assert weight.is_contiguous(memory_format=layout)
        found.append(weight.detach())
    flat = nn.Parameter(kernel.flatten(1))
    flat.grad = gradient.flatten(1)
    muon.Muon([flat], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0].flatten(1), flat.detach())


def test_which_parameters_go_where() -> None:
    network = models.build("seran", 2, {"features": 4, "blocks": 1, "descriptors": 2, "width": 2})
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    matrices, rest = optimizers.optimizer_for(network, SETTINGS).param_groups
    given = [[names[id(parameter)] for parameter in group["params"]] for group in (matrices, rest)]
    assert sorted(given[0] + given[1]) == sorted(names.values())  # each once
    assert all(name.endswith(".weight") for name in given[0])
    hidden = {
        "trunk.weight",
        "blocks.0.attention.value.weight",
        "blocks.0.attention.reasoning.key.weight",
    }
    assert hidden <= set(given[0])
    assert {"first.weight", "last.weight", "first.bias", "trunk.bias"} <= set(given[1])
    assert all(p.ndim >= 2 for p in matrices["params"])
    norms = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1),
        nn.Linear(4, 1),
    )  # fmt: skip
    assert [id(p) for p in muon.hidden_matrices(norms)] == [id(norms[3].weight)]
    alone = muon.pair(nn.Linear(2, 2), SETTINGS)  # the first and the last layer
    assert [len(group["params"]) for group in alone.param_groups] == [2]


def test_both_rates_follow_the_schedule() -> None:
    job = read(SuperResolution, sr(optimizer={"name": "muon", "lr": 1e-3, "muon_lr": 5e-3}))
    network = models.build("srresnet", 2, {"features": 4, "blocks": 1})
    optimizer = optimizers.optimizer_for(network, job.optimizer)
    for step in (1, job.steps):
        rate = optimizers.set_scheduled_rate(optimizer, job, step)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5 * rate, rate])


MUON = {"optimizer": {"name": "muon", "lr": 1e-3, "muon_lr": 5e-3, "weight_decay": 0.1}}


class Killed(Exception):
    """Stands for kill -9."""


def _killed() -> None:
    raise Killed


def test_it_resumes_bit_for_bit(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {**MUON, "steps": 6, "checkpoint_every": 2, "validate_every": 3}
    changes["model"] = {"name": "srresnet", "options": {"features": 8, "blocks": 1}}
    whole = run("whole", **changes)
    in_step(monkeypatch, 4, _killed)
    with pytest.raises(Killed):
        run("broken", **changes)
    assert equal(run("broken", **changes), whole)
    assert lines(whole)[0]["settings"]["optimizer"]["muon_lr"] == 5e-3
