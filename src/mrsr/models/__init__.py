"""One file per network; the file's name is the `model:` of an entry under `methods:`.

Each has `build(scale, **options) -> nn.Module`, whose forward takes LR images (batch, 1, h, w) in
normalised intensities and returns (batch, 1, scale * h, scale * w). Two optional constants:

- `SCALES = (2, 4)`: the scales that the design allows, if not all of 2, 3, 4 and 8;
- `GUIDED = True`: forward also takes the second contrast at HR, (batch, 1, scale * h, scale * w).

In training mode a network may also return side outputs: (SR, {"reconstruction": LR-sized,
"guide": HR-sized}). The losses with those names use them.

Your own files go into `models/` of a folder listed in MRSR_PLUGINS.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from types import ModuleType
from typing import Any

from mrsr.errors import UserError, one_line
from mrsr.plugins import PLUGINS, check_plugins

__path__ += [str(folder / "models") for folder in PLUGINS]


def module(name: str) -> ModuleType:
    """Import the module of a network by its file name.

    Raises:
        UserError: there is no such file.
    """
    check_plugins()
    if not name.isidentifier() or importlib.util.find_spec(f"mrsr.models.{name}") is None:
        raise UserError(
            f"no model '{name}': expected a file src/mrsr/models/{name}.py, or models/{name}.py "
            "in a folder listed in MRSR_PLUGINS"
        )
    return importlib.import_module(f"mrsr.models.{name}")


def build(name: str, scale: int, options: dict[str, Any]) -> Any:
    """Build a network. Unknown options raise an error; they are not ignored.

    Raises:
        UserError: an unknown option, or a value for which the network cannot be built.
    """
    factory = module(name).build
    known = list(inspect.signature(factory).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(
            f"model '{name}' has no option '{unknown[0]}'; it has: {', '.join(known) or 'none'}"
        )
    try:
        return factory(scale, **options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise UserError(
            f"model '{name}' cannot be built with options {options} ({one_line(str(error))}); "
            "check their types and sizes"
        ) from None


def trainable(name: str, scale: int, options: dict[str, Any]) -> Any:
    """Build a network that has weights to train.

    Raises:
        UserError: it has none; or as `build`.
    """
    network = build(name, scale, options)
    if not any(True for _ in network.parameters()):
        raise UserError(f"model '{name}' has nothing to train; evaluate it directly")
    return network


def check_guide(name: str, given: bool) -> None:
    """Check that a guide is given exactly if the network needs one.

    Raises:
        UserError: `given` (whether there is a guide) does not match the model's `GUIDED`.
    """
    needed = bool(getattr(module(name), "GUIDED", False))
    if needed and not given:
        raise UserError(f"model '{name}' needs a second contrast; give it with --guide")
    if given and not needed:
        raise UserError(f"model '{name}' takes no second contrast; leave --guide out")


def outputs(answer: Any) -> tuple[Any, dict[str, Any]]:
    """Split the result of a forward pass into the SR image and side outputs (usually none)."""
    return answer if isinstance(answer, tuple) else (answer, {})
