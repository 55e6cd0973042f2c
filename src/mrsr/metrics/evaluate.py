"""Rate one method on the whole slices of a test store (paper section 4, Tables 1 and 2).

By hand:

    python -m mrsr.metrics.evaluate --settings @settings.json --slices test.h5 \
        --checkpoint best.pt --out results/demo/metrics/phantom_t1/x2/srresnet.json

Slices are degraded and super-resolved whole, padded to what scale and network need; the metrics
see the unpadded area only. `record.py` averages them.

A guided method also gets `--guide`, the store of its second contrast. The checkpoint of a method
that learns from the test volume itself (type self) has a network for every volume.

Next to `<method>.json`, which has its own labels, are `<method>.csv` with the values of every slice
and, if matplotlib is installed, `<method>.png` with an example. The JSON is written last.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrsr.errors import guarded
from mrsr.files import sha256, write_json, write_text
from mrsr.metrics import cell
from mrsr.metrics.further import measure
from mrsr.metrics.rating import rate
from mrsr.metrics.record import record, residual, slice_table, summary
from mrsr.params.jobs import Evaluation, read
from mrsr.slices import store


def evaluate(
    settings: Evaluation,
    slices: Path,
    out: Path,
    saved: Path | None = None,
    guide: Path | None = None,
    segmentation: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a method; write `out` (.json), the values of every slice (.csv) and an example.

    Args:
        settings: of one cell of the results.
        slices: the test store.
        out: the JSON file.
        saved: `best.pt`; None builds the network that `settings.model` names, untrained.
        guide: the test store of the second contrast.
        segmentation: the checkpoint of the 3D segmentation, for `dice` and `dice_hr`.

    Returns:
        The content of the JSON.

    Raises:
        UserError: the checkpoint or the store belongs to another cell of the results, or one of
            them cannot be used.
    """
    out, began, clock = Path(out), time.time(), time.monotonic()
    preset = settings.preset
    own = settings.type == "self"
    network, pairs, origin = cell.opened(settings, slices, saved, guide)
    if own and origin:
        cell.check_volumes(origin, saved, pairs.volumes)
    example: dict[str, np.ndarray] = {}
    further = measure(settings, slices, segmentation, pairs.device)
    weights = origin if own else None
    rated = list(rate(network, pairs, preset, settings, example, further, weights))

    found = record(settings, preset, rated, network, origin)
    if guide:
        found["guide"] = residual(guide)
    found["split"] = str(store.attributes(slices).get("split", ""))
    found["slices_digest"] = str(store.attributes(slices).get("digest", ""))
    found["checkpoint_sha256"] = sha256(saved) if saved else None
    where = pairs.device
    found["device"] = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    write_text(out.with_suffix(".csv"), slice_table(rated))
    _draw(example, out.with_suffix(".png"))
    found |= {"started": began, "seconds": time.monotonic() - clock}
    write_json(out, found)
    if settings.tracking.enabled:
        from mrsr.tracking import delivery

        delivery.deliver(out, settings)
    return found


def _draw(example: dict[str, np.ndarray], path: Path) -> None:
    """Draw the middle slice; without matplotlib there is no figure, which is not an error."""
    try:
        from mrsr.drawing import comparison

        reference = example.pop("high resolution")
        comparison(example, path, reference)
    except ImportError:
        return


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mrsr.metrics.evaluate", description=__doc__)
    parser.add_argument("--settings", required=True, help="JSON, or @file")
    parser.add_argument("--slices", required=True, type=Path, help="the test store")
    parser.add_argument("--checkpoint", type=Path, help="best.pt; none for untrained methods")
    parser.add_argument("--guide", type=Path, help="the second contrast's test store")
    parser.add_argument(
        "--segmentation", type=Path, help="best.pt of the 3D segmentation, for dice"
    )
    parser.add_argument("--out", required=True, type=Path, help="the JSON to write")
    given = parser.parse_args(arguments)
    settings = read(Evaluation, given.settings)
    found = evaluate(
        settings, given.slices, given.out, given.checkpoint, given.guide, given.segmentation
    )
    print(summary(found))


if __name__ == "__main__":
    main()
