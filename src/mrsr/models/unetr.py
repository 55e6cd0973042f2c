"""UNETR (3D, MONAI's) and its encoder collapsed to 2D (section 3.2, appendix B).

`build` returns the 3D segmentation network of Hatamizadeh et al. 2022 (reference [34]), whose
encoder is pre-trained on labelled volumes. Super-resolution works on slices, so `collapse` turns
that encoder into `Encoder2d`, in plain torch: a linear 16x16x16 patch embedding of a slice repeated
16 times equals a 16x16 embedding with the kernel summed over depth. Depth positions are averaged,
in-plane positions interpolated bicubically to the image's grid. On a slab of 16 copies of a slice,
with those positions, both give the same hidden states (tested to 1e-5).

Volumes are (depth, height, width), slices first, as everywhere in this package, so depth is the
first axis of a kernel. Images have normalised intensities, as read from a store.

Departures from MONAI: attention is `scaled_dot_product_attention`; the number of layers is free
(skip connections start after L/4, L/2 and 3L/4 layers, that is 3, 6, 9 of 12); and
`norm_cross_attn`, which never gets a gradient (18,432 parameters at full size), is frozen.

By hand: `python -m mrsr.models.unetr` prints the parameters at full size and the paper's.
"""

from __future__ import annotations

import functools
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrsr.errors import UserError
from mrsr.models.layers import Divisible
from mrsr.params.typed import Bound, Positive
from mrsr.resampling import bicubic, pad_to

SCALES = (1, 2, 3, 4, 8)  # whatever the scale: it has none
PATCH: Literal[16] = 16
Side = Annotated[int, Bound(least=PATCH), Divisible(PATCH)]
# parts of MONAI's encoder that get no gradient: missing from older versions' weights, or stored
# under a second name
_DEAD = ("norm_cross_attn", "cross_attn")
# MONAI's names of the encoder's parameters -> ours
_NAMES = (
    ("patch_embedding.patch_embeddings.", "patch."),
    ("patch_embedding.position_embeddings", "positions"),
    ("attn.qkv.", "qkv."),
    ("attn.out_proj.", "out."),
    ("mlp.", ""),
)


