"""The cosine distance of codes: `pytest tests/method/test_distances.py`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mrsr.method import disentangling, distances


def test_distance_is_one_minus_the_cosine() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0]] * 3)
    b[1:] = torch.tensor([[2.0, 4.0], [-1.0, 0.0]])
    found = distances.cosine(a, b).tolist()
    assert found == pytest.approx([1 - 1 / math.sqrt(2), 0.0, 2.0], abs=1e-7)
    a, b = torch.randn(7, 30, dtype=torch.float64), torch.randn(7, 30, dtype=torch.float64)
    torch.testing.assert_close(distances.cosine(a, b), 1 - F.cosine_similarity(a, b))


def test_nearly_parallel_codes_keep_their_digits_in_float32() -> None:
    torch.manual_seed(0)
    a = torch.randn(1000, dtype=torch.float64)
    b = a + 1e-4 * torch.randn(1000, dtype=torch.float64)
    exact = distances.cosine(a, b).item()
    assert exact < 1e-8
    assert distances.cosine(a.float(), b.float()).item() == pytest.approx(exact, rel=0.01)


def test_a_code_of_zeros_counts_nothing_and_pulls_nowhere() -> None:
    a = torch.zeros(2, 4, requires_grad=True)
    value = distances.cosine(a, torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 0]])).sum()
    value.backward()
    assert value.item() == 0 and torch.equal(a.grad, torch.zeros(2, 4))


def test_the_share_of_nearly_parallel_codes_keeps_its_digits() -> None:
    """Texture codes of HR and bicubic images are 1e-6 apart."""
    torch.manual_seed(0)
    own = torch.randn(3, 256, dtype=torch.float64)
    code = own + 1e-4 * torch.randn(3, 256, dtype=torch.float64)
    other = own + 2e-4 * torch.randn(3, 256, dtype=torch.float64)
    near, far = (1 - F.cosine_similarity(code, one) for one in (own, other))
    assert far.max() < 1e-6
    found = disentangling.share(code.float(), own.float(), other.float()).double()
    torch.testing.assert_close(found, near / (near + far), rtol=0.01, atol=0)


def test_the_share_of_equal_codes_is_a_half_and_pulls_nowhere() -> None:
    code = torch.ones(1, 4, requires_grad=True)
    share = disentangling.share(code, torch.ones(1, 4), torch.ones(1, 4))
    share.sum().backward()
    assert share.item() == 0.5 and torch.equal(code.grad, torch.zeros(1, 4))
