"""The numbers that the paper prints in its Tables 1 and 2; misprints are noted in `paper.csv`."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

from mrsr.table_formats import METRICS

DECIMALS = {"psnr": 2, "ssim": 4, "nmse": 3}


@functools.cache
def paper() -> dict[tuple[str, int, str], dict[str, Any]]:
    """(dataset, scale, method) -> psnr (dB), ssim, nmse, note."""
    with open(Path(__file__).with_name("paper.csv"), encoding="utf-8", newline="") as file:
        return {
            (row["dataset"], int(row["scale"]), row["method"]): {
                **{metric: float(row[metric]) for metric in METRICS},
                "note": row["note"],
            }
            for row in csv.DictReader(file)
        }
