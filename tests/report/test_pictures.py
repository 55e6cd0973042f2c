"""Figures as the page holds them: `pytest tests/report/test_pictures.py`."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from mrsr.report import pictures


def embedded(path: Path) -> tuple[Image.Image, int]:
    """The image of a data URL, and its bytes."""
    head, _, text = pictures.file(path).partition(",")
    assert head == "data:image/webp;base64"
    content = base64.b64decode(text)
    return Image.open(io.BytesIO(content)), len(content)


def test_a_drawing_is_kept_to_the_bit(tmp_path: Path) -> None:
    pixels = np.full((200, 300, 3), 255, np.uint8)
    pixels[50:52], pixels[:, 100:101], pixels[120, ::2] = (0, 0, 160), (200, 0, 0), 0
    Image.fromarray(pixels).save(tmp_path / "lines.png")
    found, size = embedded(tmp_path / "lines.png")
    assert np.array_equal(np.asarray(found), pixels)
    assert size < (tmp_path / "lines.png").stat().st_size


def test_an_image_is_smaller_and_looks_alike(tmp_path: Path) -> None:
    y, x = np.mgrid[:256, :256]
    noise = np.random.default_rng(0).normal(0, 4, (256, 256))
    grey = np.clip(128 + 80 * np.sin(x / 30) * np.cos(y / 20) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "image.png", optimize=True)
    found, size = embedded(tmp_path / "image.png")
    assert size < 0.5 * (tmp_path / "image.png").stat().st_size
    difference = np.asarray(found)[..., 0].astype(float) - grey
    assert np.sqrt(np.mean(difference**2)) < 5
