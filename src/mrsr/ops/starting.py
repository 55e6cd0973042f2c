"""What the Snakefile checks and says before a run: its `--config`, which experiment, what it costs.

A mistyped key of `--config` would silently run the default experiment, and a profile may name an
experiment of days that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mrsr.errors import UserError, one_line
from mrsr.ops.plan.jobs import STAGES, Place

KEYS = {
    "experiment": "a name in workflow/experiments/, or the path of a file",
    "params": "a params.yaml",
}
GPU = "A100"  # assumed for a cluster whose login node has none
CORES = 2  # as `mrsr plan` has it


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
    """What a run costs, from `mrsr plan`: a table of its stages, the wall time, GPU-hours by card.

    Args:
        command: of the run, which may name one of the stages.
        jobs: cluster jobs at a time; 0: this computer.

    Returns:
        The text; if there is no estimate, the reason in a line. A run does not depend on it.
    """
    from mrsr.ops.plan import estimate, rates

    target = next((word for word in command if word in STAGES), "all")
    try:
        device = rates.device_for("auto")
        device = GPU if jobs and device == "cpu" else device
        place = Place(device, jobs=jobs, cores=CORES)
        text = estimate.plan(target, name, place, False, False, Path("params.yaml"), brief=True)
    except Exception as error:  # whatever it is, it must not keep a run from starting
        return f"mrsr: cost not known: {one_line(str(error))}"
    more = f"mrsr plan {target} --experiment {name}"
    more += f" --jobs {jobs} --device {device}" if jobs else ""
    return f"{text}\nmore: {more}"
