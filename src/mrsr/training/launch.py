"""Start a training once per GPU: torchrun, with signals and exit codes that a scheduler can use.

    python -m mrsr.training.launch 4 -m mrsr.training.train_sr --settings ...

starts four processes on this computer; the workflow's rules write the number of GPUs there. With 0
or 1 it turns into a plain `python -m mrsr.training.train_sr ...`. Options of torchrun stand before `-m`,
for several nodes this command runs once on each:

    python -m mrsr.training.launch 4 --nnodes 2 --rdzv-backend c10d --rdzv-id 7 --rdzv-endpoint node1 \\
        -m mrsr.training.train_sr --settings ...

torchrun alone always exits with 1, kills its processes 30 seconds after a SIGTERM, and dies from a
SIGUSR1 while they keep running. Here every SIGTERM and SIGUSR1 is forwarded, and the processes take
the time they need. If one ends early, the others are stopped (by torchrun: SIGTERM, SIGKILL 30
seconds later).

Exit code: 0 when all are done; else 2, 4 or 75 if a process exits with it (`errors.py`; for 75, all
do, after the state is on disk); 75 also if a signal came before there was anything to save; else
1. Only torch is imported, and nothing for 0 or 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrsr.errors import BAD_INPUT, DIVERGED, INTERRUPTED, UserError, guarded

USAGE = "python -m mrsr.training.launch PROCESSES [options of torchrun] -m MODULE [its arguments]"
# these end torchrun and with it all processes; the two others are ours
TORCHRUN_SIGNALS = "SIGINT,SIGHUP,SIGQUIT"


def children() -> list[int]:
    """The processes that this one started and has not waited for."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name, in brackets, may hold anything; state and parent follow it
            parent = file.read_text().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue  # it ended meanwhile
        if int(parent) == os.getpid():
            found.append(int(file.parent.name))
    return found


def exit_code(codes: Iterable[int], asked: bool) -> int:
    """The exit code of a training from those of its processes, negative for signals.

    asked: a signal was handed on to them.
    """
    codes = [code for code in codes if code]
    for code in (BAD_INPUT, DIVERGED, INTERRUPTED):
        if code in codes:
            return code
    if asked and all(code in (-signal.SIGTERM, -signal.SIGUSR1) for code in codes):
        return INTERRUPTED
    return 1


def torchrun(arguments: list[str]) -> int:
    """Run torchrun in this process, as its command line would; the exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    asked: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        asked.append(number)
        processes = children()
        if not processes:
            raise SystemExit(INTERRUPTED)  # nothing has begun
        for process in processes:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, hand_on)
    try:
        run.main(arguments)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        code = exit_code(codes.values(), bool(asked))
        if code == 1:
            told = ", ".join(
                f"{rank} {f'by {signal.Signals(-code).name}' if code < 0 else f'with code {code}'}"
                for rank, code in codes.items()
            )
            print(
                f"mrsr: error: processes of this training ended: {told}; its last state is kept, "
                "the same command goes on from it",
                file=sys.stderr,
            )
        return code
    return 0


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) < 3 or not given[0].isdigit() or "-m" not in given[1:]:
        raise UserError(f"usage: {USAGE}")
    processes, rest = int(given[0]), given[1:]
    if processes <= 1 and rest[0] == "-m":
        os.execv(sys.executable, [sys.executable, *rest])
    options = [f"--nproc-per-node={max(1, processes)}", f"--signals-to-handle={TORCHRUN_SIGNALS}"]
    if rest[0] == "-m":
        options.append("--standalone")
    raise SystemExit(torchrun([*options, *rest]))


if __name__ == "__main__":
    main()
