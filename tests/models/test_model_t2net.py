"""T2Net: the count, the search, the task transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr import models
from mrsr.models import t2net
from mrsr.resampling import upsample

SMALL = {"features": 6, "blocks": 2}
LINKED = [SMALL, SMALL | {"window": 4}]
NETWORKS = [*LINKED, SMALL | {"transfer": "none"}, SMALL | {"skip": "bicubic"}]


def make(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("t2net", scale, options)


def same(network: nn.Module, **options: Any) -> nn.Module:
    """A network of other options with the same weights."""
    other = make(**options)
    other.load_state_dict(network.state_dict())
    return other


def similarities(query: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """All cosine similarities (b, queries, keys), and the patches of `source`."""
    patches = F.unfold(source, 3, padding=1)
    keys, queries = F.normalize(patches, dim=1), F.normalize(F.unfold(query, 3, padding=1), dim=1)
    return queries.transpose(1, 2) @ keys, patches


def test_published_parameter_count() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in models.build("t2net", 2, {}).parameters())
    three = 64 * 64 * 9 + 64
    heads, bodies = 2 * (25 * 64 + 64), 2 * (8 * 2 * three + three)
    fusions = 8 * (128 * 64 + 64)
    tails = (64 * 256 * 9 + 256) + (64 * 9 + 1) + (64 + 1)
    assert count == heads + bodies + fusions + tails == 1_473_282  # published: 1.47 M


@pytest.mark.parametrize("options", NETWORKS)
def test_side_output_in_training_alone(options: dict[str, Any]) -> None:
    network, lr = make(**options), torch.rand(2, 1, 7, 10)
    sr, aside = network(lr)
    assert sr.shape == (2, 1, 14, 20)
    assert aside["reconstruction"].shape == lr.shape
    with torch.no_grad():
        assert torch.allclose(network.eval()(lr), sr, atol=1e-6)


def test_transfer_is_the_most_similar_patch() -> None:
    torch.manual_seed(0)
    query, source = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    table, patches = similarities(query, source)
    best, index = table.max(dim=2)
    expected = torch.stack([one[:, i] for one, i in zip(patches, index, strict=True)])
    features, similarity = t2net.transfer(query, source)
    torch.testing.assert_close(similarity.flatten(1), best)
    torch.testing.assert_close(features, F.fold(expected, (5, 6), 3, padding=1) / 9)


def test_transfer_finds_a_moved_patch() -> None:
    torch.manual_seed(0)
    source = torch.randn(1, 4, 12, 12)
    query = source.roll((3, -2), (2, 3)) * 5  # brightness does not matter
    features, similarity = t2net.transfer(query, source)
    inner = (slice(None), slice(None), slice(5, 10), slice(3, 8))
    torch.testing.assert_close(similarity[inner], torch.ones(1, 1, 5, 5))
    torch.testing.assert_close(features[inner], query[inner] / 5)


def test_gradients_are_those_of_the_maximum() -> None:
    torch.manual_seed(0)
    query, source = (torch.randn(1, 2, 4, 5, dtype=torch.float64) for _ in range(2))
    inputs = (query.requires_grad_(), source.requires_grad_())
    ours = torch.autograd.grad(t2net.transfer(*inputs)[1].square().sum(), inputs)
    known = torch.autograd.grad(similarities(*inputs)[0].amax(dim=2).square().sum(), inputs)
    for a, b in zip(ours, known, strict=True):
        torch.testing.assert_close(a, b)


def test_pieces_change_no_result() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 9, 50), torch.randn(2, 9, 40)
    whole = t2net.nearest(queries, keys)
    for budget in (1, 240, 10**9):
        assert torch.equal(t2net.nearest(queries, keys, budget), whole)


def test_windows_hold_each_pixel_and_search_within() -> None:
    index = t2net.windows(torch.arange(35).view(1, 1, 5, 7), 4)[:, 0]
    assert index.shape == (4, 16)
    assert sorted(set(index.flatten().tolist())) == list(range(35))
    assert set(index[0].tolist()) == {7 * y + x for y in range(4) for x in range(4)}
    torch.manual_seed(0)
    query, source = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 5, 7)
    table, _ = similarities(query, source)
    allowed = torch.zeros(35, 35, dtype=torch.bool)
    for part in index:
        allowed[part[:, None], part] = True
    expected = table.masked_fill(~allowed, -2).amax(dim=2)
    torch.testing.assert_close(t2net.transfer(query, source, 4)[1].flatten(1), expected)
    for window in (7, 8, 100):  # one window is the whole image
        torch.testing.assert_close(
            t2net.transfer(query, source, window), t2net.transfer(query, source), rtol=0, atol=0
        )


@pytest.mark.parametrize("options", LINKED)
def test_task_transformer_is_live(options: dict[str, Any]) -> None:
    network, lr = make(**options), torch.rand(1, 1, 8, 8)
    sr, _ = network(lr)
    sr.square().mean().backward()
    gradients = {n: p.grad for n, p in network.reconstruction.named_parameters()}
    for name in ("head.weight", "body.0.conv1.weight", "body.1.conv2.weight"):
        assert gradients[name].abs().sum() > 0, name  # the SR loss trains the other branch
    with torch.no_grad():
        network.transformers[1].fuse.weight.zero_()
        network.transformers[1].fuse.bias.zero_()
        assert not torch.equal(network(lr)[0], sr)


def test_without_transfer_the_branches_are_apart() -> None:
    network, lr = make(**SMALL, transfer="none"), torch.rand(1, 1, 8, 8)
    sr, aside = network(lr)
    sr.square().mean().backward()
    assert all(p.grad is None for p in network.reconstruction.parameters())
    aside["reconstruction"].square().mean().backward()
    assert all(p.grad is not None for p in network.reconstruction.parameters())
    linked = sum(p.numel() for p in make(**SMALL).parameters())
    apart = sum(p.numel() for p in network.parameters())
    assert linked - apart == 2 * (12 * 6 + 6)


def test_memory_is_bounded_where_the_search_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    argmax = Tensor.argmax

    def spy(self: Tensor, dim: int) -> Tensor:
        sizes.append(self.numel())
        return argmax(self, dim=dim)

    monkeypatch.setattr(Tensor, "argmax", spy)
    t2net.nearest(torch.empty(1, 4, 50176, device="meta"), torch.empty(1, 4, 50176, device="meta"))
    assert len(sizes) > 1 and max(sizes) <= t2net.BUDGET


def test_skip_starts_from_the_interpolation() -> None:
    lr = torch.rand(2, 1, 8, 8)
    sr, aside = make(**SMALL, skip="bicubic")(lr)
    assert (sr - upsample(lr, 2)).abs().mean() < 0.05
    assert (aside["reconstruction"] - lr).abs().mean() < 0.05
