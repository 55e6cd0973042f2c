"""A few test slices of one dataset and scale by each of its methods, in one file.

    mrsr examples --settings @results/demo/settings/examples/phantom_t1_x2.json \\
        --slices results/demo/slices/phantom_t1/test.h5 \\
        --out results/demo/figures/examples/phantom_t1_x2.npz

The networks run once more on the chosen slices (`choosing.py`), as in the evaluation, and on up to
SPREAD others, spread over the store, from which the residuals' spectra come. Images are turned so
that superior or anterior is up and, in axial and coronal slices, the patient's right is left.

The file (numpy's npz) has `about`, a JSON text, and arrays `<number of the slice>/<method>`
(height, width) float32, with `reference` (the original) and `plain` (bicubic, from the same LR).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrsr import checkpoint, compute, resampling
from mrsr.errors import UserError
from mrsr.figures import choosing, spectrum
from mrsr.figures.choosing import Slice
from mrsr.files import atomic
from mrsr.metrics import cell
from mrsr.metrics.rating import super_resolve
from mrsr.params.figures import main_method
from mrsr.params.jobs import Evaluation, Examples
from mrsr.slices import batches, holding
from mrsr.slices.store import StoredVolume

REFERENCE, PLAIN = "reference", "plain"
SPREAD = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """An example file. slices: volume, index, subject, why, mm (height and width of a pixel), psnr
    by method. spectra: see `spectrum.py`."""

    dataset: str
    scale: int
    decides: str
    labels: dict[str, str]
    slices: list[dict[str, Any]]
    spectra: dict[str, Any]
    images: dict[str, np.ndarray]

    def image(self, number: int, method: str) -> np.ndarray:
        """(height, width) float32."""
        return self.images[f"{number}/{method}"]


def make(
    settings: Examples,
    metrics: Mapping[str, Path],
    slices: Path,
    checkpoints: Mapping[str, Path],
    out: Path,
    guide: Path | None = None,
) -> None:
    """Run each method on the chosen slices and write the file.

    Args:
        settings: of a dataset and scale.
        metrics: by method, the CSV of its evaluation.
        slices, guide: the test store, and that of its second contrast where a method needs it.
        checkpoints: by method, `best.pt`; methods without weights are not in it.
        out: the .npz.

    Raises:
        UserError: a file is missing or of another cell; the settings name an unknown slice.
    """
    methods = [one.method for one in settings.cells]
    values = {key: choosing.psnr_by_slice(metrics[key]) for key in methods}
    decides = main_method(tuple(methods))
    shown = choosing.choose(values[decides], settings.slice)
    order = sorted(values[decides])
    every = [
        order[i] for i in np.unique(np.linspace(0, len(order) - 1, SPREAD).round().astype(int))
    ]
    wanted = list(dict.fromkeys([*shown.values(), *every]))

    images: dict[tuple[Slice, str], np.ndarray] = {}
    about: dict[Slice, dict[str, Any]] = {}
    for one in settings.cells:
        needs = guide if one.type == "guided" else None
        for at, volume, found in _run(one, wanted, slices, checkpoints.get(one.method), needs):
            about.setdefault(at, {"subject": volume.subject, **_geometry(volume)[1]})
            for name, image in found.items():
                images.setdefault((at, name), _turned(image, volume))
    spectra = spectrum.residual(
        {at: images[at, REFERENCE] for at in wanted},
        {key: {at: images[at, key] for at in wanted} for key in (*methods, PLAIN)},
    )
    text = {
        "dataset": settings.dataset,
        "scale": settings.scale,
        "decides": decides,
        "labels": {one.method: one.label or one.method for one in settings.cells},
        "slices": [
            {"why": why, "volume": at.volume, "index": at.index, **about[at]}
            | {"psnr": {key: values[key].get(at) for key in methods}}
            for why, at in shown.items()
        ],
        "spectra": spectra,
    }
    arrays = {
        f"{number}/{key}": images[at, key]
        for number, at in enumerate(shown.values())
        for key in (REFERENCE, PLAIN, *methods)
    }
    _write(out, text, arrays)


def _write(out: Path, about: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    content = io.BytesIO()
    # savez stamps its members with 1980, so equal contents are equal files
    np.savez_compressed(content, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    with atomic(out) as temporary:
        temporary.write_bytes(content.getvalue())


def read(path: Path) -> Loaded:
    """An example file.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        return Loaded(**json.loads(str(arrays.pop("about"))), images=arrays)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no file of example images ({error}); make it again") from None


def _run(
    settings: Evaluation,
    wanted: Sequence[Slice],
    slices: Path,
    saved: Path | None,
    guide: Path | None,
) -> Iterator[tuple[Slice, StoredVolume, dict[str, np.ndarray]]]:
    """Each wanted slice with its volume and images (h, w): the method's, the reference, plain."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = compute.device_for(settings.device)
    origin = checkpoint.load(saved, checkpoint.SR) if saved else None
    if origin:
        cell.check_origin(origin, saved, settings)
    cell.check_store(slices, settings)
    network = cell.network(settings, saved, device, guided=guide is not None)
    pairs = holding.load(
        slices,
        scale=settings.scale,
        degradation=settings.degradation,
        device=device,
        place="stream",  # a few slices: the others are not degraded
        guide=guide,
        acceleration=settings.acceleration,
    )
    names = [
        Slice(volume.path, volume.slice_index[position])
        for volume, position in (
            (pairs.volumes[v], p) for v, p in zip(pairs.volume, pairs.position, strict=True)
        )
    ]
    if missing := set(wanted) - set(names):
        first = min(missing)
        raise UserError(
            f"{slices} has no slice {first.index} of {first.volume} for '{settings.method}'; "
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


def _geometry(volume: StoredVolume) -> tuple[tuple[bool, bool, bool], dict[str, Any]]:
    """Whether to transpose, and to flip rows and columns; the pixel's mm and the sides' letters."""
    import nibabel

    codes = nibabel.orientations.aff2axcodes(volume.affine)
    (row, column), mm = codes[1:], list(volume.voxel_size[1:])
    # up: superior where a side of the slice is, else anterior
    up = "SI" if {row, column} & {"S", "I"} else "AP"
    turn = column in tuple(up)
    if turn:
        row, column, mm = column, row, mm[::-1]
    flips = row in ("S", "A"), column in ("R", "A")
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    top = row if flips[0] else opposite.get(row or "", "")
    left = column if flips[1] else opposite.get(column or "", "")
    return (turn, *flips), {"mm": mm, "top": top, "left": left}


def _turned(image: np.ndarray, volume: StoredVolume) -> np.ndarray:
    """An image (h, w) as people look at it, float32."""
    turn, rows, columns = _geometry(volume)[0]
    image = image.T if turn else image
    image = image[::-1] if rows else image
    return np.ascontiguousarray(image[:, ::-1] if columns else image, dtype=np.float32)
