"""mrsr: super-resolution of MR images that other people can reproduce, trust and use.

For your own scans, in Python as on the command line:

    from mrsr import degrade, enhance, score

    enhance("scan.nii.gz", "finer.nii.gz", "best.pt")  # a trained network's checkpoint
    degrade("scan.nii.gz", "coarse.nii.gz", scale=2)  # to test against a known truth
    score("finer.nii.gz", "reference.nii.gz")  # {"preset": "slice", "psnr": ..., "ssim": ...}

Their modules are imported on first use: importing mrsr alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mrsr.version import __version__ as __version__

if TYPE_CHECKING:
    from mrsr.scan.degrade import degrade
    from mrsr.scan.enhance import enhance
    from mrsr.scan.score import score

__all__ = ["degrade", "enhance", "score"]


def __getattr__(name: str) -> Any:
    """`mrsr.enhance` and the others, from the modules of the same names in `mrsr.scan`."""
    if name in __all__:
        return getattr(importlib.import_module(f"mrsr.scan.{name}"), name)
    raise AttributeError(f"module 'mrsr' has no attribute '{name}'")
