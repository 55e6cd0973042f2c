"""A network as an ONNX file for images of any size, checked against torch before it counts.

Input `lr`: (batch, 1, h, w) float32, intensities divided by the scan's percentile; output `sr`:
(batch, 1, scale * h, scale * w). h and w are 8 or more.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from mrsr import __version__
from mrsr.errors import UserError, one_line
from mrsr.files import atomic
from mrsr.scan.export.choosing import Source

TOLERANCE = 1e-4  # of normalised intensities
SIZES = ((1, 48, 37), (3, 64, 80))  # images, height, width: neither is the one traced
TRACED = (2, 1, 24, 20)
OPSET = 20


def check_installed() -> None:
    """Raise a `UserError` unless the extra `export` is installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise UserError(
                f"mrsr export needs {name}; install it with: pip install 'mrsr[export]'"
            )


def write(source: Source, path: Path) -> float:
    """Write the network, and return by how much onnxruntime differs from torch at most.

    Raises:
        UserError: it cannot be traced for any size, or the two differ by more than `TOLERANCE`;
            then no file is written.
    """
    import onnx

    check_installed()
    proto = _traced(source)
    known = {
        "scale": str(source.scale),
        "percentile": f"{source.percentile:g}",
        "checkpoint_sha256": source.digest,
        "mrsr": __version__,
    }
    onnx.helper.set_model_props(proto, known)
    proto.producer_name, proto.producer_version = "mrsr", __version__
    with atomic(path) as temporary:
        onnx.save(proto, str(temporary))
        try:
            apart = largest_difference(source, temporary)
        except Exception as error:  # torch's and onnxruntime's own, by what a layer finds
            raise UserError(
                f"{source.title} does not run on images of another size "
                f"({one_line(str(error))[:200]}); use the checkpoint itself"
            ) from None
        if not apart <= TOLERANCE:
            raise UserError(
                f"{source.title} as ONNX differs from torch by {apart:.2g}, over {TOLERANCE:g}; "
                "nothing is written: use the checkpoint itself"
            )
    return apart


def _traced(source: Source) -> Any:
    """The graph as ONNX's own message."""
    free = torch.export.Dim.DYNAMIC
    example = torch.rand(TRACED, generator=torch.Generator().manual_seed(0))
    try:
        with _quiet(), torch.inference_mode():
            made = torch.onnx.export(
                source.network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: free, 2: free, 3: free},),
                input_names=["lr"],
                output_names=["sr"],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # torch has a dozen kinds, by what the network's code does
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = one_line(str(cause))[:200]
        raise UserError(
            f"{source.title} cannot be traced for images of any size ({why}); use the checkpoint "
            "itself"
        ) from None
    assert made is not None
    return made.model_proto


@contextlib.contextmanager
def _quiet() -> Any:
    """Without what the exporter prints and logs about its own work."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def largest_difference(source: Source, path: Path) -> float:
    """Between onnxruntime and torch, on images of `SIZES` in 0..1 and a little below."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails becomes a line of ours
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    random, apart = torch.Generator().manual_seed(1), 0.0
    for images, height, width in SIZES:
        lr = torch.rand(images, 1, height, width, generator=random) * 1.2 - 0.1
        with torch.inference_mode():
            expected = source.network(lr)
        (found,) = session.run(None, {"lr": lr.numpy()})
        if tuple(found.shape) != tuple(expected.shape):
            return float("inf")
        apart = max(apart, float((torch.from_numpy(found) - expected).abs().max()))
    return apart
