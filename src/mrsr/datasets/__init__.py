"""One file per source of volumes; the file's name is its key under `sources:` in params.yaml.

Each has three functions:

- `prepare(folder, settings)`: download or make, verify and unpack into `folder`;
- `list_volumes(folder, settings, contrast)`: what lies there, as `VolumeRef`s, sorted;
- `read_volume(ref)`: one `Volume`.

Files of one's own are found in `datasets/` of the folders that MRSR_PLUGINS names.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from mrsr.errors import UserError
from mrsr.settings import PLUGINS, check_plugins

__path__ += [str(folder / "datasets") for folder in PLUGINS]


def source(name: str) -> ModuleType:
    """The module of a source, by the file's name.

    Raises:
        UserError: there is no such file.
    """
    check_plugins()
    if not name.isidentifier() or importlib.util.find_spec(f"mrsr.datasets.{name}") is None:
        raise UserError(f"no source '{name}': expected a file src/mrsr/datasets/{name}.py")
    return importlib.import_module(f"mrsr.datasets.{name}")
