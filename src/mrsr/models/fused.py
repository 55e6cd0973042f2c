"""SRResNet that takes in what the paper's frozen networks see, instead of a loss on it (ours).

The vision transformer's encoder (section 3.2) and the auto-encoder's (section 3.3) look at the LR
image, upsampled to the HR grid as for the paper's losses. What they see acts inside the generator:

- maps on the LR grid, the transformer's hidden states (half-way and last) and the structure code,
  through 1x1 convolutions, are added to the shallow features; they also give each residual block
  one map of factors, the same for all its features (spatial gates);
- vectors, the texture code and the mean token, give each residual block one factor per feature
  (channel gates).

Gates are 2 * sigmoid, so 0..2. Their last layers start at zero: all gates are 1, nothing is added,
and the output is that of SRResNet from the same seed.

`networks` says which networks look:

- `trained`: those of two checkpoints, frozen. Their weights are buffers of this network: in its
  checkpoint, but nothing that a training changes or a table counts;
- `random`: the same with random weights, frozen too;
- `joint`: the same from random weights, trained with the generator;
- `own`: none. Each block's gates come from its own maps, by layers of such a width that as many
  numbers are trained as with `trained`; nothing is added to the shallow features.

Codes are standardised by their mean and deviation over images of the training slices, measured once
(`calibrate`): the texture codes of two images are so alike that a layer would learn little else
than what they share. Beyond some deviations they are bent (tanh), because a whole slice is another
image to these networks than the patches of a training. Like RCAN's attention, means go over patches
in training and whole slices afterwards.

Any LR size: for the networks it is padded by replication, bottom and right, to whole patches of the
transformer. The codes are computed without autocast, whose rounding is larger than the differences
of texture codes.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.models import autoencoder as coder
from mrsr.models.layers import Skip, convolution, fill_bias, full_precision
from mrsr.models.srresnet import Block, SRResNet
from mrsr.models.unetr import PATCH, encoder_of
from mrsr.params.schema import AutoencoderNetwork, VitNetwork
from mrsr.params.typed import Positive, plain
from mrsr.resampling import pad_to, upsample

# the networks inside whose weights come from checkpoints where the option `networks` is `trained`;
# each has an option of its name, which is its shape
FROZEN = ("vit", "autoencoder")
Networks = Literal["trained", "random", "joint", "own"]
VIT = VitNetwork(hidden=768, layers=12, heads=12, mlp=3072, size=(96, 96, 96), feature_size=16)
AUTOENCODER = AutoencoderNetwork(
    structure_channels=8, texture=256, size=256, channels=(64, 64, 32, 32)
)
BENT = 3.0  # deviations from where on codes are bent; they stay below it
SMALLEST = 1e-5  # deviation that counts as one, of a code's mean: below it is rounding


class Codes(NamedTuple):
    """What the networks see of LR images."""

    tokens: Tensor  # (batch, 2 * hidden, H / 16, W / 16)
    structure: Tensor  # (batch, structure_channels, H / 4, W / 4)
    texture: Tensor  # (batch, texture)

    def vector(self) -> Tensor:
        """(batch, texture + 2 * hidden): what describes the whole image."""
        return torch.cat([self.texture, self.tokens.mean(dim=(-2, -1))], dim=1)


class Standard(nn.Module):
    """Codes (batch, size, ...) less their mean, divided by their deviation, and bent to +-BENT."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.mean: Tensor
        self.deviation: Tensor

    def measure(self, codes: Tensor) -> None:
        """Take mean and deviation of these codes."""
        values = codes.transpose(0, 1).flatten(1)
        self.mean.copy_(values.mean(dim=1))
        least = (SMALLEST * self.mean.abs()).clamp(min=torch.finfo(values.dtype).tiny)
        self.deviation.copy_(values.std(dim=1, correction=0).maximum(least))

    def forward(self, codes: Tensor) -> Tensor:
        shape = (-1, *(1,) * (codes.dim() - 2))
        scaled = (codes - self.mean.view(shape)) / self.deviation.view(shape)
        return BENT * torch.tanh(scaled / BENT)


