"""The example images as the page shows them: greyscale PNG of 8 bits, all in one window."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrsr.figures import images
from mrsr.figures.example_file import REFERENCE, Loaded
from mrsr.figures.example_file import read as read_examples
from mrsr.figures.results import example_path
from mrsr.params.jobs import Column

if TYPE_CHECKING:
    from PIL.Image import Image

BUDGET = 7_000_000  # characters: the page stays below 15 MB


def slices(columns: Sequence[Column], results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The slices for the page's viewer, and those that were left out to keep the page small.

    The slices of the figures come first, then the 5th and 95th percentiles.
    """
    loaded = [(column, read_examples(example_path(results, column))) for column in columns]
    order = [(n, pair) for n in range(3) for pair in loaded if n < len(pair[1].slices)]
    found: list[dict[str, Any]] = []
    left_out: list[str] = []
    size = 0
    for number, (column, example) in order:
        about = example.slices[number]
        name = f"{column.label} {column.scale}x, {about['why']} (slice {about['index']})"
        entry = _slice(example, number, name)
        size += sum(len(one["png"]) for one in entry["images"])
        if size > BUDGET and found:
            left_out.append(name)
        else:
            found.append(entry)
    return found, left_out


def _slice(example: Loaded, number: int, name: str) -> dict[str, Any]:
    shown, about = images.window(example, number), example.slices[number]
    entries = []
    for key in (REFERENCE, *example.labels):
        pixels = example.image(number, key)[shown.area] / shown.white
        psnr = about["psnr"].get(key)
        text = example.labels.get(key, "Original (HR)")
        entries.append(
            {
                "label": text if psnr is None else f"{text}, {psnr:.2f} dB",
                "key": key,
                "png": png(np.clip(pixels, 0, 1)),
            }
        )
    height, width = example.image(number, REFERENCE)[shown.area].shape
    return {
        "name": name,
        "volume": about["volume"],
        "width": width,
        "height": height,
        "mm": about["mm"],
        "main": example.decides,
        "images": entries,
    }


def png(pixels: np.ndarray) -> str:
    """Values from 0 to 1, (height, width), as a data URL."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def file(path: Path) -> str:
    """A figure's PNG as a data URL: WebP, which is a fifth of the size for images."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    # without loss, drawings are sharp and small; images are three times as large as at quality 90
    found = min((_webp(image, lossless=True), _webp(image, quality=90)), key=len)
    return "data:image/webp;base64," + base64.b64encode(found).decode()


def _webp(image: Image, **how: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "WEBP", **how)
    return content.getvalue()
