"""The state of a training on disk, from which it goes on exactly where it was.

`resume.pt` lies beside the checkpoint while the training runs: networks, optimizers, random
states of every process, step, best weights so far, and the log's text (a workflow may have removed
the log itself). Its first line carries the SHA-256 of the rest. The state before it is kept as
`resume.previous.pt`, so that a damaged one costs some steps and not the run.
"""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from mrsr.compute import Machine, meeting, wait
from mrsr.console import say
from mrsr.files import atomic

MAGIC = b"mrsr-resume-1 "
NAME, PREVIOUS = "resume.pt", "resume.previous.pt"


def random_states() -> dict[str, Any]:
    """States of all generators as tensors, tuples and numbers (readable by weights_only)."""
    numbers = np.random.get_state(legacy=False)
    kind, inner = numbers["bit_generator"], numbers["state"]
    return {
        "python": random.getstate(),
        "numpy": [
            kind,
            inner["key"].tolist(),
            inner["pos"],
            numbers["has_gauss"],
            numbers["gauss"],
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random(states: dict[str, Any]) -> None:
    """The inverse of `random_states`."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def save(
    folder: Path, machine: Machine, *, step: int, digest: str, parts: dict[str, Any], **more: Any
) -> None:
    """Write the state after `step` steps. All processes call this; the first one writes.

    It returns when the state is on disk, on all of them: a process that left the training earlier
    would take the first one with it.

    Args:
        digest: of the settings and data; another digest later means that the state is stale.
        parts: networks and optimizers by name, whatever has a `state_dict`.
        more: tensors and plain values to be given back as they are.
    """
    states: list[Any] = [random_states()]
    if machine.world > 1:
        states = [None] * machine.world
        with meeting():
            distributed.all_gather_object(states, random_states())
    if machine.first:
        states_of = {name: part.state_dict() for name, part in parts.items()}
        _write(
            folder, {"step": step, "digest": digest, "parts": states_of, "random": states, **more}
        )
    wait(machine)


def _write(folder: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    with atomic(folder / NAME) as temporary:
        with open(temporary, "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)
        # killed between the two renames: the previous state is there, and complete
        if (folder / NAME).exists():
            (folder / NAME).replace(folder / PREVIOUS)


def _read(path: Path) -> dict[str, Any] | None:
    """A state, or None (said) when the file is damaged."""
    try:
        with open(path, "rb") as file:
            head = file.readline(len(MAGIC) + 65)
            content = file.read()
        expected = head.removeprefix(MAGIC).strip().decode("ascii", "replace")
        if not head.startswith(MAGIC) or hashlib.sha256(content).hexdigest() != expected:
            raise ValueError("checksum")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # any damage means the same: this file cannot be gone on from
        say(f"{path.name} is damaged, it is left aside")
        return None


def load(folder: Path, machine: Machine, *, digest: str) -> dict[str, Any] | None:
    """The newest intact state of these settings and data, or None to start from the beginning.

    Damaged and outdated states are reported and skipped. All processes get the same answer.
    """
    state = None
    if machine.first:
        for name in (NAME, PREVIOUS):
            if state is None and (folder / name).exists():
                state = _read(folder / name)
                if state is not None and state.get("digest") != digest:
                    say(f"{name} belongs to other settings or data: discarded, starting over")
                    state = None
                    break
    if machine.world > 1:
        box = [state]
        with meeting():
            distributed.broadcast_object_list(box)
        state = box[0]
    return state


def restore(state: dict[str, Any], machine: Machine, parts: dict[str, Any]) -> int:
    """Put a state back into networks, optimizers and generators; returns its step."""
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    if machine.rank < len(state["random"]):
        restore_random(state["random"][machine.rank])
    return int(state["step"])


def compare(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Say what differs between the run that wrote the state and this one: bits may differ then."""
    changed = [
        f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]
    ]
    if changed:
        say(f"resumed under other conditions ({', '.join(changed)}): last bits may differ")


def clear(folder: Path) -> None:
    """Remove the states of a training that is complete."""
    for name in (NAME, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
