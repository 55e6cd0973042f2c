"""T2Net: joint super-resolution and reconstruction, linked by task transformers.

Feng, Yan, Fu, Chen, Xu, "Task Transformer Network for Joint MRI Reconstruction and
Super-Resolution", MICCAI 2021, reference [30] of the paper. Two branches of EDSR's blocks take the
LR image. One outputs the SR image, the other a clean image of LR size. After each pair of blocks a
task transformer passes features of the reconstruction to the SR branch:

- relevance embedding: each 3x3 patch of the SR features is compared, by cosine similarity, with
  every 3x3 patch of the reconstruction features;
- transfer (hard attention): the patch is replaced by the most similar one; overlaps are averaged;
- soft attention: SR features and transferred features go through a 1x1 convolution, are multiplied
  by the similarity of the match and added to the SR features.

8 pairs of blocks of 64 maps have 1,473,282 parameters for one channel at 2x, the published 1.47 M.
The layout was checked against the authors' published code, facts only.

In training mode forward returns (SR image, {"reconstruction": image of LR size}).

Departures and choices:

- The published code builds the convolution at the end of each EDSR body (73,856 of the 1.47 M
  parameters) but never calls it; here it comes before the long skip, as in EDSR.
- Queries are processed in chunks, so the similarities of all patches are never in memory at once.
  The result is the same. Besides the features, memory holds `BUDGET` similarities for any image
  size. The computation still grows with the square of the number of pixels.
- `window` (ours): 0 searches the whole image, as published. Otherwise the LR image is cut into
  windows of that side and each patch is matched within its own, so computation grows linearly with
  the image.
- `transfer: none` (appendix G of the paper: without the task transformer) passes no features
  between the branches. The reconstruction branch then learns from its own loss alone, the SR branch
  is a small EDSR, and in evaluation mode the reconstruction is not computed.
- Initialisation (ours): He; residuals and fusions start small, so that depth adds no variance.
- `skip: bicubic` (ours) also adds the input itself to the reconstruction.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models.layers import Block, Network, Skip, Upsampler, convolution, full, full_precision
from mrsr.params.typed import Bound, Count, Positive

BUDGET = 2**24  # similarities in memory at once: 64 MB in float32
SMALLEST = 1e-24  # lower bound of a squared norm, so that empty patches do not divide by 0


@torch.no_grad()
def nearest(queries: Tensor, keys: Tensor, budget: int = BUDGET) -> Tensor:
    """For each query the index of the key with the largest scalar product, (n, Q).

    queries: (n, d, Q); keys: (n, d, K). Holds at most about `budget` products in memory.
    """
    piece = max(1, budget // (keys.shape[0] * keys.shape[-1]))
    keys = keys.transpose(1, 2)
    return torch.cat([(keys @ part).argmax(dim=1) for part in queries.split(piece, -1)], dim=-1)


def windows(x: Tensor, side: int) -> Tensor:
    """(b, c, h, w) to (b * windows, c, side * side); the last windows repeat border pixels."""
    for dim in (-2, -1):
        size = x.shape[dim]
        if size % side:
            index = torch.arange(size + -size % side, device=x.device).clamp(max=size - 1)
            x = x.index_select(dim, index)
    x = x.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(-2).flatten(0, 2)


def _match(queries: Tensor, keys: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """Index of the best key for each query, (b, h * w), in the image or the query's window."""
    batch, _, count = queries.shape
    if window == 0 or window >= max(size):
        return nearest(queries, keys)
    asking, asked = (windows(x.unflatten(-1, size), window) for x in (queries, keys))
    found = nearest(asking, asked).view(batch, -1, window**2)
    pixels = torch.arange(count, device=queries.device).view(1, 1, *size)
    index = windows(pixels, window)[:, 0]
    chosen = index.expand_as(found).gather(2, found).flatten(1)
    best = torch.empty_like(chosen[:, :count])
    return best.scatter(1, index.flatten().expand(batch, -1), chosen)


