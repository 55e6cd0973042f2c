"""The text of `mrsr plan`: tables by stage and by row, wall time, disk, and what was assumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mrsr.in_force import InForce
from mrsr.plan import rates, sizes
from mrsr.plan.jobs import ON_GPU, STAGES, Cost, Job, Place, wall

SHARED = "(shared)"  # the row of what no single method needs
SNAKEMAKE = 8.0  # seconds of its start
IN_A_JOB = 20.0  # a cluster's job starts two more Snakemakes (docs/cluster.md)


def row_of(in_force: InForce, job: Job) -> str:
    """The row of the tables that needs a job, or what several rows share."""
    if "method" in job.wildcards:
        return in_force.rows[job.wildcards["method"]].label
    named = {"train_autoencoder": "auto-encoders", "probe_autoencoder": "auto-encoders"}
    if job.rule.startswith("train_vit"):
        return f"{SHARED} vision transformer"
    return f"{SHARED} {named.get(job.rule, 'data and tables')}"


def report(
    target: str, in_force: InForce, jobs: Sequence[Job], costs: Sequence[Cost], place: Place
) -> str:
    """The plan as text: by stage, by row, wall time, disk, and what was assumed."""
    title = f"{target} of experiment '{in_force.name}' on {place.device}"
    if not jobs:
        return f"{title}: nothing to do\n"
    pairs = list(zip(jobs, costs, strict=True))
    lines = [f"{title}: {len(jobs)} jobs", ""]
    by_stage = [(s, [p for p in pairs if p[0].stage == s]) for s in STAGES]
    lines += _table("stage", [item for item in by_stage if item[1]], place)
    lines.append("")
    rows = {row_of(in_force, job) for job in jobs}
    order = [row.label for row in in_force.rows.values()]
    ordered = [*(name for name in order if name in rows), *sorted(rows - set(order))]
    by_row = [(r, [p for p in pairs if row_of(in_force, p[0]) == r]) for r in ordered]
    lines += _table("row", by_row, place)
    unknown = sum(c.seconds is None for c in costs)
    least = "at least " if unknown else ""
    seconds = [c.seconds or 0.0 for c in costs]
    span = SNAKEMAKE + wall(jobs, seconds, place)
    where = f"{place.jobs} jobs at a time" if place.jobs else _counted(place)
    running = sorted((c.running for c in costs), reverse=True)[: place.jobs or place.cores]
    lines += [
        "",
        f"wall time: {least}{duration(span)} on {where}",
        f"disk: {sizes.shown(sum(c.disk for c in costs))}, and up to "
        f"{sizes.shown(sum(running))} more while it runs",
        "",
        "seconds are from:",
        *_origins(pairs),
        "",
        "assumed: 0.3 s between jobs, 8 s for Snakemake's start"
        + (
            f", {IN_A_JOB:.0f} s in each job of a cluster, no waiting in its queue"
            if place.jobs
            else ""
        )
        + "; no retries; disk without MLflow's copies of the weights",
    ]
    if unknown:
        lines.append(
            f"not in the sums: {unknown} job{'s' * (unknown != 1)} whose time is not known; "
            "`mrsr plan --measure` on the computer that will run them times a few steps of each"
        )
    return "\n".join(lines) + "\n"


def _counted(place: Place) -> str:
    cores = f"{place.cores} core{'s' * (place.cores != 1)}"
    if not rates.is_gpu(place.device):
        return cores
    return f"{cores} and {place.gpus} GPU{'s' * (place.gpus != 1)}"


def _table(head: str, groups: list[tuple[str, list[tuple[Job, Cost]]]], place: Place) -> list[str]:
    """Aligned columns: jobs, GPU-hours (where there is a GPU), core-hours, disk; and the sums."""
    gpu = rates.is_gpu(place.device)
    cells = [[head, "jobs", *(["GPU-hours"] if gpu else []), "core-hours", "disk"]]
    whole = [pair for _, members in groups for pair in members]
    for name, pairs in [*groups, ("total", whole)]:
        on_gpu = [p for p in pairs if gpu and p[0].rule in ON_GPU]
        on_cpu = [p for p in pairs if not (gpu and p[0].rule in ON_GPU)]
        hours = [*([_hours(on_gpu, 0)] if gpu else []), _hours(on_cpu, place.cores)]
        disk = sizes.shown(sum(c.disk for _, c in pairs))
        cells.append([name, str(len(pairs)), *hours, disk])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def _hours(pairs: Iterable[tuple[Job, Cost]], cores: int) -> str:
    """Hours of GPUs (cores 0) or cores; `+ ?` where some job's time is not known."""
    pairs = list(pairs)
    total = sum((c.seconds or 0) * (min(j.threads, cores) if cores else 1) for j, c in pairs) / 3600
    text = f"{total:.3f}" if total < 10 else f"{total:,.0f}"
    return text + (" + ?" if any(c.seconds is None for _, c in pairs) else "")


def _origins(pairs: list[tuple[Job, Cost]]) -> list[str]:
    """How many jobs, and how much of the known time, is from where."""
    known: dict[str, list[float]] = {}
    for _, c in pairs:
        known.setdefault(c.origin, []).append(c.seconds or 0.0)
    whole = sum(map(sum, known.values())) or 1.0
    return [
        f"  {origin}: {len(found)} jobs, {100 * sum(found) / whole:.0f} % of the time"
        for origin, found in sorted(known.items(), key=lambda item: -sum(item[1]))
    ]


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
