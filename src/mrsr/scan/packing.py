"""Put the networks of an experiment into the package: float16 weights, checksums, model card.

By hand: `mrsr pack --experiment best` after `snakemake all --config experiment=best`; `make
weights` does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mrsr import checkpoint
from mrsr.checkpoint import Checkpoint
from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import sha256, write_text
from mrsr.inference import forward
from mrsr.params.experiment import Cell, Resolved
from mrsr.scan import boxed, card
from mrsr.scan.comparing import compare
from mrsr.slices import batches, holding, known

LARGEST = 2_000_000  # bytes of a file in the package
COMPARED = 4  # test slices on which float16 is compared with float32


def pack(
    resolved: Resolved, results: Path, out: Path | None = None, others: Sequence[Path] = ()
) -> list[Path]:
    """Write the networks, SHA256SUMS and README.md; returns their paths.

    Args:
        resolved: an experiment with one method that is `trained_on` a dataset of its own.
        results: the folder with the experiment's results, complete with metrics.
        out: the folder to write; None: the package's own.
        others: scans that are unlike those of the training, to be measured on.

    Raises:
        UserError: the experiment has no such method or no checkpoint, or a file is too large.
    """
    folder = out or boxed.FOLDER
    root = results / resolved.name
    packed: list[card.Packed] = []
    for cell in _cells(resolved):
        where = root / "checkpoints" / cell.dataset / f"x{cell.scale}" / cell.method
        if not (where / "best.pt").is_file():
            say(f"no {where / 'best.pt'}: {cell.scale}x is left out")
            continue
        packed.append(_pack(resolved, cell, where, root, folder, others))
    if not packed:
        raise UserError(
            f"{root} has no checkpoint to pack; run `snakemake all --config "
            f"experiment={resolved.name}` first"
        )
    sums = "".join(f"{sha256(each.path)}  {each.path.name}\n" for each in packed)
    write_text(folder / boxed.SUMS, sums)
    write_text(folder / boxed.CARD, card.text(resolved, packed, root))
    return [*(each.path for each in packed), folder / boxed.SUMS, folder / boxed.CARD]


def _cells(resolved: Resolved) -> list[Cell]:
    """The trainings of the one method that is `trained_on` a dataset, one for each scale."""
    cells = [cell for cell in resolved.trainings() if resolved.methods[cell.method].trained_on]
    if len({cell.method for cell in cells}) != 1:
        raise UserError(
            f"experiment '{resolved.name}' must have one method with `trained_on` to pack; "
            "choose another, such as best"
        )
    return cells


def _pack(
    resolved: Resolved, cell: Cell, where: Path, root: Path, folder: Path, others: Sequence[Path]
) -> card.Packed:
    saved = checkpoint.load(where / "best.pt")
    path = folder / boxed.file_name(cell.scale)
    checkpoint.save(
        path,
        model_name=saved.model_name,
        options=saved.options,
        scale=saved.scale,
        weights={name: _half(tensor) for name, tensor in saved.weights.items()},
        settings=saved.settings,
        provenance={**saved.provenance, "weights": "float16", **_trained_on(saved, root, cell)},
    )
    if path.stat().st_size > LARGEST:
        size = path.stat().st_size
        path.unlink()
        raise UserError(f"{path.name} has {size} bytes, over {LARGEST}; make the network smaller")
    store = root / "slices" / resolved.measured[0] / "test.h5"
    return card.Packed(
        path=path,
        cell=cell,
        saved=saved,
        log=where / "log.jsonl",
        rounding=_rounding(where / "best.pt", path, saved, store),
        others={scan.name: compare(scan, path, cell.scale) for scan in others},
    )


def _trained_on(saved: Checkpoint, root: Path, cell: Cell) -> dict[str, Any]:
    """What the network has seen, of checkpoints that do not say so yet."""
    store = root / "slices" / cell.dataset / "train.h5"
    if "trained_on" in saved.provenance or not store.is_file():
        return {}
    return {"trained_on": known.about(store)}


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


@torch.inference_mode()
def _rounding(best: Path, packed: Path, saved: Checkpoint, store: Path) -> float:
    """Largest change of a test slice's PSNR (dB) that the rounding to float16 makes."""
    networks = [checkpoint.network(path) for path in (best, packed)]
    pairs = holding.load(
        store,
        scale=saved.scale,
        degradation=saved.settings["degradation"],
        device="cpu",
        place="stream",
    )
    changes = []
    for piece, lr, hr, *_ in batches.whole(pairs, batch=1, limit=COMPARED):
        height, width = piece.size
        errors = [
            (forward(network, lr, saved.scale) - hr)[..., :height, :width].square().mean()
            for network in networks
        ]
        changes.append(abs(10 * torch.log10(errors[0] / errors[1]).item()))
    return max(changes)
