"""Device, precision and processes, for trainings, evaluations and scans.

Processes: one per GPU, started by `training/launch.py` (gloo on the CPU). `batch` is the batch of
all processes: each takes its share, so the learning rate does not change. Gradients are averaged in
one all-reduce of a flat buffer, by hand: DistributedDataParallel regroups its buffers after the
first step, so a resumed run would add in another order than an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import re
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from mrsr.errors import UserError

Network = TypeVar("Network", bound=nn.Module)
# the others wait while the first process validates and writes; a process that ends is noticed at
# once, this is for one that hangs or is behind a broken connection
PATIENCE = timedelta(minutes=60)


class LostProcess(UserError):
    """Another process of the training ended, so this one cannot continue."""

    exit_code = 1


class Wanted(Protocol):
    """What `start` reads of a training's settings; `schema.Loop` says what the values mean."""

    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def channels_last(self) -> str: ...
    @property
    def threads(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a training runs: device, number type, and this process among the others."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    bf16: bool = False
    channels_last: bool = True
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0

    @property
    def precision(self) -> str:
        """What the forward pass computes in: fp32, bf16 or fp64."""
        return "bf16" if self.bf16 else "fp64" if self.dtype == torch.float64 else "fp32"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context of the forward pass: bf16 where chosen."""
        if self.bf16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def place(self, network: Network) -> Network:
        """Move a network to the device, number type and memory layout of this training."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        network = network.to(device=self.device, dtype=self.dtype)
        return network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stub


def device_for(name: str = "auto", index: int = 0) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU; else `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: the name is unknown, or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        # torch has more (mps, xpu, meta, ...), on which nothing here was ever run
        raise UserError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device is cuda but torch sees no GPU; use auto or cpu")
        if device.index is None:
            device = torch.device("cuda", index % torch.cuda.device_count())
        elif device.index >= torch.cuda.device_count():
            raise UserError(f"device is {name} but torch sees {torch.cuda.device_count()} GPUs")
    return device


def start(settings: Wanted) -> Machine:
    """Set threads, join the other processes if torchrun started several, choose the precision."""
    torch.set_num_threads(settings.threads)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = device_for(settings.device, int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # patches keep one size
        torch.set_float32_matmul_precision("high")
    if world > 1 and not distributed.is_initialized():
        # gloo beside nccl: the stop flag is agreed on by the CPUs, without a stop of the GPUs
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        _end_with_launcher()
        with meeting():
            distributed.init_process_group(backend, timeout=PATIENCE)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_bf16(device))
    return Machine(
        device=device,
        dtype=torch.float64 if settings.precision == "fp64" else torch.float32,
        bf16=bf16,
        # measured on one CPU thread with 32 and 64 maps: as fast or up to 1.4 times faster
        channels_last=settings.channels_last != "off",
        rank=rank,
        world=world,
    )


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16; emulated, it is slower than fp32.

    CPUs with AVX512-BF16 or AMX do. (Measured without either, AMD EPYC of the Milan generation: a
    training step in bf16 took ten times as long as in fp32.)
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def seed(value: int, rank: int = 0) -> None:
    """Seed every generator; networks are built with rank 0's seed on all processes."""
    random.seed(value + rank)
    np.random.seed((value + rank) % 2**32)
    torch.manual_seed(value + rank)  # all GPUs too


def _end_with_launcher() -> None:
    """Have Linux kill this process when the one that started it dies, so that none is left over."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """Around what all processes do together: one line where another one is gone.

    Raises:
        LostProcess: torch reports that it could not reach the others.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostProcess(
            f"another process of this training is gone ({str(error).splitlines()[0]}); the last "
            "state is kept, the same command goes on from it"
        ) from error


def wait(machine: Machine) -> None:
    """Return once all processes are here. On the CPUs: no GPU is waited for."""
    if machine.world > 1:
        with meeting():
            distributed.all_reduce(torch.zeros(1))


def finish() -> None:
    """Leave the group of processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def synchronised(network: nn.Module, machine: Machine) -> nn.Module:
    """Batch norm over the images of all processes on GPUs; on CPUs each sees its own (gloo)."""
    if machine.world > 1 and machine.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def share(batch: int, machine: Machine) -> int:
    """Images of one process in a global batch.

    Raises:
        UserError: the batch does not divide among the processes.
    """
    if batch < 1 or batch % machine.world:
        raise UserError(f"batch {batch} does not divide among {machine.world} processes")
    return batch // machine.world


def micro_batches(
    lr: Tensor, hr: Tensor, size: int, *more: Tensor
) -> Iterator[tuple[Tensor, Tensor, float, *tuple[Tensor, ...]]]:
    """Parts of a batch of at most `size` images (0: all at once), with their share of the whole.

    Parts of `more`, further images of the same batch, follow the share.

    The sum of share * loss over the parts is the loss of the batch, for every loss that is a mean
    over images; also when the last part is smaller. Batch norm sees each part by itself.
    """
    count = lr.shape[0]
    size = min(size or count, count)
    for begin in range(0, count, size):
        part = slice(begin, begin + size)
        yield lr[part], hr[part], min(size, count - begin) / count, *(m[part] for m in more)


def average(network: nn.Module, terms: Tensor, machine: Machine) -> Tensor:
    """Average gradients in place, and the loss terms (n,), over the processes."""
    if machine.world == 1:
        return terms
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients] + [terms.to(gradients[0].dtype)])
    with meeting():
        distributed.all_reduce(flat)
    flat /= machine.world
    position = 0
    for gradient in gradients:
        gradient.copy_(flat[position : position + gradient.numel()].view(gradient.shape))
        position += gradient.numel()
    return flat[position:]
