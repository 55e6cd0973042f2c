"""The JSON beside an enhanced scan: what it was made from, by what, and how."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrsr.files import sha256, write_json
from mrsr.raw.nifti import stem
from mrsr.version import __version__

NOTE = "an estimate, not for diagnosis"
WARNING = "warning: "  # how a line that is one starts


def path_of(output: Path) -> Path:
    """finer.nii.gz -> finer.json, as BIDS and dcm2niix have it."""
    return output.parent / f"{stem(output)}.json"


def write(
    output: Path,
    *,
    source: Path | None,
    model: dict[str, Any],
    settings: dict[str, Any],
    said: Sequence[str],
    more: dict[str, Any] | None = None,
) -> None:
    """Write it.

    Args:
        output: the scan that is there.
        source: the file or folder it was made from; None: an image in memory.
        model: name, SHA-256 and what is known of its training.
        settings: scale, axis and the other settings, as they were in force.
        said: what people were told, warnings among it.
        more: other entries.
    """
    content = {
        "note": NOTE,
        "mrsr": __version__,
        "command": command(),
        "input": _input(source),
        "output": {"file": output.name, "sha256": sha256(output)},
        "model": model,
        **settings,
        "done": [line for line in said if not line.startswith(WARNING)],
        "warnings": [line.removeprefix(WARNING) for line in said if line.startswith(WARNING)],
        **(more or {}),
    }
    write_json(path_of(output), content)


def command() -> str:
    """The command line without folders of this machine, or that a program called."""
    name = Path(sys.argv[0]).name
    if name not in ("mrsr", "cli.py"):
        return "mrsr in Python"
    return shlex.join(["mrsr", *(_without_folder(word) for word in sys.argv[1:])])


def _without_folder(word: str) -> str:
    """A word of a command line; of an absolute path only its name."""
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + sign + (Path(value).name if Path(value).is_absolute() else value)


def _input(source: Path | None) -> dict[str, Any]:
    if source is None:
        return {"file": None}
    digest = {"sha256": sha256(source)} if source.is_file() else {}
    return {"file": source.name, **digest}
