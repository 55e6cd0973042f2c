"""Folded networks, tiles, and what happens when memory ends. Run: pytest tests/test_inference.py"""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mrsr import checkpoint, inference, linear_tail, models, tiles
from mrsr.errors import UserError
from mrsr.models import layers
from mrsr.scan import boxed

CPU = torch.device("cpu")
SMALL: dict[str, dict[str, Any]] = {
    "edsr": {"features": 8, "blocks": 2},
    "rdn": {"features": 8, "blocks": 2, "layers": 2, "growth": 8},
    "rcan": {"features": 8, "groups": 1, "blocks": 1, "reduction": 2},
    "seran": {"features": 8, "blocks": 1, "descriptors": 4, "width": 4},
}
LOCAL: dict[str, dict[str, Any]] = {
    "bicubic": {},
    "srcnn": {"features": [8, 4]},
    "vdsr": {"features": 8, "layers": 4},
    "srresnet": {"features": 8, "blocks": 2},
    "edsr": SMALL["edsr"] | {"skip": "bicubic"},
    "rdn": SMALL["rdn"],
}
GLOBAL: dict[str, dict[str, Any]] = {
    "rcan": SMALL["rcan"],
    "seran": SMALL["seran"],
    "swinir": {"embed": 12, "depths": [2], "heads": 2, "window": 4},
    "pseudo_inverse": {},
}


def build(name: str, scale: int, options: dict[str, Any]) -> Any:
    """A network with random weights everywhere, so that nothing it sees counts little."""
    torch.manual_seed(0)
    network = models.build(name, scale, options).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            layers.fill_bias(layer, 0.1)
    return network


@pytest.mark.parametrize("scale", linear_tail.SCALES)
@pytest.mark.parametrize("name", SMALL)
def test_a_folded_network_gives_the_same_images(name: str, scale: int) -> None:
    """Also at the edges, where the layers fill up with zeros, and for images of a few pixels."""
    network = build(name, scale, SMALL[name])
    plain = copy.deepcopy(network)
    assert linear_tail.fold(network, scale)
    assert network.last.weight.shape[-1] == 5
    with torch.inference_mode():
        for size in ((1, 1), (5, 40), (24, 31)):
            lr = torch.rand(2, 1, *size)
            expected = plain(lr)
            torch.testing.assert_close(
                network(lr), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
            )


def test_the_networks_of_the_package_fold() -> None:
    for scale in (2, 4):
        assert linear_tail.fold(checkpoint.network(boxed.path(scale)), scale)


class Rectified(nn.Module):
    """Names as of a linear tail, and a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.enlarge, self.last = layers.Upsampler(1, 2), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        out: Tensor = self.last(self.enlarge(lr).relu())
        return out


@pytest.mark.parametrize("name", ["rectified", "srresnet", "bicubic"])
def test_other_networks_stay_as_they_are(name: str) -> None:
    network = Rectified() if name == "rectified" else build(name, 2, LOCAL[name])
    modules = list(network.modules())
    assert not linear_tail.fold(network, 2)
    assert list(network.modules()) == modules


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", LOCAL)
def test_tiles_of_convolutional_networks_give_the_whole_slice(
    name: str, scale: int, folded: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """No seam: 1e-4 of the largest value is asked for, rounding is all that there is."""
    network = build(name, scale, LOCAL[name])
    if folded and not linear_tail.fold(network, scale):
        return
    image = np.random.default_rng(0).random((2, 150, 135)).astype(np.float32)
    whole = inference.apply(network, image, scale, device=CPU)
    tiled = inference.apply(network, image, scale, device=CPU, tile=64)
    assert np.abs(tiled - whole).max() < 1e-5 * np.abs(whole).max()
    assert "150x135 in tiles of 64x64, which gives the same image" in capfd.readouterr().err


@pytest.mark.parametrize("name", LOCAL)
def test_the_overlap_is_enough_and_not_without_reason(name: str) -> None:
    """What lies outside of the overlap changes nothing; what lies inside of a third of it does."""
    network = build(name, 2, LOCAL[name])
    overlap = tiles.overlap(network, 2)
    assert overlap is not None
    lr = torch.rand(1, 1, 9, 2 * overlap + 9)
    middle = slice(2 * overlap, 2 * overlap + 18)
    with torch.inference_mode():
        for near, differs in ((overlap // 3, True), (overlap + 1, False)):
            other = lr.clone()
            other[..., : overlap - near + 1] += 5
            changed = (network(other) - network(lr))[..., middle].abs().max() > 1e-5
            assert bool(changed) == differs


@pytest.mark.parametrize("name", GLOBAL)
def test_networks_that_see_the_whole_slice_say_so(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    network = build(name, 2, GLOBAL[name])
    assert tiles.overlap(network, 2) is None
    image = np.random.default_rng(0).random((1, 70, 90)).astype(np.float32)
    fine = inference.apply(network, image, 2, device=CPU, tile=64)
    assert fine.shape == (1, 140, 180)
    said = capfd.readouterr().err
    assert said.count("which changes the image a little: this network sees whole slices") == 1


def test_tiles_of_a_network_that_pads_and_has_a_guide() -> None:
    """Tiles begin on its grid; the guide is cut at the same place."""

    class Guided(nn.Module):
        multiple = 8

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, lr: Tensor, guide: Tensor) -> Tensor:
            assert lr.shape[-1] % 8 == lr.shape[-2] % 8 == 0
            out: Tensor = guide * self.conv(lr.repeat_interleave(2, -1).repeat_interleave(2, -2))
            return out

    rng = np.random.default_rng(0)
    image, guide = (rng.random((2, *size)).astype(np.float32) for size in ((101, 83), (202, 166)))
    whole, tiled = (
        inference.apply(Guided(), image, 2, device=CPU, guide=guide, tile=tile) for tile in (0, 64)
    )
    assert np.abs(whole - tiled).max() > 0.1  # two networks with weights of their own
    network = Guided()
    whole, tiled = (
        inference.apply(network, image, 2, device=CPU, guide=guide, tile=tile) for tile in (0, 64)
    )
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


class Hungry(nn.Module):
    """Bicubic, for as many pixels as `most` says; for more of them memory ends."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error

    def forward(self, lr: Tensor) -> Tensor:
        if lr.numel() > self.most:
            raise self.error
        return models.build("bicubic", 2, {})(lr)


