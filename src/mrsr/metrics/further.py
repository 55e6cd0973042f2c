"""The metrics that `metrics.more` names: of images (`more.py`) and of tissues (`anatomy.py`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrsr.metrics import more
from mrsr.params.jobs import Evaluation
from mrsr.params.schema import ANATOMY
from mrsr.slices.store import StoredVolume

Further = Callable[[StoredVolume, Tensor, Tensor], dict[str, np.ndarray]]


def measure(
    settings: Evaluation, slices: Path, segmentation: Path | None, device: torch.device
) -> Further:
    """What measures a volume: (its record, prediction, reference) -> each metric of each slice.

    Args:
        settings: its `more` and `preset`. slices: the test store, which has the true labels.
        segmentation: the checkpoint of the 3D segmentation, for metrics of tissues.

    Raises:
        UserError: a metric of tissues has no network.
    """
    of_images = [name for name in settings.more if name not in ANATOMY]
    of_tissues = [name for name in settings.more if name in ANATOMY]
    if of_tissues:
        from mrsr.metrics import anatomy

        segmenter = anatomy.opened(segmentation, slices, device)

    def further(volume: StoredVolume, pred: Tensor, ref: Tensor) -> dict[str, np.ndarray]:
        images = pred.cpu().numpy(), ref.cpu().numpy()
        found = more.per_slice(*images, settings.preset, of_images)
        if of_tissues:
            found |= anatomy.per_slice(segmenter, volume, pred, ref, of_tissues)
        return {name: found[name] for name in settings.more}

    return further
