"""Datasets of HDF5 files of others: a group in their place, lacking filters, MATLAB's complex."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsr.errors import UserError

# registered filters that h5py alone does not bring (portal.hdfgroup.org, Registered Filters)
_FILTERS = {
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}


def dataset(file: Any, name: str, path: Path) -> Any:
    """The dataset `name` of an open file, checked to be readable; None if there is nothing.

    Raises:
        UserError: it is a group or a broken link, or packed by a filter that is not installed.
    """
    import h5py

    item = file.get(name)
    if item is None:
        if file.get(name, getlink=True) is not None:
            raise UserError(f"{path.name}: '{name}' is a link that leads nowhere; repair the file")
        return None
    if not isinstance(item, h5py.Dataset):
        inside = ", ".join(list(item)[:8]) if isinstance(item, h5py.Group) else ""
        raise UserError(
            f"{path.name}: '{name}' is a group, a dataset is needed; it holds {inside or 'nothing'}"
        )
    packing = item.id.get_create_plist()
    for number in range(packing.get_nfilters()):
        code = packing.get_filter(number)[0]
        if not h5py.h5z.filter_avail(code):
            known = _FILTERS.get(code, f"number {code}")
            raise UserError(
                f"{path.name}: '{name}' is packed by the filter {known}, which is not installed; "
                "repack it with gzip (h5repack -f GZIP=4 IN OUT)"
            )
    return item


def is_complex(dtype: np.dtype) -> bool:
    """Whether a type is complex, or MATLAB's pair of `real` and `imag`."""
    pair = dtype.names == ("real", "imag") and all(dtype[n].kind in "iuf" for n in dtype.names)
    return dtype.kind == "c" or pair


def as_complex(array: np.ndarray) -> np.ndarray:
    """MATLAB's pairs of `real` and `imag` as complex numbers; other arrays as they are."""
    if array.dtype.kind == "V" and is_complex(array.dtype):
        return array["real"] + 1j * array["imag"]
    return array
