"""Dice of tissues: does a segmentation network still find them in a super-resolved volume?

`dice` in `metrics.more` is of the super-resolved volume, `dice_hr` of the true one: what the
network can find at best. The network is the 3D UNETR that the experiment pre-trains (appendix B),
the labels are the test store's. Both are of whole volumes, so every slice of a volume has the same
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import checkpoint, models
from mrsr.errors import UserError
from mrsr.method import segmentation
from mrsr.params.schema import ANATOMY
from mrsr.slices import store
from mrsr.slices.store import StoredVolume


@dataclass(frozen=True)
class Segmenter:
    """A trained segmentation network, and the test store that has the true labels."""

    network: nn.Module
    size: tuple[int, int, int]
    classes: int
    slices: Path


def opened(saved: Path | None, slices: Path, device: torch.device) -> Segmenter:
    """The network of a checkpoint, on the device.

    Raises:
        UserError: there is no checkpoint, or it is not of a 3D segmentation.
    """
    if saved is None:
        names = " and ".join(ANATOMY)
        raise UserError(f"{names} need a segmentation network; give its best.pt, --segmentation")
    found = checkpoint.load(saved, checkpoint.VIT)
    if found.options.get("dimensions") != 3:
        raise UserError(f"{saved} sees slices; give the checkpoint of the 3D segmentation")
    network = models.build(found.model_name, 1, found.options)
    network.load_state_dict(found.weights)
    return Segmenter(
        network=network.to(device).eval(),
        size=tuple(found.options["size"]),
        classes=int(found.options["classes"]),
        slices=slices,
    )


def per_slice(
    segmenter: Segmenter, volume: StoredVolume, pred: Tensor, ref: Tensor, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The metrics `names` of a volume, the same for each of its slices.

    Args:
        segmenter: as `opened` gives it.
        volume: the record of the volume in the segmenter's store.
        pred, ref: (slices, h, w), normalised as in training.
        names: of `ANATOMY`.

    Returns:
        One float64 array (slices,) per name: the mean over the tissues that the labels or the
        network name; NaN if there are none.

    Raises:
        UserError: the store has no labels.
    """
    labels = torch.from_numpy(store.read_labels(segmenter.slices, volume)).to(pred.device)
    images = {"dice": pred, "dice_hr": ref}
    found = {}
    for name in names:
        with torch.inference_mode():
            logits = segmentation.segmented(
                segmenter.network, images[name][None, None], segmenter.size
            )
        scores = segmentation.dice_scores(logits.argmax(dim=1)[0], labels, segmenter.classes)
        known = [score for score in scores if not np.isnan(score)]
        found[name] = np.full(len(pred), np.mean(known) if known else np.nan)
    return found
