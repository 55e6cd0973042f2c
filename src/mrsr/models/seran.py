"""SERAN: residual blocks with squeeze and excitation reasoning attention.

Zhang, Li, Li, Fu, "MR Image Super-Resolution with Squeeze and Excitation Reasoning Attention
Network", CVPR 2021, reference [191] of the paper.

What the publication's abstract says, and what we made of it:

- squeeze: attention over all positions yields global descriptors, here with a softmax over the
  positions for each of `descriptors` maps;
- reasoning: the descriptors are refined by their relations ("primitive relationship reasoning
  attention"), here a graph convolution over their softmax similarity plus the descriptor itself;
- excitation: an attention vector at each position selects among the descriptors, here a softmax
  over them, and the selection is added to the features ("complement each spatial location");
- residual scaling: the addition is multiplied by a constant, `scaling`.

Those equations, the backbone (residual blocks of two 3x3 convolutions, one attention in each, a
skip around all, pixel shuffles), every width and depth, and the scaling of 0.1 are ours, because
only the abstract was available. So is the initialisation: He, with the second convolution of a
block and the trunk scaled by 0.1, and with the bicubic skip the output convolution by 0.01.

Our defaults have 1,891,457 parameters for one channel at 2x. We did not find the published count.
Squeeze and the keys of the reasoning have no bias, because it would cancel in the softmax; the
graph convolution has none either.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from mrsr.models import layers
from mrsr.models.layers import Network, Skip, Upsampler, begin, convolution, full
from mrsr.params.typed import Above, Bound, Positive


def _linear(width: int, bias: bool) -> nn.Linear:
    """Square linear layer that preserves variance (no ReLU follows)."""
    layer = nn.Linear(width, width, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _softmax(x: Tensor, dim: int) -> Tensor:
    """Softmax in at least float32, returned in the dtype of `x`."""
    return full(x).softmax(dim).to(x.dtype)


class Reasoning(nn.Module):
    """Add to each descriptor of (batch, K, width) a graph convolution of related ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = _linear(width, bias=True)
        self.key = _linear(width, bias=False)
        self.graph = _linear(width, bias=False)

    def forward(self, descriptors: Tensor) -> Tensor:
        scores = self.query(descriptors) @ self.key(descriptors).transpose(1, 2)
        relation = _softmax(scores / descriptors.shape[-1] ** 0.5, -1)
        return descriptors + self.graph(relation @ descriptors)


class Attention(nn.Module):
    """Squeeze, reason, excite: x (batch, C, h, w) plus `scaling` times the selected descriptors."""

    def __init__(self, features: int, descriptors: int, width: int, scaling: float) -> None:
        super().__init__()
        self.scaling = scaling
        self.value = convolution(features, width, 1)
        self.squeeze = convolution(features, descriptors, 1, bias=False)
        self.reasoning = Reasoning(width)
        self.excite = convolution(features, descriptors, 1)
        self.restore = convolution(width, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        gather = _softmax(self.squeeze(x).flatten(2), -1)
        descriptors = gather @ self.value(x).flatten(2).transpose(1, 2)
        descriptors = self.reasoning(descriptors)
        select = _softmax(self.excite(x).flatten(2), 1)
        chosen = (descriptors.transpose(1, 2) @ select).unflatten(2, x.shape[2:])
        return x + self.scaling * self.restore(chosen)


class Block(layers.Block):
    """3x3 convolution, ReLU, 3x3 convolution, attention, plus the input."""

    def __init__(self, features: int, descriptors: int, width: int, scaling: float) -> None:
        super().__init__(features)
        self.attention = Attention(features, descriptors, width, scaling)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.residual(x))


class SERAN(Network):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w); the default sizes are ours.

    Args:
        features: maps of every layer. blocks: residual blocks, each with an attention.
        descriptors: global descriptors of an attention. width: length of each.
        scaling: factor on the attention's output.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 20,
        descriptors: Annotated[int, Bound(least=2)] = 32,
        width: Positive = 32,
        scaling: Above = 0.1,
        skip: Skip = "none",
    ) -> None:
        super().__init__(scale, skip)
        self.first = convolution(1, features)
        body = [Block(features, descriptors, width, scaling) for _ in range(blocks)]
        self.blocks = nn.Sequential(*body)
        self.trunk = convolution(features, features, gain=0.1)
        self.enlarge = Upsampler(features, scale)
        self.last = convolution(features, 1)
        begin(self.first, self.enlarge, self.last, self.skip)

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.first(lr)
        deep = shallow + self.trunk(self.blocks(shallow))
        return self.skipped(self.last(self.enlarge(deep)), lr)


build = SERAN
