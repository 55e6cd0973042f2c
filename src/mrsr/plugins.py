"""Folders of one's own beside the package, which MRSR_PLUGINS names."""

from __future__ import annotations

import os
from pathlib import Path

from mrsr.errors import UserError

# folders of one's own beside the package, each with models/ or datasets/ in it
PLUGINS = tuple(
    Path(folder).expanduser().resolve()
    for folder in os.environ.get("MRSR_PLUGINS", "").split(os.pathsep)
    if folder
)


# where files of models, sources and losses are looked for, by their name; the package's come first
PACKAGE_FOLDERS = (Path(__file__).resolve().parent, *PLUGINS)


def check_plugins() -> None:
    """Raise a `UserError` for a folder of MRSR_PLUGINS that is missing or adds nothing.

    Not done on import: there, it would be a traceback instead of a line.
    """
    for folder in PLUGINS:
        if not folder.is_dir():
            raise UserError(f"MRSR_PLUGINS: no folder {folder}; correct the path, or unset it")
        if not any((folder / name).is_dir() for name in ("models", "datasets")):
            raise UserError(
                f"MRSR_PLUGINS: {folder} has neither models/ nor datasets/; name the folder above"
            )