class Block(nn.Module):
    """One transformer layer, Eq. 1: attention and MLP, each with layer norm and a residual."""

    def __init__(self, hidden: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.out = nn.Linear(hidden, hidden)
        self.norm2 = nn.LayerNorm(hidden)
        self.linear1 = nn.Linear(hidden, mlp)
        self.linear2 = nn.Linear(mlp, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, hidden) to the same."""
        batch, count, hidden = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).view(batch, count, 3, self.heads, hidden // self.heads)
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        tokens = tokens + self.out(attended.transpose(1, 2).reshape(batch, count, hidden))
        return tokens + self.linear2(F.gelu(self.linear1(self.norm2(tokens))))


class Encoder2d(nn.Module):
    """The transformer of UNETR for slices; needs only torch.

    grid: (rows, columns) of patches that the stored positions belong to.
    """

    def __init__(
        self, hidden: int, layers: int, heads: int, mlp: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        self.hidden, self.grid = hidden, grid
        self.patch = nn.Conv2d(1, hidden, PATCH, stride=PATCH)
        self.positions = nn.Parameter(torch.zeros(1, grid[0] * grid[1], hidden))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(Block(hidden, heads, mlp) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, images: Tensor, which: Sequence[int] | None = None) -> list[Tensor]:
        """Hidden states, each (batch, tokens, hidden), of images (batch, 1, H, W) of any size.

        State i is the output of layer i + 1, as in MONAI; the last, number `layers` or -1, is the
        final output after the layer norm. which: the states to return (None: all); later layers are
        not computed. Images are padded by replication, bottom and right, to multiples of 16.

        Raises:
            UserError: there is no such state.
        """
        tokens, grid = self.patches(images)
        return self.states(tokens + self.position(grid), which)

    def patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embedded patches (batch, tokens, hidden) without positions, and their grid."""
        embedded = self.patch(pad_to(images, PATCH)[0])
        return embedded.flatten(2).transpose(1, 2), (embedded.shape[-2], embedded.shape[-1])

    def position(self, grid: tuple[int, int]) -> Tensor:
        """(1, tokens, hidden) positions, interpolated to another grid of patches."""
        if grid == self.grid:
            return self.positions
        maps = self.positions.transpose(1, 2).unflatten(2, self.grid)
        return bicubic(maps, grid).flatten(2).transpose(1, 2)

    def states(self, tokens: Tensor, which: Sequence[int] | None = None) -> list[Tensor]:
        """The hidden states of tokens that include their positions; see `forward`."""
        layers = len(self.blocks)
        wanted = list(range(layers + 1)) if which is None else list(which)
        for number in wanted:
            if not -layers - 1 <= number <= layers:
                raise UserError(f"hidden state {number} does not exist; choose 0 to {layers}")
        wanted = [number % (layers + 1) for number in wanted]
        found = {}
        for number, block in enumerate(self.blocks):
            if number > max(wanted):
                break
            tokens = block(tokens)
            found[number] = tokens
        if layers in wanted:
            found[layers] = self.norm(tokens)
        return [found[number] for number in wanted]


@functools.cache
def _monai_class() -> type[nn.Module]:
    """MONAI's UNETR with a free number of layers; MONAI takes seconds to import."""
    try:
        from monai.networks.blocks.transformerblock import TransformerBlock
        from monai.networks.nets.unetr import UNETR
    except ImportError:
        raise UserError(
            "the 3D transformer needs MONAI; install it (`pip install monai einops`)"
        ) from None

    class Unetr(UNETR):
        """(batch, 1, D, H, W) to logits (batch, classes, D, H, W)."""

        def __init__(
            self,
            hidden: int,
            layers: int,
            heads: int,
            mlp: int,
            size: Sequence[int],
            **options: Any,
        ) -> None:
            super().__init__(
                1, img_size=size, hidden_size=hidden, mlp_dim=mlp, num_heads=heads, **options
            )
            # rebuilt rather than modified, because MONAI keeps the constructor stable
            self.vit.blocks = nn.ModuleList(
                TransformerBlock(hidden, mlp, heads, use_flash_attention=True)
                for _ in range(layers)
            )
            for block in self.vit.blocks:
                block.norm_cross_attn.requires_grad_(False)

        def forward(self, volume: Tensor) -> Tensor:
            last, states = self.vit(volume)
            layers = len(states)
            early, middle, late = (
                self.proj_feat(states[number])
                for number in (layers // 4, layers // 2, 3 * layers // 4)
            )
            up = self.decoder5(self.proj_feat(last), self.encoder4(late))
            up = self.decoder4(up, self.encoder3(middle))
            up = self.decoder3(up, self.encoder2(early))
            return self.out(self.decoder2(up, self.encoder1(volume)))

    return Unetr


def build(
    scale: int = 1,
    *,
    hidden: Positive = 768,
    layers: Positive = 12,
    heads: Positive = 12,
    mlp: Positive = 3072,
    patch: Literal[16] = PATCH,
    size: tuple[Side, Side, Side] = (96, 96, 96),
    feature_size: Positive = 16,
    classes: Annotated[int, Bound(least=2)] = 5,
    dimensions: Literal[2, 3] = 3,
) -> nn.Module:
    """UNETR for volume patches of `size` (D, H, W); `dimensions` 2 returns only its `Encoder2d`.

    scale: ignored, a ViT has none. classes: labels including the background.

    Raises:
        UserError: `hidden` does not divide by `heads`, or MONAI is not installed.
    """
    if hidden % heads:
        raise UserError(f"unetr: hidden must be a multiple of heads = {heads}, not {hidden}")
    if dimensions == 2:
        return Encoder2d(hidden, layers, heads, mlp, (size[1] // PATCH, size[2] // PATCH))
    return _monai_class()(
        hidden, layers, heads, mlp, list(size), out_channels=classes, feature_size=feature_size
    )


def encoder_of(options: dict[str, Any]) -> Encoder2d:
    """The 2D encoder that these options of `build` give, whatever their `dimensions`."""
    encoder = build(**{**options, "dimensions": 2})
    assert isinstance(encoder, Encoder2d)
    return encoder


def collapse(weights: dict[str, Tensor], options: dict[str, Any]) -> Encoder2d:
    """The 2D encoder from a 3D UNETR's state dict and the options that built it.

    The result can be trained (fine-tuning does that); `load_encoder` returns a frozen one.
    """
    encoder = encoder_of(options)
    depth, own = options["size"][0] // PATCH, {}
    for key, value in weights.items():
        if not key.startswith("vit.") or any(part in key for part in _DEAD):
            continue
        key = key.removeprefix("vit.")
        for theirs, ours in _NAMES:
            key = key.replace(theirs, ours)
        if key == "patch.weight":
            value = value.sum(dim=2)
        elif key == "positions":
            value = value.unflatten(1, (depth, -1)).mean(dim=1)
        own[key] = value
    encoder.load_state_dict(own)
    return encoder


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load the user's own MONAI UNETR state dict into a 3D network; code in the file never runs.

    Handles a dictionary with `state_dict`, `model_state_dict` or `model` inside, and the `module.`
    prefix of DataParallel. Weights of older MONAI versions lack the unused parameters.

    Raises:
        UserError: not readable as weights, or mismatched keys, which are listed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles not written by torch.save
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is not a state dict, or holds code, which mrsr never runs; "
            "save only network.state_dict()"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check vit.weights") from None
    except Exception:  # torch raises RuntimeError, EOFError, ValueError... depending on the damage
        raise UserError(f"{path} is damaged or has no weights; download it again") from None
    if isinstance(found, dict) and isinstance(found.get("format"), int):
        raise UserError(
            f"{path} is a checkpoint of mrsr ({found.get('kind', found.get('model'))}); "
            "vit.weights takes the state dict of MONAI's UNETR"
        )
    for inner in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(inner), dict):
            found = found[inner]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} is not a state dict; save only network.state_dict()")
    given = {str(key).removeprefix("module."): value for key, value in found.items()}
    own = network.state_dict()
    problems = []
    for key in sorted({*own, *given}):
        dead = any(part in key for part in _DEAD)
        if key not in given and not dead:
            problems.append(f"{key} is missing")
        elif key not in own and not dead:
            problems.append(f"{key} is not in the network")
        elif key in given and key in own and given[key].shape != own[key].shape:
            theirs, ours = (list(table[key].shape) for table in (given, own))
            problems.append(f"{key} is {theirs}, the network has {ours}")
    if problems:
        raise UserError(
            f"{path} does not fit the network of {len(own)} tensors; set vit.network and "
            f"vit.classes as in its training: {'; '.join(problems)}"
        )
    network.load_state_dict(own | {key: value for key, value in given.items() if key in own})


if __name__ == "__main__":
    full = build()
    counts = [
        sum(p.numel() for p in full.parameters() if p.requires_grad is b) for b in (True, False)
    ]
    print(
        f"UNETR at 96x96x96: {sum(counts) / 1e6:.2f} M parameters, {counts[1]} of them frozen "
        "(paper: 92.58 M, fine-tuned 93.4 M)"
    )
