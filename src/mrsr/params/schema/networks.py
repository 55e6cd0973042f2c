"""Settings of the two frozen networks (`vit:` and `autoencoder:` of params.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mrsr.params.schema.data import Section
from mrsr.params.schema.trainings import Adversarial, Loop
from mrsr.params.typed import (
    Above,
    AtLeast,
    Count,
    Fraction,
    Positive,
)

Pretext = Literal["organ", "masked", "contrastive"]


@dataclass(frozen=True, kw_only=True)
class VitNetwork(Section):
    """UNETR's encoder, a ViT-B/16, and the width of its decoder (section 4.1, appendix B)."""

    hidden: Positive
    """Length of a token."""
    layers: Positive
    """Transformer blocks."""
    heads: Positive
    """Attention heads."""
    mlp: Positive
    """Hidden units of a block's perceptron."""
    patch: Literal[16] = 16
    """Pixels of a token's square."""
    size: tuple[Positive, Positive, Positive]
    """Voxels of a training patch: slices, height, width."""
    feature_size: Positive
    """Maps of the decoder's finest layer."""


@dataclass(frozen=True, kw_only=True)
class VitTraining(Loop):
    """A phase of the vision transformer's training."""

    validation_volumes: Count = 0
    """Volumes of each store to choose the best step by; 0: all."""
    encoder_rate: Above = 1.0
    """The transformer's learning rate as a multiple of the decoder's."""


@dataclass(frozen=True, kw_only=True)
class Segmentation(VitTraining):
    """The 3D pre-training; `steps: 0` takes given weights as they are."""

    steps: Count
    """Optimizer steps."""


@dataclass(frozen=True, kw_only=True)
class Vit(Section):
    """The vision transformer: pre-training by segmentation, fine-tuning by a pretext task."""

    network: VitNetwork
    """Its shape."""
    classes: Positive = 5
    """Number of labels; the phantom has background, CSF, grey and white matter, other tissue."""
    weights: str = ""
    """Your own MONAI UNETR state dict, path or URL."""
    weights_sha256: str = ""
    """SHA-256 of `weights`; needed for a URL."""
    segmentation: Segmentation
    """The 3D pre-training (appendix B)."""
    pretext: Pretext = "organ"
    """The task that fine-tunes the encoder (section 3.2); appendix B tried the other two."""
    mask_ratio: Fraction = 0.75
    """Of the masked task: fraction of masked tokens."""
    temperature: Above = 0.1
    """Of the contrastive task."""
    finetuning: VitTraining
    """The pretext task's training."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderNetwork(Section):
    """The disentangling auto-encoder (section 3.3, appendix A); see models/autoencoder.py."""

    structure_channels: Positive
    """Channels of the structure code; 1 as published."""
    texture: Positive
    """Length of the texture code."""
    size: Literal[0, 256]
    """Pixels of the canvas that images are padded to; 0: none."""
    channels: tuple[Positive, Positive, Positive, Positive]
    """Maps of its four widths."""
    pooling: Literal["mean", "max"] = "mean"
    """How the encoder halves its maps."""
    start: Literal["linear", "random"] = "linear"
    """Start as the best linear auto-encoder of this shape, or with random weights."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderWeights(Section):
    """Weights of Eq. 6 and of two further terms; see method/disentangling.py."""

    reconstruction: AtLeast
    """Eq. 3."""
    adversarial: AtLeast
    """Eq. 4."""
    swap: AtLeast
    """Eq. 5."""
    patch_swap: AtLeast
    """Swap of the centre patch (section 3.3 describes it without a weight)."""
    consistency: AtLeast
    """Codes of a swapped image should equal those of its donors; 0 as published."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderDiscriminator(Adversarial):
    """The auto-encoder's discriminator."""

    crop: Count = 0
    """Pixels of the random square that it sees; 0: the whole image."""


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Loop):
    """The disentangling auto-encoder's training, one for each dataset and scale."""

    network: AutoencoderNetwork
    """Its shape."""
    weights: AutoencoderWeights
    """Of the loss terms."""
    discriminator: AutoencoderDiscriminator
    """Of the terms `adversarial` and `swap`."""
    intensity_range: Above
    """Grey levels of an intensity of 1 in the pixel terms."""
    patch: Count = 0
    """HR pixels of a training image; 0: the largest square that every slice has."""
    patch_n: Positive
    """LR pixels of the centre patch."""
    augment: bool = True
    """Flips of training images."""
    validation_slices: Count
    """Slices to choose the best step by; 0: all."""
    test_curve: bool = True
    """Log a curve of the test slices; it never chooses."""
    gradient_norms_every: Count = 0
    """Steps between two measurements of each term's gradient; 0: never."""
