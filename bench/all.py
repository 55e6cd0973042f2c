"""Every benchmark in bench/, one table: `python bench/all.py [--small] [NAME ...]`.

Writes results/bench/NAME.json for each and, of all that lie there, results/bench/performance.md.
`--small` runs each for seconds, to see that it still works; it writes to --out alone if given.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from side_by_side import Row, plain

from mrsr import checkpoint
from mrsr.files import write_text

HERE = Path(__file__).parent
OUT = Path("results/bench")


def machine() -> dict[str, Any]:
    """What the times are of: processor, cores, memory of a card, versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": checkpoint.commit()[0],
    }


def benchmarks() -> dict[str, Path]:
    """Name to file of all that have a `rows`."""
    found = sorted(HERE.glob("*.py"))
    return {file.stem: file for file in found if "\ndef rows(" in file.read_text(encoding="utf-8")}


def run(file: Path, small: bool) -> list[Row]:
    """The rows of one benchmark."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: list[Row] = module.rows(small)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table. Ratios first: seconds depend on the machine."""
    lines = [
        "| What | Ours | Compared with | Ratio | Target | Wall (s) | Processor (s) | Threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:g}"
        lines.append(
            f"| {row['name']} | {row['ours']} | {row['other']} "
            f"| **{row['ratio']:.2f}** ({row['low']:.2f} to {row['high']:.2f}) | {target} "
            f"| {row['seconds']:.3g} / {row['other_seconds']:.3g} "
            f"| {row['processor']:.3g} / {row['other_processor']:.3g} | {row['threads']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    known = benchmarks()
    if unknown := set(given.names) - set(known):
        raise SystemExit(
            f"{', '.join(sorted(unknown))}: no benchmark; there are {', '.join(known)}"
        )
    for name in given.names or known:
        rows = [plain(row) for row in run(known[name], given.small)]
        print(f"\n{name}\n\n{markdown(rows)}", flush=True)
        done = {"machine": machine(), "small": given.small, "rows": rows}
        write_text(given.out / f"{name}.json", json.dumps(done, indent=2) + "\n")
    parts = [json.loads((given.out / f"{name}.json").read_text()) for name in known
             if (given.out / f"{name}.json").exists()]  # fmt: skip
    write_text(
        given.out / "performance.md", markdown([row for part in parts for row in part["rows"]])
    )


if __name__ == "__main__":
    main()
