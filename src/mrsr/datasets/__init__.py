"""One file per source of volumes; the file's name is its key under `sources:` in params.yaml.

Each has three functions:

- `prepare(folder, settings)`: download or generate, verify and unpack into `folder`;
- `list_volumes(folder, settings, contrast)`: the volumes in `folder` as sorted `VolumeRef`s;
- `read_volume(ref)`: one `Volume`.

A source with tissue labels names the organs that have them: `LABELLED = ("brain",)`. Only those can
be `labelled:` in an experiment; `LABELLED = None` leaves that to the files.

`prepare` may return `mrsr.raw.volume.Brought`: how many scans it found, used and left out. `FILES`
beside `SETTINGS` names the settings that name files or folders; when those change, the source is
prepared and sliced again. A source in params.yaml can be `like: folder`: another one of that file.

Your own files go into `datasets/` of a folder listed in MRSR_PLUGINS.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from mrsr.errors import UserError
from mrsr.plugins import PLUGINS, check_plugins

__path__ += [str(folder / "datasets") for folder in PLUGINS]


def module(key: str, settings: Any) -> str:
    """The name of the file of a source: its key in params.yaml, unless it is `like` another."""
    return str(getattr(settings, "like", "") or key)


def source(name: str) -> ModuleType:
    """Import the module of a source by its file name.

    Raises:
        UserError: there is no such file.
    """
    check_plugins()
    if not name.isidentifier() or importlib.util.find_spec(f"mrsr.datasets.{name}") is None:
        raise UserError(f"no source '{name}': expected a file src/mrsr/datasets/{name}.py")
    return importlib.import_module(f"mrsr.datasets.{name}")
