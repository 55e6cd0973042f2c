"""A few test slices of one dataset and scale by each of its methods, in one file.

    mrsr examples --settings @results/demo/settings/examples/phantom_t1_x2.json \\
        --slices results/demo/slices/phantom_t1/test.h5 \\
        --out results/demo/figures/examples/phantom_t1_x2.npz

The networks run once more on the chosen slices (`choosing.py`), as in the evaluation, and on up to
SPREAD others, spread over the store, from which the residuals' spectra come. Images are turned so
that superior or anterior is up and, in axial and coronal slices, the patient's right is left.

`example_file.py` has the file's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrsr.figures import choosing, spectrum
from mrsr.figures.choosing import Slice
from mrsr.figures.example_file import PLAIN, REFERENCE, write
from mrsr.figures.orientation import geometry, turned
from mrsr.figures.running import run
from mrsr.params.figures import main_method
from mrsr.params.jobs import Examples

SPREAD = 6


def make(
    settings: Examples,
    metrics: Mapping[str, Path],
    slices: Path,
    checkpoints: Mapping[str, Path],
    out: Path,
    guide: Path | None = None,
) -> None:
    """Run each method on the chosen slices and write the file.

    Args:
        settings: of a dataset and scale.
        metrics: by method, the CSV of its evaluation.
        slices, guide: the test store, and that of its second contrast where a method needs it.
        checkpoints: by method, `best.pt`; methods without weights are not in it.
        out: the .npz.

    Raises:
        UserError: a file is missing or of another cell; the settings name an unknown slice.
    """
    methods = [one.method for one in settings.cells]
    values = {key: choosing.psnr_by_slice(metrics[key]) for key in methods}
    decides = main_method(tuple(methods))
    shown = choosing.choose(values[decides], settings.slice)
    order = sorted(values[decides])
    every = [
        order[i] for i in np.unique(np.linspace(0, len(order) - 1, SPREAD).round().astype(int))
    ]
    wanted = list(dict.fromkeys([*shown.values(), *every]))

    images: dict[tuple[Slice, str], np.ndarray] = {}
    about: dict[Slice, dict[str, Any]] = {}
    for one in settings.cells:
        needs = guide if one.type == "guided" else None
        for at, volume, found in run(one, wanted, slices, checkpoints.get(one.method), needs):
            about.setdefault(at, {"subject": volume.subject, **geometry(volume)[1]})
            for name, image in found.items():
                images.setdefault((at, name), turned(image, volume))
    spectra = spectrum.residual(
        {at: images[at, REFERENCE] for at in wanted},
        {key: {at: images[at, key] for at in wanted} for key in (*methods, PLAIN)},
    )
    text = {
        "dataset": settings.dataset,
        "scale": settings.scale,
        "decides": decides,
        "labels": {one.method: one.label or one.method for one in settings.cells},
        "slices": [
            {"why": why, "volume": at.volume, "index": at.number, **about[at]}
            | {"psnr": {key: values[key].get(at) for key in methods}}
            for why, at in shown.items()
        ],
        "spectra": spectra,
    }
    arrays = {
        f"{number}/{key}": images[at, key]
        for number, at in enumerate(shown.values())
        for key in (REFERENCE, PLAIN, *methods)
    }
    write(out, text, arrays)
