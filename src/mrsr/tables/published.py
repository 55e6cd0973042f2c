"""The values that the paper publishes in its Tables 1 and 2; `paper.csv` notes their misprints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pandas

DECIMALS = {"psnr": 2, "ssim": 4, "nmse": 3}


@functools.cache
def paper() -> dict[tuple[str, int, str], dict[str, Any]]:
    """(dataset, scale, method) -> psnr (dB), ssim, nmse, note."""
    frame = pandas.read_csv(Path(__file__).with_name("paper.csv"), keep_default_na=False)
    return frame.set_index(["dataset", "scale", "method"])[[*DECIMALS, "note"]].to_dict("index")
