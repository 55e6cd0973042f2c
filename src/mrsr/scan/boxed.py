"""The networks that come with the package, and the methods that need no training.

The networks are in src/mrsr/weights, one file a scale, with their card. `mrsr enhance` uses them
without `--model`. `packing.py` makes them.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mrsr import models, resampling
from mrsr.errors import UserError
from mrsr.files import sha256

FOLDER = Path(__file__).parent.parent / "weights"
CARD = "README.md"
SUMS = "SHA256SUMS"  # as `sha256sum --check` reads it
USUAL = 2  # the scale if none is asked for
UNTRAINED = ("bicubic", "pseudo_inverse")  # of models/: what networks are compared with


def untrained(name: str, scale: int) -> nn.Module:
    """The network of an untrained method, for a bicubic degradation.

    Raises:
        UserError: there is no such scale.
    """
    resampling.check(scale, "bicubic")
    return models.build(name, scale, {})


def file_name(scale: int) -> str:
    """The weights' file of a scale."""
    return f"x{scale}.pt"


def path(scale: int, folder: Path = FOLDER) -> Path:
    """The package's network for a scale (0: the usual one), checked against its SHA-256.

    Raises:
        UserError: the package has none for this scale, or the file has changed.
    """
    name = file_name(scale or USUAL)
    sums = sums_of(folder)
    if name not in sums:
        known = ", ".join(key.removeprefix("x").removesuffix(".pt") + "x" for key in sorted(sums))
        raise UserError(
            f"the package has no network for {scale or USUAL}x (it has {known or 'none'}); "
            "train one and give it with --model"
        )
    file = folder / name
    if not file.is_file() or sha256(file) != sums[name]:
        raise UserError(f"{name} of the package is missing or damaged; install mrsr again")
    return file


def sums_of(folder: Path = FOLDER) -> dict[str, str]:
    """SHA-256 of each file that the package should have, by its name."""
    file = folder / SUMS
    lines = file.read_text(encoding="ascii").splitlines() if file.is_file() else []
    return {name: digest for digest, name in (line.split() for line in lines)}
