"""Memory available for slices, within the limits of the machine and its scheduler.

By hand: `python -c "import torch; from mrsr.slices.memory import memory_available as m;
print(m(torch.device('cpu')))"`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch


def memory_available(device: torch.device) -> int:
    """Free bytes of a GPU, or of this computer within the limits of its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [1 << 62]
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) * 1024)
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for group in {"", *(line.split(":")[-1] for line in _lines("/proc/self/cgroup"))}:
            most = _lines(f"{folder}{group}/{limit}")
            now = _lines(f"{folder}{group}/{used}")
            if most and now and most[0].isdigit() and now[0].isdigit():
                free.append(max(0, int(most[0]) - int(now[0])))
    # every process of a node has its own copy
    return min(free) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
