"""`mrsr export`: checks first, then one of the three ways to take a network away."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from mrsr.console import say
from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.scan.export import bundle, card, choosing, network, registry

USE = """`{file}` takes `lr`, float32 (batch, 1, height, width), and gives `sr`,
(batch, 1, {scale} * height, {scale} * width), for any sizes of 8 or more. Divide the scan by the
{percentile:g} % percentile of its intensities first, and multiply the output by it.
"""


def export(
    checkpoint: str = "",
    to: str = "onnx",
    out: Path | None = None,
    *,
    name: str = "",
    overwrite: bool = False,
) -> tuple[str, float]:
    """Take a network away.

    Args:
        checkpoint: a `best.pt`, or `x2`, `x4` of the package; empty: the package's at 2x.
        to: "onnx", "bundle" (of MONAI) or "mlflow".
        out: the .onnx file, or the folder, to write. None: NAME_xSCALE.onnx or
            NAME_xSCALE_bundle here; of mlflow, a version in the tracking store.
        name: of the registered model.
        overwrite: replace `out` if it exists.

    Returns:
        What was made, and the largest difference between onnxruntime and torch (normalised).

    Raises:
        UserError: the network cannot be exported, the extra is missing, or `out` exists.
    """
    network.check_installed()
    if name and (to != "mlflow" or out is not None):
        raise UserError("--name is of a registered model; use it with --to mlflow and no folder")
    source = choosing.choose(checkpoint)
    say(f"{source.name}: exporting to {to}, and comparing with torch; minutes for a large network")
    if to == "mlflow" and out is None:
        apart, address = registry.register(source, name)
        return address, apart
    out = out or Path(source.name + {"onnx": ".onnx", "bundle": "_bundle"}[to])
    if to == "onnx":
        return _onnx(source, out, overwrite)
    _check_new(out, overwrite)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give the name of a folder")
    if out.name in ("", "..") or (out.exists() and not _made(out)):
        raise UserError(f"{out} holds something else than an export; give the name of a new folder")
    # complete or absent: made beside its place, then renamed
    with _beside(out) as beside:
        made = Path(beside) / "made"
        apart = (bundle if to == "bundle" else registry).write(source, made)
        if out.exists():
            out.rename(Path(beside) / "before")
        shutil.move(made, out)
    return str(out), apart


def _onnx(source: choosing.Source, out: Path, overwrite: bool) -> tuple[str, float]:
    if out.suffix.lower() != ".onnx":
        raise UserError(f"{out} must be named .onnx")
    about = out.with_suffix(".md")
    _check_new(out, overwrite)
    _check_new(about, overwrite)
    for file in (out, about):
        if file.is_dir():
            raise UserError(f"{file} is a folder; give the name of a file")
    apart = network.write(source, out)
    use = USE.format(file=out.name, scale=source.scale, percentile=source.percentile)
    write_text(about, card.text(source, apart, use))
    return str(out), apart


def _made(folder: Path) -> bool:
    """Whether a folder is empty or was exported before: no other is ever removed."""
    known = any((folder / name).is_file() for name in ("configs/metadata.json", "MLmodel"))
    return known or not any(folder.iterdir())


def _beside(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder beside `out`.

    Raises:
        UserError: there is no place for it.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".tmp-", dir=out.parent)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; check folder and disk") from None


def _check_new(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} exists; give another name, or --overwrite to replace it")
