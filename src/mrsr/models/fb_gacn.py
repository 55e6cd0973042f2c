"""FB-GACN: a graph of similar sub-regions and a content branch, refined by feedback.

Hu, Yan, Ren, Li, Bayat, Zhao, Menze, "Feedback Graph Attention Convolutional Network for MR Images
Enhancement by Exploring Self-Similarity Features", MIDL 2021 (PMLR 143:327-337; arXiv 2006.13863).
We take this to be the paper's [37], which it describes only as graph convolution networks for MR
super-resolution.

From the publication's abstract: sub-regions of the LR feature map are the nodes of a graph, linked
by similarity wherever they are; this graph similarity branch runs in parallel to a content branch
and gives it priors; recurrent feedback refines low-level features with high-level ones; the image
is reconstructed from both branches.

The rest is ours, because only the abstract was available:

- a node is the embedding of one `patch` x `patch` tile of the features (a strided convolution);
- each node is linked to the `neighbours` nodes of largest cosine similarity, including itself;
- graph attention as in Brody et al. (ICLR 2022), where the weight of an edge depends on both ends,
  with several heads; a pixel shuffle spreads each node over its tile again;
- the content branch consists of residual blocks; a 1x1 convolution merges both branches into the
  state, and another joins the fed-back state to the shallow features; `iterations` passes share
  their weights, and the first gets the shallow features as state;
- only the last pass produces an image, so there are no losses on each pass;
- widths, depths and initialisation (He; the second convolution of a block scaled by 0.1, and with
  the bicubic skip the output convolution by 0.01).

Our defaults have 749,121 parameters for one channel at 2x. We did not find the published count.

Memory: similarities are computed for `ROWS` nodes at a time and only the neighbours' indices are
kept, so memory grows with nodes x neighbours, not with the square of the nodes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.layers import (
    Block,
    Network,
    Skip,
    Upsampler,
    begin,
    convolution,
    fill_bias,
    full,
    full_precision,
)
from mrsr.params.typed import Bound, Positive

ROWS = 1024  # nodes whose similarities to all others are in memory at once


@torch.no_grad()
def nearest(nodes: Tensor, neighbours: int, rows: int = ROWS) -> Tensor:
    """Indices (batch, n, k) of the most similar nodes by cosine; k is min(neighbours, n).

    Args:
        nodes: (batch, n, d). rows: nodes compared with all others at a time.
    """
    with full_precision(nodes):
        unit = F.normalize(full(nodes), dim=-1)
        count = min(neighbours, nodes.shape[1])
        parts = [
            (part @ unit.transpose(1, 2)).topk(count, dim=-1).indices
            for part in unit.split(rows, dim=1)
        ]
    return torch.cat(parts, dim=1)


class GraphAttention(nn.Module):
    """Replace each node of (batch, n, d) by the attention-weighted sum of its neighbours."""

    def __init__(self, width: int, heads: int, neighbours: int) -> None:
        super().__init__()
        self.heads = heads
        self.neighbours = neighbours
        self.receiver = nn.Linear(width, width)
        self.sender = nn.Linear(width, width)
        self.score = nn.Parameter(torch.empty(heads, width // heads))
        for layer in (self.receiver, self.sender):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            fill_bias(layer, 0.0)
        nn.init.normal_(self.score, std=(width // heads) ** -0.5)

    def forward(self, nodes: Tensor) -> Tensor:
        batch, n, width = nodes.shape
        index = nearest(nodes, self.neighbours)
        start = torch.arange(batch, device=nodes.device)[:, None, None] * n
        sent = self.sender(nodes).flatten(0, 1).index_select(0, (index + start).flatten())
        sent = sent.view(batch, n, index.shape[-1], self.heads, width // self.heads)
        received = self.receiver(nodes).view(batch, n, 1, self.heads, width // self.heads)
        scores = (F.leaky_relu(received + sent, 0.2) * self.score).sum(-1)
        weights = full(scores).softmax(2)
        return (weights[..., None] * sent).sum(2).flatten(2)


class GraphBranch(nn.Module):
    """x (batch, C, h, w): tiles to nodes, graph attention, nodes back to tiles; the same size."""

    def __init__(self, features: int, patch: int, heads: int, neighbours: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(features, features, patch, stride=patch)
        nn.init.kaiming_normal_(self.embed.weight, nonlinearity="linear")
        fill_bias(self.embed, 0.0)
        self.attention = GraphAttention(features, heads, neighbours)
        self.spread = convolution(features, features * patch**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = F.pad(x, [0, -w % self.patch, 0, -h % self.patch], mode="replicate")
        tiles = self.embed(x)
        nodes = tiles.flatten(2).transpose(1, 2)
        nodes = F.elu(self.attention(nodes)).transpose(1, 2).unflatten(2, tiles.shape[2:])
        return F.pixel_shuffle(self.spread(nodes), self.patch)[..., :h, :w]


class FBGACN(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); the default sizes are ours.

    Args:
        features: maps of every layer and length of a node. blocks: of the content branch.
        iterations: feedback passes, with the same weights.
        patch: side of a sub-region in LR pixels. neighbours: links of a node, including itself.
        heads: of the graph attention, a divisor of `features`.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 6,
        iterations: Positive = 4,
        patch: Positive = 4,
        neighbours: Annotated[int, Bound(least=2)] = 8,
        heads: Positive = 4,
        skip: Skip = "none",
    ) -> None:
        if features % heads:
            raise UserError(f"fb_gacn: heads must divide features = {features}, not {heads}")
        super().__init__(scale, skip)
        self.iterations = iterations
        self.first = convolution(1, features)
        self.feedback = convolution(2 * features, features, 1)
        self.content = nn.Sequential(*[Block(features) for _ in range(blocks)])
        self.graph = GraphBranch(features, patch, heads, neighbours)
        self.merge = convolution(2 * features, features, 1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.first, self.enlarge, self.last, self.skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = F.relu(self.first(lr))
        state = shallow
        for _ in range(self.iterations):
            x = F.relu(self.feedback(torch.cat([shallow, state], dim=1)))
            both = torch.cat([self.content(x), self.graph(x)], dim=1)
            state = F.relu(self.merge(both))
        return self.skipped(self.last(self.enlarge(shallow + state)), lr)


build = FBGACN
