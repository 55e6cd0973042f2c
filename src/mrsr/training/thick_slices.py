"""Learn to thin the slices of one scan from the lines of its own plane.

Zhao et al., SMORE (IEEE TMI 2021): a scan with thick slices has fine lines in the plane. Blurred by
the slice profile and sampled like the slices, they are pairs to learn from; the network is then
applied to images through the plane, whose lines have become thick in the same way. Here the lines
are first put on a grid of `phases` samples per slice, so that a spacing that is no whole number of
pixels is learned exactly.

The network works on images (across, along): `along` has one sample per slice and becomes `phases`
times finer, `across` stays. It adds to cubic interpolation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import compute
from mrsr.models.layers import Block, convolution
from mrsr.params.schema import Optimizer, Schedule
from mrsr.resampling import resize_matrix
from mrsr.training import muon, optimizers
from mrsr.training.divergence import Watch, check_weights

FEATURES, BLOCKS = 32, 8
BATCH, ACROSS, SLICES = 8, 32, 16  # patches of a step: pixels across, slices along
RATES = Optimizer(name="muon", lr=1e-3, muon_lr=4e-3, weight_decay=0.0)
SCHEDULE = Schedule(kind="cosine", warmup=10, floor=0.01)
CELL = 8  # pixels; patches are chosen by what happens in cells of this size


class Thinner(nn.Module):
    """(batch, 1, across, slices) to (batch, 1, across, phases * slices)."""

    def __init__(self, phases: int, features: int, blocks: int) -> None:
        super().__init__()
        self.phases = phases
        self.first = convolution(1, features)
        self.blocks = nn.Sequential(*[Block(features) for _ in range(blocks)])
        self.trunk = convolution(features, features, gain=0.1)
        self.last = convolution(features, phases, gain=0.01)

    def forward(self, coarse: Tensor) -> Tensor:
        shallow = self.first(coarse)
        x = shallow + self.trunk(self.blocks(shallow))
        fine = self.last(x).permute(0, 2, 3, 1).flatten(2)[:, None]  # phases of a slice in order
        slices = coarse.shape[-1]
        cubic = torch.from_numpy(resize_matrix(slices, self.phases * slices))
        return fine + coarse @ cubic.to(coarse).mT


@dataclass(frozen=True)
class Lines:
    """Images to learn from, lines along the last axis, mirrored by `margin` samples at both ends.

    images: (count, across, margin + samples + margin); cells: chance of a patch in each cell of
    CELL x CELL samples.
    """

    images: Tensor
    margin: int
    cells: Tensor


def lines_of(images: Tensor, margin: int) -> Lines:
    """Prepare images (count, across, samples), normalised; most patches come from edges."""
    samples = images.shape[-1]
    index = torch.arange(-margin, samples + margin) % (2 * samples)
    index = torch.where(index < samples, index, 2 * samples - 1 - index)
    slope = torch.diff(images, dim=-1, append=images[..., -1:]).abs()
    cells = nn.functional.avg_pool2d(slope[:, None], CELL, ceil_mode=True)[:, 0]
    return Lines(images[..., index.to(images.device)], margin, cells + 0.02 * cells.mean() + 1e-9)


def draw(
    lines: Lines, matrix: Tensor, phases: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch: (n, 1, across, slices) and (n, 1, across, phases * slices), the LR and HR patches.

    matrix: (slices, margin + phases * slices + margin) of the slice profile.
    """
    margin, (height, padded) = lines.margin, lines.images.shape[1:]
    length = matrix.shape[0] * phases
    across = min(ACROSS, height)
    chosen = torch.multinomial(lines.cells.flatten(), BATCH, True, generator=generator)
    patches = []
    for each in chosen.tolist():
        image, cell = divmod(each, lines.cells[0].numel())
        row, column = divmod(cell, lines.cells.shape[-1])
        middle = CELL * torch.tensor([row, column]) + torch.randint(CELL, (2,), generator=generator)
        top = int((middle[0] - across // 2).clamp(0, height - across))
        left = int((middle[1] - length // 2).clamp(0, padded - 2 * margin - length))
        patches.append(lines.images[image, top : top + across, left : left + length + 2 * margin])
    flips = torch.randint(2, (2,), generator=generator).tolist()
    turned = [axis for axis, flip in zip((-2, -1), flips, strict=True) if flip]
    batch = torch.stack(patches).flip(turned)
    return (batch @ matrix.mT)[:, None], batch[:, None, :, margin : margin + length]


def fit(
    stacks: list[np.ndarray],
    phases: int,
    profile: Callable[[np.ndarray], np.ndarray],
    reach: int,
    *,
    steps: int,
    device: torch.device,
    seed: int = 0,
    progress: Callable[[float], None] = lambda loss: None,
) -> Thinner:
    """A network for one scan.

    Args:
        stacks: images (count, across, samples), normalised, with `phases` samples per slice.
        profile: the share of a slice that samples at these offsets from its centre have.
        reach: samples on each side that count.
        progress: called with the loss after each step.

    Raises:
        Diverged: a loss or a weight is not finite.
    """
    compute.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Thinner(phases, FEATURES, BLOCKS).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = muon.pair(network, RATES)
    samples = min(stack.shape[-1] for stack in stacks)
    slices = max(1, min(SLICES, samples // phases))
    lines = [lines_of(torch.from_numpy(stack).to(device), reach) for stack in stacks]
    centre = (torch.arange(slices) + 0.5) * phases - 0.5
    offsets = torch.arange(-reach, slices * phases + reach) - centre[:, None]
    shares = profile(offsets.numpy().astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    matrix = torch.from_numpy(shares).float().to(device)
    watch = Watch(["l1"], 1e4)
    for step in range(steps):
        rate = optimizers.learning_rate(step, steps, RATES.lr, SCHEDULE)
        optimizers.set_rate(optimizer, rate)
        coarse, fine = draw(lines[step % len(lines)], matrix, phases, generator)
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(network(coarse), fine)
        loss.backward()
        optimizer.step()
        watch.add(step + 1, loss.detach()[None])
        progress(loss.item())
    check_weights(network, steps)
    return network.eval()
