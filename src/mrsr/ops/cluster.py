"""On a cluster: requeue a stopped training, and resume a killed run.

`python -m mrsr.ops.cluster` ends a rule's shell whose command was stopped by SIGTERM, with 75 after a
checkpoint or at once: the job goes back to SLURM's queue under its id, and Snakemake, which sees it
pending, keeps waiting. That uses up no retry, so a job may be pre-empted or meet its time limit a
hundred times. Without SLURM, or while the job is being cancelled, nothing is done.

`mrsr resume` is for a Snakemake that was killed and left its jobs and its lock behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import write_json

RECORD = Path(".snakemake/mrsr-run.json")
# Snakemake's executor names all jobs of a run by a prefix and the run's id
RUN_NAME = re.compile(r"(?:.+_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RULE_COMMENT = re.compile(r"(rule|group)_")
RULE_SHELL = "set -euo pipefail;"  # how Snakemake begins the shell of a rule
RESTARTS = 100  # then it fails: a limit shorter than the start-up would go round for ever
SECONDS_TO_END = 180  # SLURM's KillWait is 30 s by default; a busy controller takes longer


def _tool(*command: str) -> str:
    """Output of a SLURM command.

    Raises:
        UserError: it failed, or gave no answer within two minutes.
    """
    if shutil.which(command[0]) is None:
        raise UserError(
            f"the run's jobs are in SLURM, and `{command[0]}` is missing here; go where it is, or, "
            "if none of them runs, `mrsr resume --force`"
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise UserError(f"`{shlex.join(command)}` gave no answer in two minutes") from None
    if done.returncode != 0:
        raise UserError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def requeue() -> bool:
    """Requeue this SLURM job if it is running; returns False if it is not."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not job or shutil.which("scontrol") is None:
        return False
    try:
        shown = _tool("scontrol", "show", "job", job)
        # a job that is being cancelled, or whose time is over, is no longer RUNNING: leave it alone
        state = re.search(r"JobState=(\w+)", shown)
        if not state or state.group(1) != "RUNNING":
            raise UserError(f"SLURM ends it already ({state.group(1) if state else 'no state'})")
        restarts = re.search(r"Restarts=(\d+)", shown)
        if restarts and int(restarts.group(1)) >= RESTARTS:
            raise UserError(f"it has been started again {RESTARTS} times")
        _tool("scontrol", "requeue", job)
    except UserError as error:
        print(f"mrsr: job {job} stays as it is: {error}", file=sys.stderr, flush=True)
        return False
    print(f"mrsr: job {job} is back in the queue and will go on", file=sys.stderr, flush=True)
    time.sleep(SECONDS_TO_END)  # SLURM ends us now; a failure reported before would be a retry
    return True


def note_start(command: list[str]) -> None:
    """Note who runs here, for `resume`: called by the Snakefile when a run begins."""
    write_json(RECORD, {"host": os.uname().nodename, "pid": os.getpid(), "command": command})


def _record() -> dict[str, Any]:
    try:
        return json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _processes(here: Path) -> dict[int, list[str]]:
    """Processes of this machine that work in this folder: id -> command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == here and int(entry.name) != os.getpid():
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                found[int(entry.name)] = command.rstrip("\0").split("\0")
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def _is_run(command: list[str]) -> bool:
    """A Snakemake that was started by a person; the ones inside of jobs are told their mode."""
    words = command[:4]
    named = any(Path(word).name == "snakemake" for word in words)
    return named and not any(word.startswith("--mode") for word in command)


def live_runs(here: Path) -> list[int]:
    """Process ids of the Snakemakes that run in this folder, on this machine."""
    return sorted(pid for pid, command in _processes(here).items() if _is_run(command))


def orphaned_jobs(here: Path) -> list[str]:
    """SLURM ids of this user's jobs that a Snakemake submitted from this folder."""
    listed = _tool("squeue", "--me", "--noheader", "--format", "%i|%j|%Z|%k")
    jobs = []
    for line in listed.splitlines():
        job, name, folder, comment = line.split("|", 3)
        ours = RUN_NAME.fullmatch(name) and RULE_COMMENT.match(comment)
        if ours and Path(folder).resolve() == here:
            jobs.append(job)
    return jobs


