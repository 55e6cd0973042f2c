"""What a training does around its loop."""

from __future__ import annotations

import signal
from typing import Any

import torch
from torch import distributed

from mrsr.compute import Machine, meeting


class Stop:
    """Set by SIGTERM and SIGUSR1 (pre-emption, time limit): save, and leave with exit code 75."""

    def __init__(self) -> None:
        self.name = ""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.name = signal.Signals(number).name

    def asked(self, machine: Machine) -> bool:
        """True on all processes, at the same step, once any of them got a signal."""
        if machine.world == 1:
            return bool(self.name)
        flag = torch.tensor([float(bool(self.name))])
        with meeting():
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        if flag.item() and not self.name:
            self.name = "a signal to another process"
        return bool(flag.item())
