"""How long the rest of a run takes, from what its jobs have taken so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Rough core-seconds of a job in `make demo`; together they are the half core-hour that it takes
# (docs/results.md). Only their ratios matter, and only until a job of the same rule has run.
USUAL = {
    "raw_source": 50.0,
    "slice_dataset": 10.0,
    "guide_dataset": 10.0,
    "tracking_store": 5.0,
    "train_vit_segmentation": 240.0,
    "train_vit_pretext": 120.0,
    "train_autoencoder": 120.0,
    "train_sr": 90.0,
    "train_self": 90.0,
    "evaluate": 20.0,
    "probe_autoencoder": 10.0,
    "write_tables": 3.0,
    "frozen_table": 3.0,
    "loss_curves": 3.0,
    "example_images": 20.0,
    "draw_figures": 20.0,
    "write_report": 5.0,
}
OTHER = 5.0  # a rule that is not there
ENOUGH = 20.0  # of those seconds must have been done before anything is said
SHARE = 0.05  # of a running training: less says nothing about the whole


@dataclass
class Spent:
    """A running job: its rule, the core-seconds it has had, and the share that is done."""

    rule: str
    seconds: float
    share: float | None = None  # 0 to 1; None: it does not say


@dataclass
class Progress:
    """Core-seconds of finished jobs, by rule, and how many jobs wait."""

    waiting: dict[str, int]
    finished: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def left(self, running: Sequence[Spent], lanes: int) -> float | None:
        """Seconds until the end, or None while too little has run to tell.

        Args:
            running: the jobs that run now.
            lanes: cores that share the work, at least 1.
        """
        samples = {rule: list(times) for rule, times in self.finished.items()}
        for job in running:
            if job.share is not None and job.share >= SHARE:
                samples.setdefault(job.rule, []).append(job.seconds / job.share)
        pace = _pace(samples)
        if pace is None:
            return None

        def expected(rule: str) -> float:
            times = samples.get(rule)
            return sum(times) / len(times) if times else USUAL.get(rule, OTHER) * pace

        rest = [
            job.seconds / job.share - job.seconds
            if job.share is not None and job.share >= SHARE
            else max(0.0, expected(job.rule) - job.seconds)
            for job in running
        ]
        work = sum(rest) + sum(count * expected(rule) for rule, count in self.waiting.items())
        return max([work / max(1, lanes), *rest])

    def spent(self, running: Sequence[Spent]) -> float:
        """Core-seconds so far."""
        return sum(map(sum, self.finished.values())) + sum(job.seconds for job in running)


def _pace(samples: Mapping[str, Sequence[float]]) -> float | None:
    """How many times slower this machine is than the one of `USUAL`."""
    usual = sum(USUAL.get(rule, OTHER) * len(times) for rule, times in samples.items())
    return sum(map(sum, samples.values())) / usual if usual >= ENOUGH else None


def about(seconds: float | None) -> str:
    """'about 6 min left'; no more digits than an estimate has."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 50:
        return "less than a minute left"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60) or 1} min left"
    return f"about {seconds / 3600:.1f} hours left"
