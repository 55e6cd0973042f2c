"""How a training step's time and memory grow with the slices and with the processes.

    python bench/scaling.py [--small] [--plot FILE.svg]

prints a table: each row is a training of its own, in processes of their own (two over gloo), on a
made-up store. The step should take the same time however many slices there are. `rows` compares
the steps of a large store with those of a small one in one process, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import synthetic
import torch
from side_by_side import Row, compare
from torch.nn import functional as F

from mrsr import compute, models
from mrsr.slices import batches, holding

FIRST, SIZE, PATCH, BATCH, SCALE = 32, 160, 48, 16, 2
NETWORK = {"blocks": 4, "features": 32}


def rows(small: bool) -> list[Row]:
    """Steps on ten and a hundred times the slices, beside steps on the first store."""
    count = 1 if small else 10
    with tempfile.TemporaryDirectory() as folder:
        first = _step(synthetic.store(Path(folder) / "1.h5", FIRST, SIZE), 0, 1)
        found = []
        for times in (10,) if small else (10, 100):
            path = synthetic.store(Path(folder) / f"{times}.h5", FIRST * times, SIZE)
            ours = (f"{FIRST * times} slices", _step(path, 0, 1))
            other = (f"{FIRST} slices", first)
            name = f"Training step, {times}x the slices"
            found.append(compare(name, ours, other, target=1.0, calls=count))
    return found


def _step(path: Path, rank: int, world: int) -> Callable[[], None]:
    """One training step on a store, as the trainings do it: batch, forward, backward, update."""
    torch.manual_seed(0)
    machine = compute.Machine(torch.device("cpu"), rank=rank, world=world)
    network = machine.place(models.trainable("srresnet", SCALE, NETWORK))
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    slices = holding.load(path, scale=SCALE, degradation="bicubic", device="cpu")
    numbers = itertools.count()

    def step() -> None:
        lr, hr = batches.batch(
            slices, next(numbers), batch=BATCH, patch=PATCH, seed=0, augment=True, rotate=True,
            rank=rank, world=world,
        )  # fmt: skip
        optimizer.zero_grad()
        loss = F.l1_loss(network(lr), hr)
        loss.backward()
        compute.average(network, loss.detach()[None], machine)
        optimizer.step()

    return step


def _child(path: Path, count: int) -> None:
    """Measure in this process; rank 0 prints a line of JSON."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    began = time.perf_counter()
    step = _step(path, rank, world)
    loading = time.perf_counter() - began
    step()
    seconds, processor = [], []
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - wall)
        processor.append(time.process_time() - cpu)
    compute.finish()
    if rank == 0:
        # KiB on Linux, bytes on macOS
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        found = {"loading": loading, "mib": peak / 2**20, "step": statistics.median(seconds)}
        print(json.dumps(found | {"processor": statistics.median(processor)}))


def measured(path: Path, world: int, count: int) -> dict[str, float]:
    """A training of `world` processes: seconds to load, seconds a step, peak MiB of a process."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, __file__, "--child", str(path), "--steps", str(count)]
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    told = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"bench/scaling.py: a process of {world} failed")
    return json.loads(told[0])


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Processor time and peak memory of a process against the number of slices; a small SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "mrsr", "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    for world in sorted({row["processes"] for row in found}):
        of_world = [row for row in found if row["processes"] == world]
        slices = [row["slices"] for row in of_world]
        label = f"{world} process{'es' if world > 1 else ''}"
        for axis, key in zip(axes, ("processor", "mib"), strict=True):
            axis.plot(slices, [row[key] for row in of_world], "o-", label=label)
    for axis, label in zip(axes, ("processor s a step", "peak MiB of a process"), strict=True):
        axis.set(xscale="log", xlabel="slices", ylabel=label, ylim=(0, None))
        axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child, given.steps)
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for times in (1, 10) if given.small else (1, 10, 100):
            path = synthetic.store(Path(folder) / f"{times}.h5", FIRST * times, SIZE)
            for world in (1, 2):
                row = measured(path, world, 2 if given.small else given.steps)
                found.append({"slices": FIRST * times, "processes": world, **row})
    print("| Slices | Processes | Load (s) | Step (s) | Processor (s) | Peak MiB |")
    print("|---|---|---|---|---|---|")
    for row in found:
        print(
            f"| {row['slices']} | {row['processes']} | {row['loading']:.2f} | {row['step']:.3f} "
            f"| {row['processor']:.3f} | {row['mib']:.0f} |"
        )
    if given.plot:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
