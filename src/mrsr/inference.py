"""Slices through a network: padded, in batches, and in tiles where memory does not suffice."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrsr import console, models, resampling, tiles
from mrsr.console import say
from mrsr.errors import UserError

# LR pixels of a batch on a CPU. What a layer makes of more does not stay in the cache for the next:
# eight slices of 256x256 took 1.4 times as long as one by one (48 maps, one thread, 32 MB of cache)
CPU_PIXELS = 256 * 256
CPU_SLICES, GPU_SLICES = 16, 8  # at most, if the caller leaves it to us

# how torch and oneDNN say that memory ended, where it is no exception of its own
MEMORY_ENDED = ("defaultcpuallocator", "out of memory", "could not create a memory",
                "could not execute a primitive", "bad_alloc")  # fmt: skip


@dataclass(frozen=True)
class Portion:
    """What goes through the network at a time.

    Args:
        batch: slices.
        tile: LR pixels of a tile's side, without the overlap; 0: whole slices.
        overlap: LR pixels of surroundings on each side that give the whole slice's result; None:
            no overlap does.
    """

    batch: int
    tile: int = 0
    overlap: int | None = None


def apply(network: nn.Module, image: np.ndarray, scale: int, **options: Any) -> np.ndarray:
    """(slices, h, w) normalised -> (slices, scale * h, scale * w) float32, all in one array.

    Options as in `slabs`.
    """
    slices, height, width = image.shape
    fine = np.empty((slices, height * scale, width * scale), np.float32)
    for part, sr in slabs(network, image, scale, **options):
        fine[part] = sr
    return fine


def slabs(
    network: nn.Module,
    image: np.ndarray,
    scale: int,
    *,
    device: torch.device,
    batch: int = 0,
    guide: np.ndarray | None = None,
    ensemble: int = 1,
    tile: int = 0,
    label: str = "",
) -> Iterator[tuple[slice, np.ndarray]]:
    """(slices, h, w) normalised -> a few (n, scale * h, scale * w) float32 at a time, with a bar.

    Where memory ends, the batch is halved, then slices are cut into tiles; each is said in a line.

    Args:
        batch: slices at a time; 0: as many as the device likes.
        guide: the second contrast, in the output's shape, for guided networks.
        ensemble: see `forward`.
        tile: LR pixels of a tile's side; 0: whole slices as long as memory suffices.
        label: what the bar says in front.

    Yields:
        Which slices, and their images.

    Raises:
        UserError: memory does not suffice for the smallest tile of one slice.
    """
    slices, height, width = image.shape
    size, guided, threads = (height, width), guide is not None, torch.get_num_threads()
    workers = 1
    with one_thread():
        portion = _portion(network, size, scale, device, batch, tile, guided)
        if device.type == "cpu" and not portion.tile:
            room = tiles.BUDGET // (tiles.bytes_per_pixel(network, scale, guided) * height * width)
            workers = max(1, min(threads, slices, int(room) // portion.batch))

    def work(part: slice) -> np.ndarray | None:
        lr, *second = (
            torch.from_numpy(np.ascontiguousarray(one[part], np.float32))[:, None].to(device)
            for one in ((image,) if guide is None else (image, guide))
        )
        return _attempt(network, lr, scale, second, ensemble, portion)

    start = 0
    with console.bar(slices, "slice", label) as bar:
        while start < slices:
            for part, sr in _side_by_side(work, start, slices, portion.batch, workers, threads):
                if sr is None:
                    break
                yield part, sr
                start = part.stop
                bar.update(len(sr))
            else:
                return
            if workers > 1:
                workers = 1
                say("out of memory: going on with one slice at a time")
            else:
                portion = _smaller(network, size, scale, portion, guided)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For work on small images: on a busy machine several threads wait longer than they compute.

    (Folding a network took 4.0 s of two threads in place of 0.1 s, two cores at a load of 9.)
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _side_by_side(
    work: Callable[[slice], np.ndarray | None],
    start: int,
    stop: int,
    batch: int,
    workers: int,
    threads: int,
) -> Iterator[tuple[slice, np.ndarray | None]]:
    """Answers for `batch` slices each, in order, `workers` of them at a time.

    Each worker has its share of the threads. Slices side by side need no thread to wait for another
    after every layer, which costs most where the machine has other work too.
    """
    waiting: collections.deque[tuple[slice, Future[np.ndarray | None]]] = collections.deque()
    share = max(1, threads // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))
    try:
        for begin in range(start, stop, batch):
            part = slice(begin, min(begin + batch, stop))
            waiting.append((part, pool.submit(work, part)))
            if len(waiting) > workers:  # one more than they have in hand: nobody runs dry
                done, answer = waiting.popleft()
                yield done, answer.result()
        for done, answer in waiting:
            yield done, answer.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _attempt(
    network: nn.Module, lr: Tensor, scale: int, guide: list[Tensor], ensemble: int, portion: Portion
) -> np.ndarray | None:
    """(n, scale * h, scale * w), or None if memory ended."""
    try:
        with torch.inference_mode():
            sr = forward(network, lr, scale, *guide, ensemble=ensemble, portion=portion)
            return sr[:, 0].float().cpu().numpy()
    except (MemoryError, torch.OutOfMemoryError):
        pass
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in MEMORY_ENDED):
            raise
    if lr.device.type == "cuda":  # only here: the exception held what the network had made so far
        torch.cuda.empty_cache()
    return None


def _portion(
    network: nn.Module,
    size: tuple[int, int],
    scale: int,
    device: torch.device,
    batch: int,
    tile: int,
    guided: bool,
) -> Portion:
    """What to begin with."""
    pixels = size[0] * size[1]
    if not batch:
        batch = (
            max(1, min(CPU_SLICES, CPU_PIXELS // pixels)) if device.type == "cpu" else GPU_SLICES
        )
    if tile:
        return _tiled(network, size, scale, Portion(batch), tile, guided)
    # Linux grants more than there is, and kills who uses it: on a CPU tiles must not come too late
    if device.type != "cpu" or pixels <= CPU_PIXELS:
        return Portion(batch)
    each = tiles.bytes_per_pixel(network, scale, guided)
    overlap = tiles.overlap(network, scale, guided) if each * pixels > tiles.BUDGET else None
    if overlap is None:
        return Portion(batch)
    tile = max(tiles.LEAST, int((tiles.BUDGET / each) ** 0.5) - 2 * overlap)
    return _tiled(network, size, scale, Portion(1), tile, guided)


def _smaller(
    network: nn.Module, size: tuple[int, int], scale: int, portion: Portion, guided: bool
) -> Portion:
    """Half of it, said in one line.

    Raises:
        UserError: it cannot get smaller.
    """
    if portion.batch > 1:
        say(f"out of memory: going on with {portion.batch // 2} slices at a time")
        return replace(portion, batch=portion.batch // 2)
    tile = (portion.tile or max(size)) // 2
    if tile < tiles.LEAST:
        raise UserError(
            f"out of memory with a single slice of {size[0]}x{size[1]}, even in tiles; free some "
            "memory, or take a smaller network"
        )
    return _tiled(network, size, scale, portion, tile, guided, "out of memory: ")


def _tiled(
    network: nn.Module,
    size: tuple[int, int],
    scale: int,
    portion: Portion,
    tile: int,
    guided: bool,
    why: str = "",
) -> Portion:
    """Slices in tiles, said in one line; whole slices where one tile holds them."""
    if tile >= max(size):
        return portion
    overlap = portion.overlap if portion.tile else tiles.overlap(network, scale, guided)
    same = "which gives the same image"
    if overlap is None:
        same = "which changes the image a little: this network sees whole slices otherwise"
    say(f"{why}slices of {size[0]}x{size[1]} in tiles of {tile}x{tile}, {same}")
    return replace(portion, tile=tile, overlap=overlap)


def forward(
    network: nn.Module,
    lr: Tensor,
    scale: int,
    *guide: Tensor,
    ensemble: int = 1,
    portion: Portion | None = None,
) -> Tensor:
    """(n, 1, h, w) -> (n, 1, scale * h, scale * w), padded for networks that need it.

    guide: the second contrast (n, 1, scale * h, scale * w), for guided networks. A network whose
    layers need sizes that divide says so by an attribute `multiple` (LR pixels).
    ensemble: 8 averages over the flips and turns of the images, each turned back (Timofte et al.
    2016, "self-ensemble"); 1 does not.
    portion: in which tiles; None: whole slices.
    """
    if ensemble == 1:
        return _forward(network, lr, scale, *guide, portion=portion)
    total = torch.zeros(())
    for flips, turned in itertools.product(((), (-2,), (-1,), (-2, -1)), (False, True)):
        images = [(image.mT if turned else image).flip(flips) for image in (lr, *guide)]
        sr = _forward(network, images[0].contiguous(), scale, *images[1:], portion=portion)
        sr = sr.flip(flips)
        total = total.to(sr) + (sr.mT if turned else sr)
    return total / 8


def _forward(
    network: nn.Module, lr: Tensor, scale: int, *guide: Tensor, portion: Portion | None
) -> Tensor:
    multiple = int(getattr(network, "multiple", 1))
    padded, (height, width) = resampling.pad_to(lr, multiple)
    second = [resampling.pad_to(one, multiple * scale)[0] for one in guide]

    def run(image: Tensor, *more: Tensor) -> Tensor:
        sr: Tensor = network(image, *more)
        models.check_size(type(network).__module__.rpartition(".")[2], sr, image, scale)
        return sr

    if portion is None or not portion.tile:
        sr = run(padded, *second)
    else:
        sr = tiles.forward(
            run,
            padded,
            scale,
            *second,
            tile=portion.tile,
            overlap=tiles.INEXACT if portion.overlap is None else portion.overlap,
            multiple=multiple,
        )
    return sr[..., : height * scale, : width * scale]
