"""The text of `mrsr plan`: hours and disk by stage, by method and by the origin of the hours."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import pandas as pd
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from mrsr.ops.plan.jobs import BETWEEN, STAGES, Job, Place, wall
from mrsr.ops.plan.rates import GUESSED
from mrsr.params.experiment import Resolved

SNAKEMAKE = 8.0  # seconds of its start
IN_A_JOB = 20.0  # a cluster's job starts two more Snakemakes (docs/cluster.md)
SHARED = {"train_autoencoder": "auto-encoders", "probe_autoencoder": "auto-encoders"}
SHARED |= dict.fromkeys(("train_vit_segmentation", "train_vit_pretext"), "vision transformer")


def report(
    target: str, resolved: Resolved, jobs: Sequence[Job], costs: pd.DataFrame, place: Place
) -> str:
    """The plan as text. costs: `seconds` (nan: not known), `origin`, `disk` (bytes) of each job."""
    title = f"{target} of experiment '{resolved.name}' on {place.device}"
    if not jobs:
        return f"{title}: nothing to do\n"
    labels = {key: method.label for key, method in resolved.methods.items()}
    shared = [f"(shared) {SHARED.get(job.rule, 'data and tables')}" for job in jobs]
    methods = [labels.get(job.wildcards.get("method", "")) for job in jobs]
    frame = costs.assign(jobs=1, stage=[job.stage for job in jobs])
    frame["method"] = pd.Series(methods, dtype=object).fillna(pd.Series(shared))
    frame["seconds"] += IN_A_JOB if place.jobs else 0.0
    on_gpu = pd.Series([place.on_gpu(job) for job in jobs])
    threads = pd.Series([min(job.threads, place.cores) for job in jobs])
    if on_gpu.any():
        frame["GPU-hours"] = frame["seconds"].where(on_gpu, 0) / 3600
    frame["core-hours"] = (frame["seconds"] * threads).mask(on_gpu, 0) / 3600
    unknown = int(frame["seconds"].isna().sum())
    span = SNAKEMAKE + wall(jobs, frame["seconds"].fillna(0).tolist(), place)
    where = f"{place.jobs} jobs at a time" if place.jobs else f"{place.cores} cores"
    where += f" and {place.gpus} GPUs" if on_gpu.any() and not place.jobs else ""
    console = Console(file=(out := io.StringIO()), width=120, highlight=False)
    console.print(f"{title}: {len(jobs)} jobs\n")
    for head, order in (("stage", STAGES), ("method", labels.values()), ("origin", ())):
        console.print(_table(frame, head, order), "")
    console.print(
        f"wall time: {'at least ' * bool(unknown)}{duration(span)} on {where}\n"
        f"disk: {decimal(int(frame['disk'].sum()))}, without MLflow's copies of the weights\n"
        f"assumed: {BETWEEN} s between jobs, {SNAKEMAKE:.0f} s for Snakemake's start, no retries"
        + f", {IN_A_JOB:.0f} s in each job of a cluster, no queue"
        * bool(place.jobs)
    )
    if unknown:
        console.print(f"not in the sums: {unknown} jobs whose size is not known before slicing")
    if any(origin.startswith(GUESSED) for origin in frame["origin"]):
        console.print("scaled and assumed may be off several times; --measure times networks")
    return out.getvalue()


def _table(frame: pd.DataFrame, head: str, order: Iterable[str]) -> Table:
    """Sums for each value of a column, those of `order` first, and of all."""
    columns = ["jobs", *(name for name in frame.columns if name.endswith("-hours")), "disk"]
    sums = frame.groupby(head)[columns].sum()
    sums = sums.loc[[name for name in dict.fromkeys((*order, *sums.index)) if name in sums.index]]
    sums.loc["total"] = sums.sum()
    table = Table(head, box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right")
    for name, jobs, *hours, disk in sums.itertuples():
        cells = (f"{value:.3f}" if value < 10 else f"{value:,.0f}" for value in hours)
        table.add_row(name, f"{jobs:.0f}", *cells, decimal(int(disk)))
    return table


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
