"""The pictures of docs/images: figures of an experiment, and its page in a browser.

    python docs/screenshots.py openms_ablation

Needs a finished run, the `dev` packages (playwright) and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
FIGURES = ("fig2_comparison", "fig3_ablation", "residual_spectra")  # of the first of each kind
WIDTH = 1000  # pixels: sharp enough on a page, small enough for git
PATIENT = 120_000  # milliseconds


def figures(results: Path) -> None:
    """Smaller copies of three figures; every one of an experiment would swell the repository."""
    for kind in FIGURES:
        for file in sorted((results / "figures").glob(f"{kind}_*.png"))[:1]:
            image = Image.open(file).convert("RGB")
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)))
            target = IMAGES / f"{file.stem}.png"
            image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
            print(target)


def screenshots(file: Path) -> None:
    """The tables, and the viewer in the dark on a narrow screen."""
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, width, scheme, part in (
            ("report-tables", 1100, "light", "#tables"),
            ("report-viewer-narrow-dark", 400, "dark", "#viewer"),
        ):
            page: Page = browser.new_page(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
            )
            page.set_default_timeout(PATIENT)
            page.goto(file.resolve().as_uri(), wait_until="domcontentloaded", timeout=PATIENT)
            page.wait_for_selector("body[data-tables=ready]")
            page.wait_for_selector("#stage[data-drawn]")
            target = IMAGES / f"{name}.png"
            page.locator(part).screenshot(path=target)
            image = Image.open(target).convert("RGB")
            image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
            print(target)
        browser.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/images.")
    parser.add_argument("experiment", help="an experiment that has run")
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    results = given.results / given.experiment
    IMAGES.mkdir(exist_ok=True)
    figures(results)
    screenshots(results / "report.html")


if __name__ == "__main__":
    main()