def _wait_until_gone(what: str, remaining: Callable[[], list[Any]]) -> None:
    """Wait until `remaining()` is empty."""
    for _ in range(SECONDS_TO_END):
        if not remaining():
            return
        time.sleep(1)
    raise UserError(f"{what} do not end: {remaining()}; end them by hand, then `mrsr resume`")


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def cancel_local(here: Path) -> int:
    """End rules that a killed Snakemake left running on this machine; a training saves first.

    Returns:
        How many shells of rules there were.
    """
    shells = [
        pid
        for pid, command in _processes(here).items()
        if Path(command[0]).name == "bash" and command[-1].startswith(RULE_SHELL)
    ]
    group: list[int] = []
    for pid in shells:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        group += [pid, *(int(child) for child in children.read_text().split())]
    for pid in group:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.kill(pid, signal.SIGTERM)
    _wait_until_gone("processes", lambda: [pid for pid in group if _alive(pid)])
    return len(shells)


def cancel_jobs(here: Path, submitted: bool) -> None:
    """Cancel the jobs that a killed Snakemake left in SLURM, and wait for their end.

    Args:
        submitted: the run used SLURM, so that it must be asked; else it may be absent or down.
    """
    try:
        jobs = orphaned_jobs(here) if submitted or shutil.which("squeue") else []
    except UserError:
        if submitted:
            raise
        return
    if jobs:
        _tool("scancel", *jobs)
        _wait_until_gone("jobs", lambda: orphaned_jobs(here))
        print(f"mrsr: cancelled {len(jobs)} jobs: {' '.join(jobs)}", file=sys.stderr)


def clear(force: bool = False) -> dict[str, Any]:
    """Cancel what a killed run left behind in this folder, and unlock it.

    Args:
        force: the run was started on another machine and is known to be dead.

    Returns:
        The record of the last run: host, pid, command; empty when there is none.

    Raises:
        UserError: a Snakemake is at work here, or might be; SLURM does not answer.
    """
    here = Path.cwd().resolve()
    if not Path("Snakefile").is_file():
        raise UserError(f"{here} has no Snakefile; run `mrsr resume` in the project's root")
    if live := live_runs(here):
        raise UserError(
            f"Snakemake is at work here (process {live[0]}); wait for it, or end it with Ctrl-C"
        )
    record = _record()
    host = record.get("host", os.uname().nodename)
    locked = any(Path(".snakemake/locks").glob("*.lock"))
    if locked and host != os.uname().nodename and not force:
        raise UserError(
            f"the run was started on {host}; log in there, or, if it is dead, `mrsr resume --force`"
        )
    if not force or shutil.which("squeue"):
        cancel_jobs(here, submitted="slurm" in " ".join(map(str, record.get("command", []))))
    if count := cancel_local(here):
        print(f"mrsr: ended {count} rules that were left running here", file=sys.stderr)
    if locked:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--unlock", "--cores", "1"],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise UserError(f"snakemake --unlock failed: {done.stderr.strip()[-400:]}")
        print("mrsr: unlocked", file=sys.stderr)
    return record


def resume(arguments: list[str], force: bool = False) -> None:
    """Clear what a killed run left behind, then become Snakemake.

    Args:
        arguments: of Snakemake; none: those of the last run here.
        force: see `clear`.
    """
    record = clear(force)
    arguments = arguments or [str(word) for word in record.get("command", [])]
    if not arguments:
        raise UserError("no run is noted here; say what to run: mrsr resume -- --cores 2 all")
    if "--rerun-incomplete" not in arguments:
        arguments = ["--rerun-incomplete", *arguments]
    print(f"mrsr: snakemake {shlex.join(arguments)}", file=sys.stderr, flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *arguments])


if __name__ == "__main__":
    requeue()
