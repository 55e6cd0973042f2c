"""`snakemake --logger mrsr`: one quiet display of a run; details stay in the logs.

On a terminal: a bar, steps done of all, time left, and what runs now. Elsewhere: a line when a job
starts and one when it ends. A run that fails ends with the failed job's own error.

Snakemake finds the plugin by the name of this package, and hands it its events: one call of `emit`
each, in a thread of its own. Rich is imported only when a run uses the display.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_mrsr.time_left import Progress, Spent, about
from snakemake_logger_plugin_mrsr.words import job_words, last_step, why

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 8  # running jobs; a cluster may have hundreds
TARGETS = ("all", "raw", "slices", "checkpoints", "metrics", "tables")  # rules that do nothing


@dataclass
class Job:
    """A job that runs, or ran and failed."""

    rule: str
    words: str
    threads: int
    log: Path | None
    began: float  # seconds since the epoch

    def spent(self) -> Spent:
        step = last_step(self.log, self.began) if self.log else None
        share = step[0] / step[1] if step and step[1] else None
        return Spent(self.rule, self.threads * (time.time() - self.began), share)

    def line(self) -> str:
        step = last_step(self.log, self.began) if self.log else None
        return f"{self.words}: step {step[0]:,} of {step[1]:,}" if step else self.words


class LogHandler(LogHandlerBase):
    """Snakemake's events -> the display."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False
    closed = True  # until there is something to close

    def __post_init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self.console = Console(file=stream, no_color=self.common_settings.nocolor or None)
        self.living = stream.isatty() and not self.console.is_dumb_terminal
        self.progress = Progress({})
        self.running: dict[int, Job] = {}
        self.failed: dict[int, Job] = {}
        self.errors: list[str] = []
        self.done = self.total = 0
        self.cores = 0
        self.fraction = 0.0
        self.stopping = False
        self.began = time.time()
        self.live = Live(
            get_renderable=self.picture, console=self.console, refresh_per_second=4, transient=True
        )
        self.closed = False

    def emit(self, record: logging.LogRecord) -> None:
        """One event of Snakemake's."""
        try:
            self._take(getattr(record, "event", None), record)
        except Exception:
            self.handleError(record)

    def _take(self, event: LogEvent | None, record: Any) -> None:
        if event == LogEvent.WORKFLOW_STARTED and self.living:
            self.live.start()
        elif event == LogEvent.RESOURCES_INFO:
            self.cores = getattr(record, "cores", None) or self.cores
        elif event == LogEvent.RUN_INFO:
            self.progress.waiting = {k: n for k, n in record.stats.items() if k != "total"}
            self.total = record.stats["total"]
        elif event == LogEvent.JOB_INFO:
            self._start(record)
        elif event == LogEvent.JOB_FINISHED:
            self._finish(record.job_id)
        elif event == LogEvent.JOB_ERROR:
            self._fail(record.jobid)
        elif event == LogEvent.PROGRESS:
            self.done, self.total = record.done, record.total
        elif event == LogEvent.ERROR:
            self.errors.append(record.getMessage())
        elif event is None:
            self._message(record.levelno, record.getMessage())

    def _message(self, level: int, text: str) -> None:
        """Of Snakemake's own messages, only those that a person needs."""
        if text.startswith("Nothing to be done"):
            self.say("nothing to do: everything is there and up to date")
        elif text.startswith("Terminating processes on user request"):
            self.stopping = True
            self.say("stopping: trainings save their state first")
        elif level >= logging.WARNING and not text.startswith(("None", "Exiting because a job")):
            self.say(text)

    def _start(self, record: Any) -> None:
        words = job_words(record.rule_name, record.wildcards)
        if self.common_settings.dryrun:
            if record.rule_name not in TARGETS:
                self.say(f"would {words}")
            return
        log = Path(record.log[0]) if record.log else None
        job = Job(record.rule_name, words, record.threads, log, time.time())
        self.running[record.jobid] = job
        self.failed.pop(record.jobid, None)  # tried again
        waiting = self.progress.waiting
        waiting[job.rule] = max(0, waiting.get(job.rule, 0) - 1)
        self._plain(job, f"start  {words}")

    def _finish(self, jobid: int) -> None:
        job = self.running.pop(jobid, None)
        if job is None:
            return
        took = time.time() - job.began
        self.progress.finished[job.rule].append(took * job.threads)
        self.done += 1  # Snakemake's own count follows
        self._plain(job, f"done   {job.words} ({clock(took)}), {about(self.left())}")

    def _fail(self, jobid: int) -> None:
        job = self.running.pop(jobid, None)
        if job is not None and not self.stopping:  # a stopped job has not failed
            self.failed[jobid] = job
            self.say(f"failed: {job.words}; the jobs running beside it go on")

    def left(self) -> float | None:
        """Seconds until the end, as far as one can tell."""
        running = [job.spent() for job in list(self.running.values())]
        return self.progress.left(running, self.cores or len(running))

    def picture(self) -> RenderableType:
        """The living display, made anew four times a second."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if not self.total:
            return Text("working out what has to run")
        jobs = [job for job in list(self.running.values()) if job.rule not in TARGETS]
        left = self.left()
        spent = self.progress.spent([job.spent() for job in jobs])
        now = self.done / self.total
        if left is not None and spent > 0:
            now = spent / (spent + left * max(1, self.cores or len(jobs)))
        self.fraction = max(self.fraction, now)  # an estimate that grows must not go back
        state = "stopping" if self.stopping else about(left)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            ProgressBar(total=1.0, completed=self.fraction, width=30),
            Text(f"{self.done} of {self.total} steps done, {state}", no_wrap=True),
        )
        lines = [Text(f"  {job.line()}", style="dim") for job in jobs[:SHOWN]]
        if len(jobs) > SHOWN:
            lines.append(Text(f"  and {len(jobs) - SHOWN} more", style="dim"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(head, *lines)

    def _plain(self, job: Job, text: str) -> None:
        if not self.living and job.rule not in TARGETS:
            self.say(f"[{self.done:>{len(str(self.total))}}/{self.total}] {text}")

    def say(self, text: str) -> None:
        """A line that stays, above the living display if there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """The end of the run: how it went, and why it failed. Snakemake calls it twice."""
        if not self.closed:
            self.closed = True
            self.live.stop()
            self._conclude()
        super().close()

    def _conclude(self) -> None:
        if self.done and not self.common_settings.dryrun:
            took = clock(time.time() - self.began)
            self.say(f"{self.done} of {self.total} steps done in {took}; details in logs/")
        if self.stopping:
            self.say("stopped; the same command goes on from here")
        elif self.failed:
            for job in self.failed.values():
                for line in why(job.words, job.log):
                    self.say(line)
        else:
            for error in self.errors:
                self.say(error)
                if "Directory cannot be locked" in error:
                    self.say("a run that was killed goes on with `mrsr resume`")


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
