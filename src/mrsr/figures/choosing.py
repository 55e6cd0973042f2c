"""Which test slices the figures show: by a rule, or as the settings say.

The rule: of the slices of the test store, those whose PSNR by `proposed` (without one, by the last
row of the table) is nearest the median, the 5th and the 95th percentile. The figures show the
first, the page all three.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrsr.errors import UserError

QUANTILES = {"median": 0.5, "5th percentile": 0.05, "95th percentile": 0.95}


class Slice(NamedTuple):
    """A slice of a test store: the volume's path, and its index (`slice_index`) there."""

    volume: str
    number: int


def psnr_by_slice(file: Path) -> dict[Slice, float]:
    """PSNR (dB) of every slice with signal, from the CSV of an evaluation.

    Raises:
        UserError: the file cannot be read, or is no such CSV.
    """
    try:
        with open(file, encoding="utf-8", newline="") as text:
            return {
                Slice(row["volume"], int(row["slice_index"])): float(row["psnr"])
                for row in csv.DictReader(text)
                if row["psnr"]
            }
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; run the evaluation") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file} has no PSNR of slices; evaluate again") from None


def choose(psnr: Mapping[Slice, float], wanted: str = "") -> dict[str, Slice]:
    """How each slice was chosen ('median', ...) -> the slice; the first is the figures'.

    Args:
        psnr: of every slice by the method that decides.
        wanted: 'volume:index', for another slice in place of the median.

    Raises:
        UserError: there is no such slice, or none at all.
    """
    if not psnr:
        raise UserError("no test slice has signal; there is nothing to show")
    order = sorted(psnr)
    values = np.array([psnr[one] for one in order])
    found = {
        name: order[int(np.argmin(abs(values - np.quantile(values, quantile))))]
        for name, quantile in QUANTILES.items()
    }
    if wanted:
        volume, _, index = wanted.rpartition(":")
        asked = Slice(volume, int(index) if index.isdigit() else -1)
        if asked not in psnr:
            raise UserError(
                f"figures.slices: there is no test slice '{wanted}'; give 'volume:index' as in the "
                f"CSV files of the metrics, such as '{order[0].volume}:{order[0].number}'"
            )
        found = {"by the settings": asked} | {k: v for k, v in found.items() if k != "median"}
    return found
