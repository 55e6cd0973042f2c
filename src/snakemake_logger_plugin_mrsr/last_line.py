"""Without `--logger mrsr`: why a run failed, as the last thing that Snakemake shows.

Snakemake's own report of a failed job has forty lines of shell and JSON, and the job's error stands
in its log. The Snakefile calls `watch` before anything can fail.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_mrsr.words import job_words, why


class LastLine(logging.Handler):
    """Notes the jobs that run and those that failed; says why when Snakemake's logging ends."""

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[int, tuple[str, Path | None]] = {}
        self.failed: dict[int, tuple[str, Path | None]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """One event of Snakemake's."""
        found: Any = record
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            log = Path(found.log[0]) if found.log else None
            self.running[found.jobid] = (job_words(found.rule_name, found.wildcards or {}), log)
            self.failed.pop(found.jobid, None)  # tried again
        elif event == LogEvent.JOB_ERROR and found.jobid in self.running:
            self.failed[found.jobid] = self.running[found.jobid]

    def close(self) -> None:
        """Snakemake closes its handlers after its last word."""
        for words, log in self.failed.values():
            for line in why(words, log):
                print(line, file=sys.stderr, flush=True)
        self.failed.clear()
        super().close()


def watch(logger: logging.Logger, displays: list[Any]) -> None:
    """Have the failed jobs' lines printed at the end.

    displays: of `--logger`, which do it themselves.
    """
    if not displays and not any(isinstance(handler, LastLine) for handler in logger.handlers):
        logger.addHandler(LastLine())
