"""What only a GPU can show: `make gpu` runs this first, in at most a minute.

Needs pytest without plugins, torch, numpy, h5py and scikit-image; see conftest.py.
"""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from mrsr import compute, models
from mrsr.errors import Interrupted
from mrsr.metrics import definitions
from mrsr.params.jobs import SuperResolution, preset
from mrsr.params.typed import build
from mrsr.slices import batches
from mrsr.training import train_sr, validation
from mrsr.training.session import Session

pytestmark = pytest.mark.gpu
OPTIONS = {"features": 16, "blocks": 2, "norm": "none", "skip": "bicubic"}


def settings(device: str, **changes: Any) -> SuperResolution:
    """A training of a few steps."""
    table = {
        "experiment": "gpu", "dataset": "toy", "scale": 2, "method": "srresnet",
        "degradation": "bicubic", "model": {"name": "srresnet", "options": OPTIONS},
        "losses": {"l1": 1.0}, "steps": 8, "batch": 4, "patch": 32, "validation_slices": 4,
        "validate_every": 4, "checkpoint_every": 2, "log_every": 2, "device": device,
        "precision": "fp32", "optimizer": {"lr": 1e-3, "weight_decay": 0.0}, "schedule": {},
        "tracking": {"enabled": False},
    }  # fmt: skip
    return build(SuperResolution, {**table, **changes})


def network(machine: compute.Machine) -> torch.nn.Module:
    """The same weights every time."""
    torch.manual_seed(0)
    return machine.place(models.build("srresnet", 2, OPTIONS)).eval()


def images(machine: compute.Machine) -> torch.Tensor:
    """LR images (4, 1, 24, 32)."""
    torch.manual_seed(1)
    return torch.rand(4, 1, 24, 32).to(machine.device, machine.dtype)


@torch.no_grad()
def test_bf16_is_chosen_and_gives_the_same_images(device: str) -> None:
    half = compute.start(settings(device, precision="auto"))
    assert half.bf16 == compute.has_bf16(half.device)
    full = compute.start(settings(device))
    assert not full.bf16
    exact = network(full)(images(full))
    with torch.autocast(full.device.type, torch.bfloat16):
        rough = network(full)(images(full)).float()
    error = (rough - exact).square().mean().item()
    assert error > 0 and 10 * math.log10(1 / error) > 40  # dB


@torch.no_grad()
def test_channels_last_is_a_layout_and_no_other_result(device: str) -> None:
    plain = compute.start(settings(device, channels_last="off"))
    last = compute.start(settings(device, channels_last="on"))
    one, two = network(plain), network(last)
    weights = [p for p in two.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        difference = (one(images(plain)) - two(images(last))).abs().max()
    assert difference < 1e-4


def test_batches_are_on_the_device_and_those_of_the_cpu(
    device: str, stores: dict[str, Path]
) -> None:
    found = {}
    for name in {device, "cpu"}:
        chosen = settings(name)
        machine = compute.start(chosen)
        slices = batches.load_for(chosen, stores["train"], machine, None)
        drawn = [batches.draw(slices, chosen, step, machine) for step in (1, 2, 7)]
        assert all(image.device.type == machine.device.type for pair in drawn for image in pair)
        found[name] = drawn
    for ours, theirs in zip(found[device], found["cpu"], strict=True):
        assert all(torch.allclose(a.cpu(), b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def test_metrics_of_the_device_are_scikit_images(device: str, stores: dict[str, Path]) -> None:
    """The PSNR that validation computes on the device, and ours of evaluations on the CPU."""
    chosen = settings(device, validation_slices=0)
    machine = compute.start(chosen)
    held = validation.held_out(chosen, stores, machine, None)["test"]
    bicubic = models.build("bicubic", 2, {}).to(machine.device)
    told = validation.evaluate(bicubic, held, machine, chosen, {"l1": 1.0})["psnr"]
    pairs = [
        (bicubic(lr).cpu().numpy(), hr.cpu().numpy()) for _, lr, hr in batches.whole(held, batch=4)
    ]
    made, true = (np.concatenate(part)[:, 0] for part in zip(*pairs, strict=True))
    each = [
        peak_signal_noise_ratio(t, m, data_range=t.max()) for t, m in zip(true, made, strict=True)
    ]
    assert told == pytest.approx(np.mean(each), abs=0.05)
    ours = definitions.per_slice(made, true, preset("slice"))["psnr"]
    assert np.mean(ours) == pytest.approx(np.mean(each), abs=0.05)


def test_a_training_learns_and_resumes(
    device: str, stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after four steps and started again, it ends where the undisturbed one does."""
    chosen = settings(device)
    train_sr.train(chosen, stores, tmp_path / "whole/best.pt", {})
    original, calls = Session.add, []

    def add(session: Session, *given: Any) -> None:
        calls.append(session.step)
        if calls == [1, 2, 3, 4]:
            os.kill(os.getpid(), signal.SIGTERM)
        original(session, *given)

    monkeypatch.setattr(Session, "add", add)
    with pytest.raises(Interrupted):
        train_sr.train(chosen, stores, tmp_path / "broken/best.pt", {})
    train_sr.train(chosen, stores, tmp_path / "broken/best.pt", {})
    assert calls == list(range(1, 9))
    one, two = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["weights"]
        for name in ("whole", "broken")
    )
    for name, weight in one.items():  # a GPU may add in another order
        assert torch.allclose(weight, two[name], atol=1e-4), name


def test_compiled_networks_compute_the_same(device: str) -> None:
    """Last, because it takes longest."""
    if device == "cpu":
        pytest.skip("torch.compile needs a compiler on a CPU, and minutes")
    machine = compute.start(settings(device))
    plain = network(machine)
    compiled = torch.compile(plain)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        difference = (plain(images(machine)) - compiled(images(machine))).abs().max()
    assert difference < 1e-3
