"""A network as a model of MLflow: registered in the tracking store, or saved into a folder.

The model is code (`carried/served.py`) and the ONNX network; it needs onnxruntime and MLflow, not
mrsr. `mlflow models predict` and `mlflow models serve` give it the slices of one scan as a tensor.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from mrsr.errors import UserError, one_line
from mrsr.files import write_text
from mrsr.scan.export import card, network
from mrsr.scan.export.choosing import Source
from mrsr.tracking import store

USE = """It takes the slices of one scan, `{{"inputs": [[[...], ...], ...]}}`, as (slices, height,
width) in any intensity unit, and gives finer ones in the same unit:

```bash
mlflow models predict -m {address} --content-type json -i slices.json -o finer.json
```

`mlflow models serve` answers the same at `/invocations`. Tell MLflow where the store is:
`MLFLOW_TRACKING_URI`.
"""


def register(source: Source, name: str = "") -> tuple[float, str]:
    """Register the network in the tracking store, as a new version of `name`.

    name: empty: `mrsr_` and the network's name.

    Returns:
        See `network.write`; and the model's address, `models:/NAME/VERSION`.

    Raises:
        UserError: as `network.write`; or the store does not take it.
    """
    name = name or f"mrsr_{source.name}"
    uri = store.store_uri()
    try:
        client = store._client(uri)
        import mlflow

        mlflow.set_tracking_uri(uri)
        with _made(source, f"models:/{name}/VERSION") as (arguments, apart, about):
            with _quiet(), mlflow.start_run(run_name=f"export {source.name}"):
                logged = mlflow.pyfunc.log_model(
                    name=source.name, registered_model_name=name, **arguments
                )
            version = str(logged.registered_model_version)
            client.update_model_version(name, version, description=about)
    except UserError:
        raise
    except Exception as error:  # MLflow's own, SQLAlchemy's, requests'
        raise UserError(
            f"MLflow at {uri} did not take the model ({one_line(str(error))[:200]}); check "
            "MLFLOW_TRACKING_URI, or give a folder to save it in"
        ) from None
    return apart, f"models:/{name}/{version}"


def write(source: Source, folder: Path) -> float:
    """Save the model into `folder`; see `network.write`."""
    store._client(store.store_uri())  # sets what MLflow prints
    import mlflow

    with _made(source, str(folder)) as (arguments, apart, about), _quiet():
        mlflow.pyfunc.save_model(str(folder), **arguments)
        write_text(folder / "README.md", about)
    return apart


@contextlib.contextmanager
def _made(source: Source, address: str) -> Iterator[tuple[dict[str, Any], float, str]]:
    """What MLflow's functions take, while the files of it are there."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    slices = TensorSpec(np.dtype(np.float32), (-1, -1, -1))
    versions = [f"{name}=={metadata.version(name)}" for name in ("onnxruntime", "numpy", "mlflow")]
    with (
        tempfile.TemporaryDirectory() as made,
        as_file(files("mrsr.scan.export") / "carried") as carried,
    ):
        path, about = Path(made) / "model.onnx", Path(made) / "README.md"
        apart = network.write(source, path)
        text = card.text(source, apart, USE.format(address=address))
        write_text(about, text)
        sys.path.insert(0, str(carried))  # MLflow runs the code once before it copies it
        try:
            yield (
                {
                    "python_model": str(carried / "served.py"),
                    "artifacts": {"network": str(path), "card": str(about)},
                    "code_paths": [str(carried / "applying.py")],
                    "model_config": {"scale": source.scale, "percentile": source.percentile},
                    "signature": ModelSignature(Schema([slices]), Schema([slices])),
                    "pip_requirements": versions,
                    "metadata": {"checkpoint_sha256": source.digest},
                },
                apart,
                text,
            )
        finally:
            sys.path.remove(str(carried))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's warnings, which are about what it does itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
