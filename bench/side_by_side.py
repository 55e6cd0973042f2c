"""Two ways of doing the same work, timed in turns in one process: the ratio is what counts.

A benchmark is a file in bench/ with `rows(small: bool) -> list[Row]`; `small` asks for seconds of
work in place of minutes, so that tests can see that it runs. `bench/all.py` runs every one of them.

The machine may be busy with other things, so each round times one way and then the other, and the
processor's time of this process stands beside the wall's. torch.utils.benchmark does the timing:
it warms up and waits for a GPU to finish.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.utils.benchmark import Timer

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        name: what is done, and on how much.
        ours: the way that the project goes. other: what it is compared with.
        ratio: median over rounds of other's time / ours (wall): above 1, ours is faster.
        low, high: the smallest and largest ratio of a round.
        seconds, other_seconds: median wall seconds of one call.
        processor, other_processor: median processor seconds of one call, all threads.
        target: what the ratio should reach, or None.
        threads: of torch, while timing.
    """

    name: str
    ours: str
    other: str
    ratio: float
    low: float
    high: float
    seconds: float
    other_seconds: float
    processor: float
    other_processor: float
    target: float | None
    threads: int
    rounds: int


def compare(
    name: str,
    ours: tuple[str, Callable[[], object]],
    other: tuple[str, Callable[[], object]],
    *,
    target: float | None = None,
    threads: int | None = None,
    rounds: int = ROUNDS,
    calls: int = 1,
) -> Row:
    """Time two functions in turns.

    Args:
        ours, other: (what it is, a function without arguments).
        calls: of the function in each timing, for work of less than about 0.1 s.
        threads: of torch while timing; None keeps what is set.
    """
    threads = threads or torch.get_num_threads()
    wall: dict[str, list[float]] = {"ours": [], "other": []}
    processor: dict[str, list[float]] = {"ours": [], "other": []}
    for number in range(rounds):
        pair = [("ours", ours[1]), ("other", other[1])]
        for key, work in pair if number % 2 else reversed(pair):
            timer = Timer(
                "work()", globals={"work": work}, num_threads=threads, timer=time.perf_counter
            )
            if not number:
                timer.timeit(1)
            began = time.process_time()
            wall[key].append(timer.timeit(calls).mean)
            # timeit calls once more, to warm up
            processor[key].append((time.process_time() - began) / (calls + 1))
    ratios = [b / a for a, b in zip(wall["ours"], wall["other"], strict=True)]
    return Row(
        name=name,
        ours=ours[0],
        other=other[0],
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        seconds=statistics.median(wall["ours"]),
        other_seconds=statistics.median(wall["other"]),
        processor=statistics.median(processor["ours"]),
        other_processor=statistics.median(processor["other"]),
        target=target,
        threads=threads,
        rounds=rounds,
    )


def plain(row: Row) -> dict[str, object]:
    """As it stands in JSON."""
    return asdict(row)
