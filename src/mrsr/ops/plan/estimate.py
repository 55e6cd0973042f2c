"""`mrsr plan`: what a target costs, before it is run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from mrsr.errors import UserError
from mrsr.ops import provenance
from mrsr.ops.plan import jobs, measure, rates, report, work
from mrsr.ops.plan.costs import costs
from mrsr.ops.plan.jobs import Place
from mrsr.ops.plan.rates import GUESSED
from mrsr.params import loading

PUBLISHED = "_published"  # an experiment NAME with the published recipes is NAME_published


def plan(
    target: str,
    experiment: str | None,
    place: Place,
    fresh: bool,
    timed: bool,
    file: Path,
    brief: bool = False,
) -> str:
    """The text that `mrsr plan` prints.

    Args:
        target: all, a stage, a rule or a file.
        place: its device may be auto. fresh: as if nothing had been run.
        timed: measure first what would be assumed. file: the parameters.
        brief: without rows and origins.

    Raises:
        UserError: nothing makes the target; measuring another device than this computer's.
    """
    if not Path("Snakefile").is_file():
        raise UserError("no Snakefile here; run `mrsr plan` in the project's root")
    resolved = loading.load(file, experiment)
    place = replace(place, device=rates.device_for(place.device))
    every = jobs.every(resolved)
    changed = [] if fresh else provenance.changed(resolved)
    chosen = jobs.needed(every, target, changed, fresh)
    known = [*rates.from_runs(), *measure.read()]
    found = costs(resolved, chosen, place, known)
    if timed and chosen:
        todo = [job for job, c in zip(chosen, found, strict=True) if c.origin.startswith(GUESSED)]
        known += measure.measure(
            [(job.rule, work.load(resolved, job).parts) for job in todo], place
        )
        found = costs(resolved, chosen, place, known)
    text = report.stages(target, resolved, chosen, found, place, brief)
    hours = sum(c.seconds.likely for c in found if not math.isnan(c.seconds.likely)) / 3600
    if any(map(work.works, chosen)) and (place.device != "cpu" or hours > report.DAY):
        cards = [report.Recipe("as set", resolved, chosen)]
        other = f"{resolved.name}{PUBLISHED}"
        if other in loading.names(file) and target == "all":
            published = loading.load(file, other)
            cards = [
                replace(cards[0], name="common budget"),
                report.Recipe("published recipes", published, jobs.every(published)),
            ]
        text += "\n" + report.tables(cards, place, known, brief)
    return text
