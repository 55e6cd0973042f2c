"""FB-GACN: the graph links similar sub-regions wherever they lie, and feedback refines."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mrsr import models
from mrsr.models.fb_gacn import GraphAttention, GraphBranch, nearest

SMALL: dict[str, Any] = {
    "features": 8,
    "blocks": 1,
    "iterations": 2,
    "patch": 4,
    "neighbours": 3,
    "heads": 2,
}


def small(scale: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.build("fb_gacn", scale, {**SMALL, **options})


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


def test_parameter_count() -> None:
    features, patch = 64, 4
    attention = 2 * conv(features, features, 1) + features  # receiver, sender, score
    graph = conv(features, features, patch) + attention + conv(features, features * patch**2, 1)
    content = 6 * 2 * conv(features, features, 3)
    joins = 2 * conv(2 * features, features, 1)  # feedback and merge
    tail = conv(features, 4 * features, 3) + conv(features, 1, 3)
    expected = conv(1, features, 3) + joins + content + graph + tail
    with torch.device("meta"):
        network = models.build("fb_gacn", 2, {})
        sr = network(torch.empty(1, 1, 13, 9))
    assert sum(p.numel() for p in network.parameters()) == expected == 749_121
    assert sr.shape == (1, 1, 26, 18)


def test_nearest_finds_the_twins() -> None:
    """Nodes of two kinds, shuffled: each is linked to its own kind, whatever its length."""
    kinds = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    nodes = torch.eye(2)[kinds] * torch.arange(1.0, 9.0)[:, None]
    index = nearest(nodes[None], 4)
    assert index.shape == (1, 8, 4)
    assert (kinds[index[0]] == kinds[:, None]).all()


def test_a_node_is_its_own_nearest() -> None:
    nodes = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(nodes, 3)[..., 0], torch.arange(9).expand(2, 9))


def test_nearest_in_parts_is_nearest_at_once() -> None:
    nodes = torch.randn(2, 23, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(nodes, 4, rows=7), nearest(nodes, 4))


def test_no_more_neighbours_than_nodes() -> None:
    assert nearest(torch.rand(1, 4, 3), 8).shape == (1, 4, 4)


def test_attention_is_a_weighted_mean_of_the_linked_nodes() -> None:
    """Two kinds of nodes: each becomes the sender's map of its own kind; images do not mix."""
    torch.manual_seed(0)
    attention = GraphAttention(4, heads=2, neighbours=2)
    kinds = torch.eye(4)[torch.tensor([[0, 1, 0, 1], [2, 3, 3, 2]])]
    torch.testing.assert_close(attention(kinds), attention.sender(kinds))


def far_change(network: nn.Module, pixel: int) -> float:
    """Change of the second tile by one LR pixel on the diagonal; tile (1, 1) is tile (6, 6)."""
    lr = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    lr[..., -12:, -12:] = lr[..., :12, :12]
    other = lr.clone()
    other[..., pixel, pixel] += 0.01
    with torch.no_grad():
        return float((network(lr) - network(other))[..., 8:16, 8:16].abs().max())


def test_the_graph_reaches_the_far_twin() -> None:
    network = small(iterations=1)
    assert far_change(network, 26) > 0
    nn.init.zeros_(network.graph.spread.weight)
    assert far_change(network, 26) == 0  # without the graph the network is local
    assert far_change(network, 6) > 0


def test_graph_and_feedback_are_live() -> None:
    network, lr = small(), torch.rand(2, 1, 10, 12)
    before = network(lr)
    before.square().mean().backward()
    for part in (network.graph, network.feedback):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    nn.init.zeros_(network.graph.spread.weight)
    assert not torch.equal(network(lr), before)


def test_feedback_needs_its_weights() -> None:
    """More passes change the image; with the feedback's half of the weights silent they do not."""
    network, lr = small(), torch.rand(1, 1, 9, 9)
    once, twice = small(iterations=1), small(iterations=2)
    assert not torch.equal(once(lr), twice(lr))
    for one in (once, twice):
        with torch.no_grad():
            one.feedback.weight[:, SMALL["features"] :] = 0.0
    assert torch.equal(once(lr), twice(lr))
    count = [sum(p.numel() for p in one.parameters()) for one in (network, once)]
    assert count[0] == count[1]  # the passes share their weights


def test_the_branch_keeps_the_size() -> None:
    torch.manual_seed(0)
    branch = GraphBranch(4, patch=4, heads=2, neighbours=3)
    assert branch(torch.rand(2, 4, 9, 6)).shape == (2, 4, 9, 6)