ENDED = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"),
]


@pytest.mark.parametrize("error", ENDED, ids=lambda error: type(error).__name__)
def test_memory_that_ends_halves_the_batch_and_then_the_slice(
    error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(0).random((5, 200, 160)).astype(np.float32)
    expected = inference.apply(models.build("bicubic", 2, {}), image, 2, device=CPU)
    threads = torch.get_num_threads()
    found = inference.apply(Hungry(110 * 110, error), image, 2, device=CPU, batch=4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    lines = [line for line in capfd.readouterr().err.splitlines() if "out of memory" in line]
    lines = [line for line in lines if "one slice at a time" not in line]  # several workers
    assert [line.split("out of memory: ")[1][:34] for line in lines] == [
        "going on with 2 slices at a time",
        "going on with 1 slices at a time",
        "slices of 200x160 in tiles of 100x",
    ]
    assert torch.get_num_threads() == threads


def test_memory_for_nothing_ends_in_one_line() -> None:
    image = np.zeros((1, 200, 160), np.float32)
    with pytest.raises(UserError, match="out of memory with a single slice of 200x160, even in"):
        inference.apply(Hungry(50 * 50, MemoryError()), image, 2, device=CPU)


def test_other_errors_are_not_taken_for_memory() -> None:
    image = np.zeros((3, 8, 8), np.float32)
    with pytest.raises(RuntimeError, match="shape"):
        inference.apply(Hungry(1, RuntimeError("shape mismatch")), image, 2, device=CPU)


def test_slices_side_by_side_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, whichever worker is first; with one thread each, on any number of workers."""
    network = build("srresnet", 2, LOCAL["srresnet"])
    image = np.random.default_rng(0).random((9, 40, 30)).astype(np.float32)
    found, seen = [], set()
    network.register_forward_hook(lambda *_: seen.add(threading.current_thread().name) or None)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(inference.apply(network, image, 2, device=CPU, batch=2))
    assert (found[0] == found[1]).all()
    assert len(seen) >= 2  # the threads of one pool, and of the other


def test_a_network_with_few_maps_gets_no_tiles_and_one_with_many_does() -> None:
    """The budget is for what lies inside the network: the tile follows from it."""
    few, many = (build("edsr", 2, {"features": f, "blocks": 1}) for f in (4, 64))
    assert 4 * tiles.bytes_per_pixel(few, 2) < tiles.bytes_per_pixel(many, 2)
    size = (1600, 1600)
    assert inference._portion(few, size, 2, CPU, 0, 0, False).tile == 0
    portion = inference._portion(many, size, 2, CPU, 0, 0, False)
    side = portion.tile + 2 * (portion.overlap or 0)
    assert tiles.bytes_per_pixel(many, 2) * side**2 <= tiles.BUDGET
    assert portion.tile >= tiles.LEAST


CAPPED = """
import resource, sys
import numpy as np, torch
from mrsr import checkpoint, inference, linear_tail, models
from mrsr.scan import boxed
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))  # what the process itself allocates
torch.set_num_threads(1)
network = checkpoint.network(boxed.path(2))
linear_tail.fold(network, 2)
image = np.random.default_rng(0).random((1, 2048, 2048), np.float32)
fine = inference.apply(network, image, 2, device=torch.device("cpu"))
assert fine.shape == (1, 4096, 4096) and np.isfinite(fine).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux alone")
def test_2048x2048_in_2_gb_with_the_network_of_the_package() -> None:
    """It looks at whole slices, so they are tried first; memory really ends."""
    done = subprocess.run(
        [sys.executable, "-c", CAPPED], capture_output=True, text=True, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    assert "out of memory: slices of 2048x2048 in tiles of" in done.stderr
    assert int(done.stdout) < 2300  # MB, with the libraries' files
