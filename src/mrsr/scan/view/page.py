"""The page as one text: NiiVue, the scans and everything else inside, nothing asked for from afar.

Scans are packed as NIfTI with 16-bit voxels: the steps are 1/65535 of each scan's range.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mrsr import __version__
from mrsr.errors import UserError
from mrsr.scan.view import niivue
from mrsr.scan.view.volumes import Difference, Shown, read

LARGEST = 400_000_000  # characters; browsers hold about 500 million in one text
DARK, BRIGHT = 0.5, 99.8  # percentiles of the intensities that are shown black and white
STRONG = 99.5  # percentile of the differences that gets the strongest colour


def page(paths: Sequence[Path]) -> str:
    """The page (HTML) that shows two or three scans, in the order given.

    Raises:
        UserError: see `volumes.read`; NiiVue is missing; or the scans are too large for a page.
    """
    import jinja2

    code = niivue.script()  # first: without it, no scan need be read
    shown, differences, finest = read(paths)
    content = json.dumps(_content(shown, differences, finest)).replace("<", "\\u003c")
    if len(content) > LARGEST:
        raise UserError(
            f"the page would have {len(content) // 10**6} MB, over {LARGEST // 10**6} MB, which "
            "browsers do not open; crop the scans first, or give two of them"
        )
    files = resources.files("mrsr.scan.view")
    parts = {part: (files / part).read_text("utf-8") for part in ("page.css", "page.js")}
    template = jinja2.Environment(autoescape=True).from_string(
        (files / "page.html").read_text("utf-8")
    )
    return template.render(
        title=" | ".join(scan.name for scan in shown),
        version=__version__,
        style=parts["page.css"],
        code=parts["page.js"],
        niivue=code,
        content=content,
    )


def _content(
    shown: Sequence[Shown], differences: Sequence[Difference], finest: int
) -> dict[str, Any]:
    """What the page's code reads."""
    return {
        "finest": finest,
        "window": _window(shown),
        "scans": [_entry(scan) for scan in shown],
        "differences": [
            _entry(each) | {"first": each.first, "second": each.second} | _amount(each)
            for each in differences
        ],
    }


def _entry(scan: Shown) -> dict[str, Any]:
    size = " x ".join(str(size) for size in scan.image.shape)
    voxel = " x ".join(f"{edge:.3g}" for edge in scan.voxel)
    return {
        "name": scan.name,
        "grid": f"{size} voxels of {voxel} mm",
        "note": scan.note,
        "data": base64.b64encode(packed(scan)).decode("ascii"),
    }


def packed(scan: Shown) -> bytes:
    """A .nii.gz file of 16-bit voxels with slope and intercept; equal scans give equal bytes."""
    import nibabel

    image = nibabel.Nifti1Image(scan.image, scan.affine)
    image.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)


def _window(shown: Sequence[Shown]) -> dict[str, float]:
    """One window for all scans: so that what looks brighter is brighter."""
    marks = np.array([np.percentile(scan.image, (DARK, BRIGHT)) for scan in shown])
    least = min(float(scan.image.min()) for scan in shown)
    most = max(float(scan.image.max()) for scan in shown)
    low, high = float(marks[:, 0].min()), float(marks[:, 1].max())
    return {"least": least, "most": most, "low": low, "high": high if high > low else most}


def _amount(difference: Difference) -> dict[str, float]:
    size = np.abs(difference.image)
    most = float(size.max())
    strong = float(np.percentile(size, STRONG)) or most
    mean = float(size.mean()) / difference.covered
    return {"most": most or 1.0, "limit": strong or 1.0, "mean": mean, "largest": most}
