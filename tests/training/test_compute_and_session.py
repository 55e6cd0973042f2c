"""What trainings share: `pytest tests/training/test_compute_and_session.py`."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from builders import read, sr
from mrsr import cli, compute
from mrsr.console import clock
from mrsr.errors import Diverged, UserError
from mrsr.params.jobs import SuperResolution
from mrsr.params.schema import Optimizer, Schedule
from mrsr.training import divergence, optimizers, session

MACHINE = compute.Machine(torch.device("cpu"))


def rates(steps: int = 100, **schedule: object) -> list[float]:
    """Learning rates of a run."""
    given = Schedule(**schedule)
    return [optimizers.learning_rate(step, steps, 1.0, given) for step in range(steps)]


def test_schedules() -> None:
    assert set(rates(kind="constant", warmup=0)) == {1.0}
    warm = rates(kind="constant", warmup=10)
    assert warm[:3] == pytest.approx([0.1, 0.2, 0.3]) and warm[9] == 1.0
    cosine = rates(kind="cosine", warmup=0, floor=0.1)
    assert cosine[0] == 1.0 and cosine[50] == pytest.approx(0.55)
    assert cosine == sorted(cosine, reverse=True) and cosine[-1] == pytest.approx(0.1, abs=1e-3)
    stairs = rates(kind="step", warmup=0, every=40, factor=0.5)
    assert [stairs[i] for i in (0, 39, 40, 80)] == [1.0, 1.0, 0.5, 0.25]
    with pytest.raises(ValueError, match="every"):
        rates(kind="step", warmup=0)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 9])
def test_accumulated_gradients_are_those_of_the_batch(size: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 1, 3, padding=1).double()
    lr, hr = torch.rand(2, 5, 1, 6, 6, dtype=torch.float64)
    (layer(lr) - hr).abs().mean().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    total = 0.0
    for lr_part, hr_part, portion in compute.micro_batches(lr, hr, size):
        ((layer(lr_part) - hr_part).abs().mean() * portion).backward()
        total += portion
    assert total == pytest.approx(1)
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-14)


def test_decoupled_and_coupled_decay() -> None:
    def after(decoupled: bool, name: str = "adam") -> float:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(layer.weight)
        settings = Optimizer(name=name, lr=0.1, weight_decay=0.5, decoupled=decoupled)
        optimizer = optimizers.optimizer_for(layer, settings)
        layer.weight.grad = torch.zeros(1, 1)
        optimizer.step()
        return layer.weight.item()

    assert after(True) == pytest.approx(1 - 0.1 * 0.5)  # weights shrink by lr * decay
    assert after(False, "adamw") == pytest.approx(1 - 0.1 * 0.5)
    assert after(False) == pytest.approx(1 - 0.1)  # Adam normalises the decay away: a whole step


def test_the_watch_names_step_and_term() -> None:
    watch = divergence.Watch(["l1", "vit"], 100.0)
    watch.add(1, torch.tensor([0.5, 2.0]))
    watch.add(2, torch.tensor([1.5, 4.0]))
    assert watch.means() == {"l1": 1.0, "vit": 3.0}
    assert watch.means() == {}
    for bad in (math.nan, math.inf, -math.inf, 101.0):
        with pytest.raises(Diverged, match=r"step 7: loss term 'vit'"):
            divergence.Watch(["l1", "vit"], 100.0).add(7, torch.tensor([0.5, bad]))


def test_the_bound_judges_terms_and_not_their_weighted_total() -> None:
    watch = divergence.Watch(["l1", "total"], 100.0)
    watch.add(1, torch.tensor([0.5, 5000.0]))  # a weight of 10,000
    assert watch.means() == {"l1": 0.5, "total": 5000.0}
    with pytest.raises(Diverged, match="loss term 'l1' exploded"):
        watch.add(2, torch.tensor([101.0, 1.0]))
    with pytest.raises(Diverged, match="loss term 'total' is not finite"):
        divergence.Watch(["l1", "total"], 100.0).add(2, torch.tensor([1.0, math.inf]))


def test_bad_weights_are_named() -> None:
    layer = nn.Linear(2, 2)
    divergence.check_weights(layer, 3)
    with torch.no_grad():
        layer.bias[1] = math.nan
    with pytest.raises(Diverged, match="step 3: weights of 'bias'"):
        divergence.check_weights(layer, 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_handlers_are_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with session.Stop() as stop:
        assert not stop.asked(MACHINE)
        os.kill(os.getpid(), number)
        assert stop.asked(MACHINE) and stop.name == number.name
    assert signal.getsignal(number) is before


def start(**changes: object) -> compute.Machine:
    """The machine that settings describe."""
    return compute.start(read(SuperResolution, sr(**changes)))


@pytest.mark.parametrize(
    ("abilities", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, "fp32"),
        ({}, "fp32"),  # another architecture
    ],
)
def test_a_cpu_that_has_bf16_uses_it(
    monkeypatch: pytest.MonkeyPatch, abilities: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert start(device="cpu").precision == precision
    assert start(device="cpu", precision="fp32").precision == "fp32"


def test_precision_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert start().dtype == torch.float32 and not start().bf16  # a CPU without bf16
    assert [start(precision=name).precision for name in ("fp32", "bf16", "fp64")] == [
        "fp32",
        "bf16",
        "fp64",
    ]
    assert start(precision="bf16").bf16
    assert start(precision="fp64").dtype == torch.float64
    assert not start(channels_last="off").channels_last
    layer = start(precision="fp64").place(nn.Conv2d(4, 4, 3))
    assert layer.weight.dtype == torch.float64
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    with start(precision="bf16").autocast():
        assert nn.Linear(2, 2)(torch.rand(1, 2)).dtype == torch.bfloat16


def test_devices_by_name() -> None:
    with pytest.raises(UserError, match="abacus"):
        start(device="abacus")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert compute.device_for("auto").type == "cpu"
    with pytest.raises(UserError, match="no GPU"):
        compute.device_for("cuda")


@pytest.mark.parametrize(
    "name",
    ["mps", "mps:0", "xpu", "meta", "hpu", "vulkan", "mkldnn", "privateuseone", "cpu:1", "CPU", "",
     "cuda:-1", "gpu", "0", "cuda:99"],
)  # fmt: skip
def test_line_12_a_device_that_nothing_here_runs_on(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 2), np.float32), np.eye(4)), scan)
    words = ["enhance", str(scan), str(tmp_path / "out.nii"), "--model", "bicubic", "--scale", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mrsr", *words, "--device", name])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1
    assert (told.startswith("mrsr: error: device ") and "use auto" in told) or "torch sees" in told
    assert not (tmp_path / "out.nii").exists()


def test_the_batch_divides_among_processes() -> None:
    pair = compute.Machine(torch.device("cpu"), world=2)
    assert compute.share(8, pair) == 4
    with pytest.raises(UserError, match="does not divide"):
        compute.share(7, pair)


def test_clock() -> None:
    assert [clock(s) for s in (0, 61, 3661.9, -5)] == ["0:00:00", "0:01:01", "1:01:01", "0:00:00"]