class Steering(nn.Module):
    """Codes to what is added to the shallow features, and to the gates of every block."""

    def __init__(
        self, tokens: int, structure: int, texture: int, features: int, blocks: int, width: int
    ) -> None:
        super().__init__()
        self.features, self.blocks = features, blocks
        self.tokens, self.structure = Standard(tokens), Standard(structure)
        self.vector = Standard(texture + tokens)
        self.of_tokens = convolution(tokens, width, 1)
        self.of_structure = convolution(structure, width, 1)
        self.place = neutral(convolution(width, features + blocks, 1))
        self.squeeze = nn.Linear(texture + tokens, width)
        self.excite = neutral(nn.Linear(width, blocks * features))

    def measure(self, codes: Codes) -> None:
        """Standardise the codes of other images by these."""
        self.tokens.measure(codes.tokens)
        self.structure.measure(codes.structure)
        self.vector.measure(codes.vector())

    def forward(
        self, codes: Codes, grid: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Added maps (batch, features, *size), spatial gates (batch, blocks, *size), channel gates
        (batch, blocks, features).

        grid: LR height and width that the codes cover. size: those of the image in it.
        """
        seen = [
            self.of_tokens(self.tokens(codes.tokens)),
            self.of_structure(self.structure(codes.structure)),
        ]
        fine = [F.interpolate(maps, grid, mode="bilinear") for maps in seen]
        maps = F.relu(fine[0] + fine[1])[..., : size[0], : size[1]]
        added, places = self.place(maps).split([self.features, self.blocks], dim=1)
        channels = self.excite(F.relu(self.squeeze(self.vector(codes.vector()))))
        return added, gate(places), gate(channels).unflatten(1, (self.blocks, self.features))


class OwnGates(nn.Module):
    """Residual maps (batch, features, h, w), multiplied by gates that are pooled from them."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.squeeze = convolution(features, width, 1)
        fill_bias(self.squeeze, 0.5)  # as in RCAN: with 0 all units of a block can start dead
        self.excite = neutral(convolution(width, features, 1))
        self.place = neutral(convolution(features, 1, 1))

    def forward(self, residual: Tensor) -> Tensor:
        pooled = residual.mean(dim=(-2, -1), keepdim=True)
        channels = self.excite(F.relu(self.squeeze(pooled)))
        return residual * (gate(channels) * gate(self.place(residual)))


class Fused(SRResNet):
    """LR (batch, 1, h, w) to (batch, 1, scale * h, scale * w).

    Args:
        features: maps of every layer. blocks: residual blocks.
        networks: which networks look; see the module's docstring.
        width: units between the codes and the gates.
        vit, autoencoder: the shapes of the two networks.
    """

    def __init__(
        self,
        scale: int,
        features: Positive = 64,
        blocks: Positive = 16,
        skip: Skip = "bicubic",
        networks: Networks = "trained",
        width: Positive = 32,
        vit: VitNetwork = VIT,
        autoencoder: AutoencoderNetwork = AUTOENCODER,
    ) -> None:
        super().__init__(scale, features, blocks, norm="none", skip=skip)
        self.states = (vit.layers // 2, vit.layers)
        sizes = (2 * vit.hidden, autoencoder.structure_channels, autoencoder.texture)
        steering = Steering(*sizes, features, blocks, width)
        if networks == "own":
            wide = equal_width(steering, features, blocks)
            self.own = nn.ModuleList(OwnGates(features, wide) for _ in range(blocks))
            return
        self.window = PATCH // math.gcd(PATCH, scale)  # LR pixels that make whole patches
        self.steering = steering
        self.vit = encoder_of(plain(vit))
        self.autoencoder = coder.Encoder(
            autoencoder.structure_channels,
            autoencoder.texture,
            autoencoder.channels,
            autoencoder.pooling,
        )
        if networks != "joint":
            for name in FROZEN:
                freeze(getattr(self, name))

    def look(self, lr: Tensor) -> tuple[Codes, tuple[int, int]]:
        """What the networks see of LR images, and the LR height and width that it covers."""
        padded, _ = pad_to(lr, self.window)
        with full_precision(lr):
            image = upsample(padded, self.scale)
            states = self.vit(image, self.states)
            structure, texture = self.autoencoder(image)
        patches = (image.shape[-2] // PATCH, image.shape[-1] // PATCH)
        tokens = torch.cat(states, dim=-1).mT.unflatten(2, patches)
        return Codes(tokens, structure, texture), (padded.shape[-2], padded.shape[-1])

    @torch.no_grad()
    def calibrate(self, lr: Tensor) -> None:
        """Standardise what the networks see by what they see of these LR images (n, 1, h, w).

        A training calls it once, with patches of its training slices.
        """
        if not hasattr(self, "steering"):
            return
        seen = [self.look(part)[0] for part in lr.split(4)]  # whole slices fill a memory
        self.steering.measure(Codes(*map(torch.cat, zip(*seen, strict=True))))

    def forward(self, lr: Tensor) -> Tensor:
        shallow = self.act(self.first(lr))
        steered = hasattr(self, "steering")
        if steered:
            size = (lr.shape[-2], lr.shape[-1])
            added, places, channels = self.steering(*self.look(lr), size)
            shallow = shallow + added
        x = shallow
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            residual = block.conv2(block.act(block.conv1(x)))
            if steered:
                gates = channels[:, number, :, None, None] * places[:, number : number + 1]
                x = x + residual * gates
            else:
                x = x + self.own[number](residual)
        deep = shallow + self.trunk(x)
        return self.skipped(self.last(self.stages(deep)), lr)


def gate(values: Tensor) -> Tensor:
    """Factors in 0..2; 1 where the value is 0."""
    return 2 * torch.sigmoid(values)


def neutral(layer: nn.Module) -> nn.Module:
    """Let a layer start with an output of zero."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


def freeze(network: nn.Module) -> None:
    """Make its weights buffers, in place: saved as before, and no longer parameters."""
    for part in network.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, weight.detach())


def equal_width(steering: Steering, features: int, blocks: int) -> int:
    """The width at which the gates of all blocks have as many weights as `steering`, about."""
    wanted = sum(weight.numel() for weight in steering.parameters())
    each = blocks * (2 * features + 1)  # a unit more; the rest of the gates has as many
    return max(1, round(wanted / each - 1))


build = Fused
