"""What a network has seen, for its checkpoint: contrasts, organ, voxel sizes, intensities.

`mrsr enhance` compares a scan with it. By hand:

    python -c "from mrsr.slices.known import about; print(about('train.h5'))"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsr.raw import contrasts
from mrsr.slices import store

PLACES = (0.25, 0.5, 0.75)  # in the volume, of the slices whose intensities are looked at


def about(path: str | Path) -> dict[str, Any]:
    """What the volumes of a training store are like, as JSON-like values.

    Returns:
        `contrasts` (sorted; of a store of several, by the files' names), `organ`, `plane_mm` (least
        and largest voxel size in the plane of the HR slices), `slice_mm` (between slices),
        `intensity` (least and largest normalised value in three slices of each volume), `volumes`
        and `subjects` (how many).

    Raises:
        UserError: the store cannot be read.
    """
    attributes, volumes = store.attributes(path), store.read_store(path)
    contrast = str(attributes.get("contrast", ""))
    if contrast == "any":
        found = {contrasts.named(Path(volume.path).name) for volume in volumes}
    else:
        found = {contrasts.canonical(contrast)}
    low, high = np.inf, -np.inf
    with store.open_store(path) as file:
        for volume in volumes:
            which = sorted({int(place * (volume.shape[0] - 1)) for place in PLACES})
            values = np.abs if np.dtype(volume.dtype).kind == "c" else np.asarray
            slices = values(store.normalised(store.read_slices(file, volume, which), volume))
            low, high = min(low, float(slices.min())), max(high, float(slices.max()))
    return {
        "contrasts": sorted(found - {""}),
        "organ": str(attributes.get("organ", "")),
        "plane_mm": _ends([size for volume in volumes for size in volume.voxel_size[1:]]),
        "slice_mm": _ends([volume.voxel_size[0] for volume in volumes]),
        "intensity": _ends([low, high]),
        "volumes": len(volumes),
        "subjects": len({volume.subject for volume in volumes}),
    }


def _ends(values: list[float]) -> list[float]:
    return [float(f"{end:.4g}") for end in (min(values), max(values))]
