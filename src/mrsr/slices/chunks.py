"""Slices as the chunks that HDF5 would write: shuffled, deflated, and with a checksum.

HDF5 packs under one lock. Packed here, by numpy and zlib, several threads work at once, and the
file has the bytes that h5py's own filters give: shuffle, gzip at level 1, Fletcher-32.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
_MOST = 65535  # Fletcher's modulus


def packed(values: np.ndarray) -> list[bytes]:
    """One chunk for each slice of (slices, height, width), for `write`."""
    return [_chunk(one) for one in values]


def _chunk(image: np.ndarray) -> bytes:
    octets = np.ascontiguousarray(image).reshape(-1).view(np.uint8)
    shuffled = octets.reshape(-1, image.itemsize).T.tobytes()
    deflated = zlib.compress(shuffled, 1)
    return deflated + struct.pack("<I", _fletcher32(deflated))


def _fletcher32(data: bytes) -> int:
    """HDF5's checksum: of big-endian words of 16 bits, an odd last byte being a high one."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    # sums run over prefixes, so the first word counts as often as there are words
    often = np.arange(len(words), 0, -1, dtype=np.uint64) % _MOST
    first, second = int(words.sum()) % _MOST, int(words @ often) % _MOST
    return (second or _MOST) << 16 | (first or _MOST)
