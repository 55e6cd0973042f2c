"""Make docs/view.png: what `mrsr view` shows, in headless Chromium.

python docs/picture_of_view.py; needs the extras `view` and `dev`, and Chromium
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from nilearn.datasets import load_mni152_template
from PIL import Image

from mrsr import degrade, enhance
from mrsr.scan.view.page import page

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))


def main() -> None:
    """The MNI152 template that nilearn embeds, halved in plane and enhanced again."""
    from browser import opened

    template = load_mni152_template(resolution=2)
    voxels = np.asarray(template.dataobj, np.float32)[:98, :116, :94] * 1000
    with tempfile.TemporaryDirectory() as folder:
        full, coarse, finer = (
            Path(folder) / f"{name}.nii.gz" for name in ("template", "coarse", "enhanced")
        )
        nibabel.Nifti1Image(voxels, template.affine).to_filename(full)
        degrade(full, coarse, scale=2, axis=2)
        enhance(coarse, finer, axis=2)
        saved = Path(folder) / "page.html"
        saved.write_text(page([coarse, finer]), encoding="utf-8")
        with opened(width=1280, height=870) as seen:
            seen.page.set_default_timeout(300_000)
            seen.page.goto(saved.as_uri(), wait_until="commit")
            seen.page.wait_for_selector("html[data-ready=yes]", state="attached")
            seen.page.locator("#x").fill("0.42")  # beside the gap between the halves of the brain
            seen.page.wait_for_timeout(1000)
            content = seen.page.screenshot(timeout=300_000)
            seen.check()
    Image.open(io.BytesIO(content)).convert("RGB").save(DOCS / "view.png", optimize=True)


if __name__ == "__main__":
    main()
