"""The README's badges, from pyproject.toml and the version: python docs/images/badges.py

Files of this repository, so that reading the README asks no other server. tests/test_site.py checks
that they say what is true.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from mrsr import __version__

FOLDER = Path(__file__).parent
BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" \
aria-label="{name}: {value}">
<rect width="{width}" height="20" rx="3" fill="#0f766e"/>
<rect width="{left}" height="20" rx="3" fill="#444"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="6" y="14">{name}</text><text x="{start}" y="14">{value}</text>
</g>
</svg>
"""


def badges() -> dict[str, str]:
    """File name -> SVG."""
    root = FOLDER.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    low, high = re.findall(r"3\.(\d+)", project["requires-python"])
    values = {
        "version": __version__,
        "python": f"3.{low} to 3.{int(high) - 1}",
        "licence": project["license"],
    }
    return {f"badge-{name}.svg": badge(name, value) for name, value in values.items()}


def badge(name: str, value: str) -> str:
    """One badge; a letter of 11 pixels is about 7 wide."""
    left, right = 12 + 7 * len(name), 12 + 7 * len(value)
    return BADGE.format(name=name, value=value, left=left, width=left + right, start=left + 6)


if __name__ == "__main__":
    for file, text in badges().items():
        (FOLDER / file).write_text(text, encoding="utf-8")
        print(FOLDER / file)
