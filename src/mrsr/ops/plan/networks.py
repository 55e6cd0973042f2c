"""What one forward pass of a network costs: multiply-adds, elements moved through memory, kernels.

Networks are counted on torch's meta device: tensors have shapes and no values. That still takes 20
seconds of a processor for the networks of `paper`, and torch alone 4 to import, so counts are kept:
those of the package's experiments in networks.json beside this file, yours in logs/networks.json.
Both are found by the digest of the network's code; changed code is counted again
(`python -m mrsr.ops.plan.work` does it for networks.json).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrsr.files import write_text
from mrsr.params.code import model_code
from mrsr.params.declared import model_is_guided, package_file

# model, options as JSON, scale, and the sides in HR pixels of an image (in 3D: volume) to count
Network = tuple[str, str, int, tuple[int, ...]]
PATCH = 96  # pixels of the sides where networks are counted; the paper's patch
SHIPPED, OWN = Path(__file__).with_name("networks.json"), Path("logs/networks.json")


@dataclass(frozen=True)
class Counts:
    """Of a forward pass of one image.

    Args:
        parameters: of the network.
        multiply_adds: of convolutions and matrix products.
        moved: elements that those operations read and write, without the weights; moved_else: that
            all others do. It is what goes through memory where no two operations are fused.
        calls: operations, each at least one kernel of a GPU.
    """

    parameters: int
    multiply_adds: int
    moved: int
    moved_else: int
    calls: int


def named(
    model: str, options: dict[str, Any], scale: int = 1, sides: Sequence[int] = (PATCH, PATCH)
) -> Network:
    """A network that can be counted."""
    return model, json.dumps(options, sort_keys=True), scale, tuple(sides)


@functools.cache
def counts(network: Network) -> Counts:
    """What a network costs, from a file or counted (which imports torch)."""
    key = _key(network)
    for path in (SHIPPED, OWN):
        try:
            return Counts(**_read(path)[key])
        except (KeyError, TypeError):
            continue
    found = measure(network)
    _write(OWN, {**_read(OWN), key: asdict(found)})
    _read.cache_clear()
    return found


def per_pixel(network: Network) -> tuple[int, float]:
    """Parameters, and multiply-adds of a forward pass for each HR pixel."""
    found = counts(network)
    return found.parameters, found.multiply_adds / math.prod(network[3])


def _key(network: Network) -> str:
    model, options, scale, sides = network
    code = model_code(model)
    if model == "discriminator":
        path = package_file("method", model)
        text = path.read_bytes() if path else b""
        code = hashlib.sha256(text).hexdigest()[:12]
    return f"{model} {code} x{scale} {'x'.join(map(str, sides))} {options}"


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    """A file of counts; empty if it is missing or damaged: then they are counted."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(found: dict[Network, Counts], path: Path) -> None:
    """Write a file of counts."""
    _write(path, {_key(network): asdict(each) for network, each in found.items()})


def _write(path: Path, found: dict[str, Any]) -> None:
    lines = (f"{json.dumps(key)}: {json.dumps(found[key])}" for key in sorted(found))
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def build(network: Network) -> Any:
    """The network itself; the discriminator is no generator, so not among the models."""
    from mrsr import models
    from mrsr.method import discriminator

    model, options, scale, _ = network
    if model == "discriminator":
        return discriminator.build(scale, **json.loads(options))
    return models.build(model, scale, json.loads(options))


def measure(network: Network) -> Counts:
    """Count a network on the meta device.

    Raises:
        UserError: the network cannot compute an image of this size.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    from mrsr import models

    model, _, scale, sides = network

    class Traffic(TorchDispatchMode):
        """Adds up what operations read and write; views and new tensors move nothing."""

        def __init__(self, weights: set[int]) -> None:
            super().__init__()
            self.weights, self.calls = weights, 0
            self.moved = {True: 0, False: 0}  # by whether there are multiply-adds

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            read, made = _tensors([*args, *(kwargs or {}).values()]), _tensors([result])
            inputs = {_storage(tensor) for tensor in read}
            view = not func._schema.is_mutable and {_storage(tensor) for tensor in made} <= inputs
            if read and made and not view:
                moved = (t.numel() for t in (*read, *made) if _storage(t) not in self.weights)
                self.moved[func._overloadpacket in flop_registry] += sum(moved)
                self.calls += 1
            return result

    with torch.device("meta"):
        built = build(network).eval()
        images = [torch.empty(1, 1, *(side // scale for side in sides))]
        if model_is_guided(model):
            images.append(torch.empty(1, 1, *sides))
    traffic = Traffic({_storage(p) for p in (*built.parameters(), *built.buffers())})
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as flops, traffic:
            built(*images)
    except Exception as error:  # whatever the code of the network raises
        shape = "x".join(map(str, images[0].shape[2:]))
        raise models.failed(model, f"cannot compute an image of {shape}", error) from error
    parameters = sum(p.numel() for p in built.parameters())
    moved, moved_else = traffic.moved[True], traffic.moved[False]
    return Counts(parameters, flops.get_total_flops() // 2, moved, moved_else, traffic.calls)


def _tensors(values: Iterable[Any]) -> list[Any]:
    """The tensors of these values and of the lists among them."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += _tensors(value)
        elif hasattr(value, "untyped_storage"):
            found.append(value)
    return found


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)