def _norms(x: Tensor) -> Tensor:
    """Norms of the 3x3 patches of (b, c, h, w), (b, h * w)."""
    squares = 9 * F.avg_pool2d(x.square().sum(dim=1, keepdim=True), 3, stride=1, padding=1)
    return squares.clamp(min=SMALLEST).sqrt().flatten(1)


def transfer(query: Tensor, source: Tensor, window: int = 0) -> tuple[Tensor, Tensor]:
    """Find for each patch of `query` the most similar patch of `source`, and the similarity.

    query, source: (b, c, h, w). Returns features (b, c, h, w) and cosine similarities (b, 1, h, w),
    in float32 (float64 for float64). Gradients flow to both inputs, but not through the choice of
    patches.
    """
    with full_precision(query):
        size = (query.shape[-2], query.shape[-1])
        query, source = full(query), full(source)
        queries, patches = (F.unfold(x, 3, padding=1) for x in (query, source))
        query_norms, norms = _norms(query), _norms(source)
        with torch.no_grad():  # a query's own norm does not change its choice
            best = _match(queries, patches / norms[:, None], size, window)
        found = patches.gather(2, best[:, None].expand_as(patches))
        similarity = (queries * found).sum(dim=1) / (query_norms * norms.gather(1, best))
        features = F.fold(found, size, 3, padding=1) / 9
    return features, similarity.unflatten(1, size)[:, None]


class TaskTransformer(nn.Module):
    """Add features of the reconstruction to those of the SR branch, (b, c, h, w) each."""

    def __init__(self, features: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.fuse = convolution(2 * features, features, 1, gain=0.1)

    def forward(self, sr: Tensor, reconstruction: Tensor) -> Tensor:
        found, similarity = transfer(sr, reconstruction, self.window)
        return sr + similarity * self.fuse(torch.cat([sr, found], dim=1))


class Branch(nn.Module):
    """Layers of either branch: a 5x5 convolution, EDSR's blocks, a final convolution."""

    def __init__(self, features: int, blocks: int, residual_scale: float) -> None:
        super().__init__()
        self.head = convolution(1, features, 5)
        self.body = nn.ModuleList([Block(features, residual_scale) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)


class T2Net(Network):
    """LR (b, 1, h, w) to (b, 1, scale * h, scale * w); in training also the reconstruction.

    Defaults as published.

    Args:
        features: maps of every layer. blocks: residual blocks of each branch.
        residual_scale: factor on each block's residual.
        transfer: `transformer`, or `none` for two branches without a link.
        window: side, in LR pixels, of the windows that patches are matched in; 0: the whole image.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 8,
        residual_scale: Annotated[float, Bound(above=0, most=1)] = 0.1,
        transfer: Literal["transformer", "none"] = "transformer",
        window: Count = 0,
        skip: Skip = "none",
    ) -> None:
        super().__init__(scale, skip)
        self.sr = Branch(features, blocks, residual_scale)
        self.reconstruction = Branch(features, blocks, residual_scale)
        links = blocks if transfer == "transformer" else 0
        self.transformers = nn.ModuleList([TaskTransformer(features, window) for _ in range(links)])
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1, gain=self.last_gain)
        self.restore = convolution(features, 1, 1, gain=self.last_gain)

    def forward(self, lr: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        first = x = self.sr.head(lr)
        if self.training or self.transformers:
            first_clean = clean = self.reconstruction.head(lr)
        for number, block in enumerate(self.sr.body):
            x = block(x)
            if self.training or self.transformers:
                clean = self.reconstruction.body[number](clean)
            if self.transformers:
                x = self.transformers[number](x, clean)
        sr = self.skipped(self.last(self.enlarge(first + self.sr.trunk(x))), lr)
        if not self.training:
            return sr
        restored = self.restore(first_clean + self.reconstruction.trunk(clean))
        return sr, {"reconstruction": restored + lr if self.skip else restored}


build = T2Net
