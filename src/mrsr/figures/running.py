"""One method on a few slices of a test store, as in its evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mrsr import checkpoint, resampling
from mrsr.errors import UserError
from mrsr.figures.choosing import Slice
from mrsr.figures.example_file import PLAIN, REFERENCE
from mrsr.metrics import cell
from mrsr.metrics.rating import super_resolve
from mrsr.params.jobs import Evaluation
from mrsr.slices import batches
from mrsr.slices.store import StoredVolume


def run(
    settings: Evaluation,
    wanted: Sequence[Slice],
    slices: Path,
    saved: Path | None,
    guide: Path | None,
) -> Iterator[tuple[Slice, StoredVolume, dict[str, np.ndarray]]]:
    """Each wanted slice with its volume and images (h, w): the method's, the reference, plain.

    Args:
        settings: of the method's evaluation. slices: the test store. saved: its best.pt, if it has
            weights. guide: the test store of the second contrast, if it needs one.

    Raises:
        UserError: a file is missing or of another cell, or the store lacks a slice.
    """
    # a few slices: the others are not degraded
    network, pairs, origin = cell.opened(settings, slices, saved, guide, place="stream")
    names = [
        Slice(volume.path, volume.slice_index[position])
        for volume, position in (
            (pairs.volumes[v], p) for v, p in zip(pairs.volume, pairs.position, strict=True)
        )
    ]
    if missing := set(wanted) - set(names):
        first = min(missing)
        raise UserError(
            f"{slices} has no slice {first.number} of {first.volume} for '{settings.method}'; "
            "evaluate again"
        )
    which = [number for number, name in enumerate(names) if name in set(wanted)]
    for piece, lr, hr, *second in batches.whole(pairs, batch=1, which=which):
        if settings.type == "self" and origin:
            checkpoint.adopt_part(network, origin, piece.volume.key)
        sr, _ = super_resolve(network, batches.seen(pairs, lr, second), settings)
        height, width = piece.size
        clean = second[0] if pairs.role == "clean" else lr
        plain = resampling.upsample(clean[:, 0].cpu(), settings.scale)
        yield (
            Slice(piece.volume.path, piece.volume.slice_index[piece.positions[0]]),
            piece.volume,
            {
                REFERENCE: hr[0, 0, :height, :width].cpu().numpy(),
                PLAIN: plain[0, :height, :width].numpy(),
                settings.method: sr[0, 0, :height, :width].float().cpu().numpy(),
            },
        )
