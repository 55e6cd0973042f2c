"""What the Snakefile checks and says before a run: its `--config`, which experiment, what it costs.

A mistyped key of `--config` would silently run the default experiment, and a profile may name an
experiment of days that nobody asked for.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mrsr.errors import UserError, one_line
from mrsr.ops.plan.jobs import STAGES

KEYS = {
    "experiment": "a name in workflow/experiments/, or the path of a file",
    "params": "a params.yaml",
}
GPU = "A100"  # assumed for a cluster whose login node has none


def literal(path: object) -> str:
    """A path for where Snakemake replaces names in braces: those of a folder stay as they are."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a key of `--config` that nothing reads.

    Raises:
        UserError: with the keys that there are.
    """
    for key in config:
        if key not in KEYS:
            close = get_close_matches(str(key), KEYS, 1)
            meant = f"did you mean {close[0]}=...? " if close else ""
            known = "; ".join(f"{name}={what}" for name, what in KEYS.items())
            raise UserError(f"--config {key}=...: unknown key; {meant}known: {known}")


def asked(command: Iterable[str]) -> bool:
    """Whether a command line names the experiment itself."""
    return any("experiment=" in word for word in command)


def announcement(name: str, config: Mapping[str, Any]) -> str:
    """The line for an experiment that the command line does not name."""
    origin = "its profile (or --configfile)" if "experiment" in config else "params.yaml"
    return (
        f"mrsr: runs experiment '{name}', which {origin} names; "
        "another: --config experiment=NAME, after the targets"
    )


def cost(name: str, command: Sequence[str], jobs: int) -> str:
    """What a run costs, from `mrsr plan`: a table of its stages, and the wall time.

    Args:
        command: of the run, which may name one of the stages.
        jobs: cluster jobs at a time; 0: this computer.

    Returns:
        The text; if there is no estimate, the reason in a line. A run does not depend on it.
    """
    target = next((word for word in command if word in STAGES), "all")
    order = [sys.executable, "-m", "mrsr.cli", "plan", target, "--experiment", name]
    if jobs:
        order += ["--jobs", str(jobs), "--device", _device()]
    done = subprocess.run(order, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        return f"mrsr: cost not known: {one_line(said)}"
    blocks = done.stdout.strip().split("\n\n")
    shown = blocks if len(blocks) < 4 else [*blocks[:2], blocks[-1]]  # not by method and origin
    return "\n\n".join([*shown, f"more: mrsr {' '.join(order[3:])}"])


def _device() -> str:
    import torch

    return "auto" if torch.cuda.is_available() else GPU
