"""One file per network; the file's name is the `model:` of an entry under `methods:`.

Each has `build(scale, **options) -> nn.Module`, a function or the network's class. Forward takes LR
images (batch, 1, h, w) in normalised intensities and returns (batch, 1, scale * h, scale * w).
Options are checked against their annotations, such as `int`, `Literal["a", "b"]`, or the bounded
types of `params/typed.py` and `layers.py`; without an annotation they are not. Optional constants:

- `SCALES = (2, 4)`: the scales that the design allows, if not all of 2, 3, 4 and 8;
- `GUIDED = True`: forward also takes the second contrast at HR, (batch, 1, scale * h, scale * w);
- `TRAINED = False`: it has no weights, and so its methods have no losses;
- `FROZEN = ("vit", "autoencoder")`: it has these networks inside, as parts of these names, built
  from options of these names (the workflow gives their shapes). Their trained weights are loaded
  before the first step, unless its option `networks` is something else than `trained`.

A method `calibrate(lr)` is called once before the first step, with LR patches of the training
slices. In training mode a network may also return side outputs: (SR, {"reconstruction": LR-sized,
"guide": HR-sized}). The losses with those names use them.

Your own files go into `models/` of a folder listed in MRSR_PLUGINS.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from mrsr.errors import UserError, one_line
from mrsr.params import typed
from mrsr.params.declared import model_scales
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
    try:
        return importlib.import_module(f"mrsr.models.{name}")
    except Exception as error:  # whatever the code of the file raises
        raise failed(name, "cannot be imported", error) from error


def failed(name: str, what: str, error: BaseException) -> UserError:
    """The line for an error in a network's own code, with the place in its file."""
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if Path(place.filename).stem == name]
    where = f" in {own[-1].filename}, line {own[-1].lineno}" if own else ""
    return UserError(
        f"model '{name}' {what}: {type(error).__name__}{where}: {one_line(str(error))}; correct "
        "its code, or its options"
    )


def check_size(name: str, sr: Any, lr: Any, scale: int) -> None:
    """Check that a network's output is `scale` times as large as its input.

    Raises:
        UserError: it is not.
    """
    wanted = (*lr.shape[:2], lr.shape[2] * scale, lr.shape[3] * scale)
    if tuple(sr.shape) != wanted:
        raise UserError(
            f"model '{name}' gave {tuple(sr.shape)} for {tuple(lr.shape)} at {scale}x; its forward "
            f"must give (batch, 1, {scale} * h, {scale} * w), here {wanted}"
        )


def build(name: str, scale: int, options: dict[str, Any]) -> Any:
    """Build a network, its options checked against the annotations of its parameters.

    Raises:
        UserError: a scale that the network is not designed for, an unknown option, or a value for
            which it cannot be built.
    """
    network, scales = module(name), model_scales(name)
    if scale not in scales:
        raise UserError(f"{name}: scale must be one of {', '.join(map(str, scales))}, not {scale}")
    _, *known = inspect.signature(network.build).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(
            f"model '{name}' has no option '{unknown[0]}'; it has: {', '.join(known) or 'none'}"
        )
    kinds = _kinds(network.build)
    try:
        checked = {key: typed.build(kinds.get(key, Any), options[key], key) for key in options}
    except ValueError as error:
        raise UserError(f"{name}: {str(error).replace(': ', ' ', 1)}") from None
    try:
        return network.build(scale, **checked)
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


def _kinds(build: Any) -> dict[str, Any]:
    """The annotated types of the options of a `build`: a function or a class."""
    try:
        function = build.__init__ if inspect.isclass(build) else build
        return get_type_hints(function, include_extras=True)
    except NameError:  # imported for type checkers alone, as a plugin may do
        return {}


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
