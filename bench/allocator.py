"""Does it help that glibc keeps freed memory, as the rules tell it to? `python bench/allocator.py`.

Run it from the project's root after an experiment. One evaluation with the thresholds of the
Snakefile and one with glibc's defaults run side by side, for a few rounds. Prints the seconds and
the ratio of the medians (below 1: it helps).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mrsr.params import loading
from mrsr.params.typed import plain as plain_values

KINDS = ("kept", "glibc's own")


def thresholds() -> dict[str, str]:
    """The allocator settings in the Snakefile."""
    text = Path("Snakefile").read_text(encoding="utf-8")
    return dict(re.findall(r"(MALLOC_\w+)=\$\{\{\w+:-(\d+)\}\}", text))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--cell", nargs=3, default=["phantom_t1", "2", "srresnet"])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    dataset, scale, method = given.cell
    results = Path("results") / given.experiment
    resolved = loading.load("params.yaml", given.experiment)
    settings = plain_values(resolved.evaluation(dataset, int(scale), method))
    settings["tracking"]["enabled"] = False
    saved = results / "checkpoints" / dataset / f"x{scale}" / method / "best.pt"
    common = [sys.executable, "-m", "mrsr.metrics.evaluate", "--settings", json.dumps(settings)]
    common += ["--slices", str(results / "slices" / dataset / "test.h5")]
    common += ["--checkpoint", str(saved)]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environments = dict(zip(KINDS, ({**plain, **thresholds()}, plain), strict=True))
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            began, running = time.perf_counter(), {}
            for kind in KINDS if number % 2 else reversed(KINDS):
                out = ["--out", f"{folder}/{number}-{kind[0]}.json"]
                running[kind] = subprocess.Popen(
                    [*common, *out],
                    env=environments[kind],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            while running:
                for kind in [kind for kind, job in running.items() if job.poll() is not None]:
                    if running.pop(kind).returncode:
                        raise SystemExit(f"{saved}: cannot be evaluated; run the experiment first")
                    seconds[kind].append(time.perf_counter() - began)
                time.sleep(0.05)
    for kind, took in seconds.items():
        print(f"{kind:12}", *(f"{value:6.1f} s" for value in took))
    ratio = statistics.median(seconds[KINDS[0]]) / statistics.median(seconds[KINDS[1]])
    print(f"ratio of medians {ratio:.3f}")


if __name__ == "__main__":
    main()
