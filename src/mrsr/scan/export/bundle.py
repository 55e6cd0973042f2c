"""A network as a MONAI bundle: a folder that `python -m monai.bundle run` applies to a NIfTI file.

In it: the ONNX network, the code that cuts a scan into slices, configs, and the card. It needs
MONAI, nibabel and onnxruntime, not mrsr.
"""

from __future__ import annotations

import shutil
from importlib import metadata
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from mrsr import __version__
from mrsr.files import write_json, write_text
from mrsr.scan.export import card, network
from mrsr.scan.export.choosing import Source

CARRIED = ("applying.py", "scans.py")
USE = """In the folder of this bundle, with MONAI, nibabel and onnxruntime installed:

```bash
python -m monai.bundle run --config_file configs/inference.json \\
    --image scan.nii.gz --output_dir finer
```

writes `finer/scan_sr.nii.gz`. Slices are taken as `mrsr enhance` takes them; `--axis 0`, 1 or 2
names another axis of the file. Scans are 3D NIfTI files of real intensities.
"""


def write(source: Source, folder: Path) -> float:
    """Write the bundle into `folder`, which need not exist; see `network.write`."""
    apart = network.write(source, folder / "models" / "model.onnx")
    scripts = folder / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    with as_file(files("mrsr.scan.export") / "carried") as carried:
        for name in CARRIED:
            shutil.copy(carried / name, scripts / name)
    write_text(scripts / "__init__.py", "")
    write_json(folder / "configs" / "metadata.json", _metadata(source))
    write_json(folder / "configs" / "inference.json", _inference(source))
    write_text(folder / "docs" / "README.md", card.text(source, apart, USE))
    return apart


def _inference(source: Source) -> dict[str, Any]:
    keys: dict[str, Any] = {"keys": "image"}
    return {
        "bundle_root": ".",
        "image": "scan.nii.gz",
        "output_dir": "eval",
        "axis": None,
        "network": "$@bundle_root + '/models/model.onnx'",
        "enhancer": {
            "_target_": "scripts.scans.ScanEnhancer",
            "file": "@network",
            "scale": source.scale,
            "percentile": source.percentile,
            "axis": "@axis",
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **keys, "reader": "NibabelReader"},
                {"_target_": "EnsureChannelFirstd", **keys},
            ],
        },
        "postprocessing": {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "sr",
            "output_ext": ".nii.gz",
            "output_dtype": "float32",
            "resample": False,
            "separate_folder": False,
            "print_log": False,
        },
        "run": ["$@postprocessing(@enhancer(@preprocessing({'image': @image})))"],
    }


def _metadata(source: Source) -> dict[str, Any]:
    shape = {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1,
             "spatial_shape": ["*", "*", "*"], "dtype": "float32", "is_patch_data": False,
             "channel_def": {"0": "image"}}  # fmt: skip
    versions = {name: metadata.version(name) for name in ("onnxruntime", "nibabel")}
    return {
        "version": __version__,
        "changelog": {__version__: f"exported from checkpoint {source.digest}"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch").partition("+")[0],
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": versions,
        "name": source.name,
        "task": f"{source.scale}x super-resolution of MR images, in the plane",
        "description": f"{source.title}: finer slices of a scan. For research only, not for "
        "diagnosis.",
        "authors": "The mrsr developers",
        "copyright": "see docs/README.md for the data it learned from",
        "intended_use": "Research. The output is an estimate, not for diagnosis.",
        "network_data_format": {"inputs": {"image": shape}, "outputs": {"pred": shape}},
    }
