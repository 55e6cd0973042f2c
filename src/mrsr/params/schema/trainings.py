"""Settings that trainings share, and those of super-resolution (`sr:` of params.yaml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mrsr.params.schema.data import Section
from mrsr.params.typed import (
    Above,
    AtLeast,
    Count,
    Fraction,
    Integer,
    Positive,
)


@dataclass(frozen=True, kw_only=True)
class Optimizer(Section):
    """Adam as published (section 4.1); the others are those of other publications."""

    name: Literal["adam", "adamw", "sgd", "rmsprop", "muon"] = "adam"
    """`betas` also gives SGD's momentum and RMSprop's smoothing. muon: hidden matrices by Muon,
    the rest by AdamW."""
    lr: Above
    """Highest learning rate."""
    muon_lr: Above = 3e-3
    """Highest learning rate of Muon's matrices; `lr` is AdamW's."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Of Adam (section 4.1)."""
    weight_decay: AtLeast
    """Section 4.1: 0.1."""
    decoupled: bool = True
    """Shrink weights by lr * weight_decay (AdamW); false: add the decay to the gradient."""


@dataclass(frozen=True, kw_only=True)
class Schedule(Section):
    """The learning rate as a pure function of the step."""

    kind: Literal["constant", "cosine", "step"] = "cosine"
    """After the warm-up: constant, a cosine down to `floor`, or steps by `factor`."""
    warmup: Count = 0
    """Steps in which the rate rises linearly."""
    floor: Fraction = 0.01
    """Of a cosine: the final rate as a fraction of the highest."""
    every: Count = 0
    """Of steps: number of steps after which the rate falls."""
    factor: Fraction = 0.5
    """Of steps: factor of the rate."""

    def __post_init__(self) -> None:
        if self.kind == "step" and self.every < 1:
            raise ValueError("every: must be 1 or more for a schedule of steps")


@dataclass(frozen=True, kw_only=True)
class Loop(Section):
    """What every training has."""

    steps: Positive
    """Optimizer steps."""
    batch: Positive
    """Images per step, over all processes."""
    micro_batch: Count = 0
    """Images per forward pass; gradients accumulate. 0: the whole batch."""
    optimizer: Optimizer
    """Of the network."""
    schedule: Schedule
    """Of the learning rate."""
    clip_gradient: AtLeast = 0.0
    """Largest norm of the gradient; 0: not clipped."""
    seed: Integer = 0
    """Of weights, batches and noise."""
    validate_every: Positive
    """Steps."""
    checkpoint_every: Positive
    """Steps between two saved states."""
    log_every: Positive
    """Steps."""
    place: Literal["auto", "device", "host", "stream"] = "auto"
    """Where slices are kept; auto: on the device, in host memory or on disk, whatever fits."""
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """auto: bf16 on GPUs and CPUs that compute in it (AVX512-BF16, AMX), else fp32."""
    compile: bool = False
    """Whether to use torch.compile for the forward pass."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory layout of images; auto: on."""
    device: str = "auto"
    """auto: the GPU if there is one; or cpu, cuda, cuda:1, ..."""
    threads: Positive = 1
    """CPU threads of a training."""
    explode: Above = 1e4
    """An unweighted loss term above this stops the training."""


@dataclass(frozen=True, kw_only=True)
class Adversarial(Section):
    """The discriminator of Fig. 6(b) and its training; see training/opponent.py."""

    base: Positive = 64
    """Maps of its first layer (Fig. 6b)."""
    pool: bool = True
    """Average the last maps; as drawn (false), dense layers on a full slice have 118 M weights."""
    norm: Literal["batch", "none"] = "batch"
    """Batch norm as drawn, or none."""
    lr: Above = 1e-4
    """Learning rate of its own Adam."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Of its Adam."""
    weight_decay: AtLeast = 0.0
    """Section 4.1 gives 0.1 and does not name the discriminator."""
    decoupled: bool = True
    """As in `Optimizer`."""
    schedule: Schedule | None = None
    """Of its learning rate, in steps of the training; null: the generator's."""
    r1: AtLeast = 0.0
    """Weight of the penalty on its gradient at true images (Mescheder et al. 2018)."""
    updates: Positive = 1
    """Steps of the discriminator per step of the generator."""
    warmup: Count = 0
    """Steps in which pixel terms act alone and the discriminator is not trained."""


@dataclass(frozen=True, kw_only=True)
class Features(Section):
    """How codes of the frozen networks are compared (Eq. 7, 8); see method/features.py."""

    target: Literal["lr", "hr"] = "lr"
    """Whose codes the output's should resemble: the LR image's (as published) or the true one's."""
    vit_layers: tuple[Integer, ...] = (-1,)
    """Layers whose hidden states are compared; -1: the last."""
    vit_reduce: Literal["token", "pooled", "centred"] = "token"
    """Compare token by token, their mean, or tokens less their mean."""
    autoencoder_size: Literal[0, 256] = 0
    """Pixels of the canvas that images are padded to for the auto-encoder; 0: none."""
    random: tuple[Literal["vit", "autoencoder"], ...] = ()
    """Frozen networks that keep random weights: controls."""
    validation_patches: Positive = 16
    """Patches that validation measures these terms on."""
    gradient_norms_every: Count = 0
    """Steps between two measurements of each term's gradient; 0: never."""


@dataclass(frozen=True, kw_only=True)
class Training(Loop):
    """Settings of a super-resolution training (section 4.1)."""

    patch: Count
    """Side of a square patch in HR pixels; 0: whole slices."""
    augment: bool = True
    """Flips and rotations by 90 degrees."""
    noise: AtLeast = 0.0
    """Largest standard deviation of the Gaussian noise on LR patches, where 1 is the intensity that
    `normalise` makes 1; each patch has its own, from 0 to this."""
    validation_slices: Count
    """Slices to choose the best step by; 0: all."""
    test_curve: bool = True
    """Log a curve of the test slices (Fig. 7); it never chooses."""
    adversarial: Adversarial
    """Used if a method has the loss `adversarial`."""
    features: Features = field(default_factory=Features)
    """Used if a method has the loss `vit`, `structure` or `texture`."""


@dataclass(frozen=True, kw_only=True)
class SuperResolution(Training):
    """`sr:` of params.yaml, which the `train` and `published` of a method's entry change."""

    patch_lr: Count = 0
    """Side of a patch in LR pixels, if a publication gives that; 0: see `patch`."""
