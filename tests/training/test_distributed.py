"""Several processes are one training: `pytest tests/training/test_distributed.py`, also `-m slow`.

Same weights with two processes as with one. What starts and stops them is in test_launch.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import builders
from builders import command, lines, metrics, weights
from mrsr import compute
from mrsr.training import train_autoencoder, train_sr, train_vit

FP64: dict[str, Any] = {"precision": "fp64", "steps": 20, "validate_every": 20, "log_every": 5}
MODULES = {module.__name__: module for module in (train_sr, train_autoencoder, train_vit)}
Job = tuple[str, list[str]]  # a module and its arguments


@pytest.mark.parametrize(("device", "world", "kind"), [
    ("cuda", 2, nn.SyncBatchNorm), ("cuda", 1, nn.BatchNorm2d), ("cpu", 2, nn.BatchNorm2d),
])  # fmt: skip
def test_batch_norm_over_all_gpus(device: str, world: int, kind: type[nn.Module]) -> None:
    machine = compute.Machine(torch.device(device), world=world)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    keys = list(network.state_dict())
    network = compute.synchronised(network, machine)
    assert type(network[1]) is kind
    assert list(network.state_dict()) == keys  # a checkpoint fits either


def test_a_lost_process_is_one_line() -> None:
    with pytest.raises(compute.LostProcess, match=r"is gone \(closed by peer\)"), compute.meeting():
        raise RuntimeError("closed by peer\nand a long trace")
    compute.wait(compute.Machine(torch.device("cpu")))  # alone: nobody to wait for


# several trainings one after the other: torch is imported once
RANK = """
import importlib, json, os, sys
for port, module, arguments in json.load(open(sys.argv[1])):
    os.environ["MASTER_PORT"] = str(port)
    importlib.import_module(module).main(arguments)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def in_two(folder: Path, *jobs: Job) -> None:
    """Run trainings (module, arguments) in two processes."""
    file = folder / "jobs.json"
    file.write_text(json.dumps([(free_port(), *job) for job in jobs]))
    here = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(file)],
            env=os.environ | here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)


def close(one: Path, two: Path) -> None:
    """Assert the same training by one process and by two: weights, terms and gradients."""
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=1e-6, msg=key)
    log = [lines(out) for out in (one, two)]
    assert [line.get("step") for line in log[1]] == [line.get("step") for line in log[0]]
    assert log[1][0]["provenance"]["processes"] == 2
    for step, found in metrics(one).items():
        other = metrics(two)[step]
        found.pop("images_per_second", None), other.pop("images_per_second", None)
        assert other == pytest.approx(found, rel=1e-4, abs=1e-7)
    assert sorted(path.name for path in two.iterdir()) == ["best.pt", "last.pt", "log.jsonl"]


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_two_processes_end_as_one(stores: Path, tmp_path: Path, optimizer: str) -> None:
    """The quickest training; the others are slow."""
    table = builders.sr(precision="fp64", steps=4)
    table["optimizer"] = {**table["optimizer"], "name": optimizer}
    train_sr.main(command(stores, tmp_path / "one", table))
    in_two(tmp_path, (train_sr.__name__, command(stores, tmp_path / "two", table)))
    close(tmp_path / "one", tmp_path / "two")


def every_training(stores: Path, folder: Path, frozen: dict[str, Path], out: str) -> list[Job]:
    """Of each kind, without batch norm, which sees a process's own part."""
    networks = [text for name, path in frozen.items() for text in (f"--{name}", str(path))]
    losses = dict.fromkeys(("l1", "adversarial", "vit", "structure", "texture"), 1.0)
    eq9 = builders.sr(
        **FP64, losses=losses,
        adversarial={"base": 2, "norm": "none", "warmup": 2, "r1": 0.5}, clip_gradient=1.0,
        features={"validation_patches": 3, "gradient_norms_every": 5},
    )  # fmt: skip
    shapes = {"vit": builders.FROZEN_VIT, "autoencoder": builders.FROZEN_CODER}
    options = {"features": 8, "blocks": 1, "width": 4, **shapes}
    fused = builders.sr(**FP64, model={"name": "fused", "options": options})
    coder = builders.autoencoder(**FP64, micro_batch=0, discriminator={"norm": "none"})
    start = ["--start", str(folder / "vit/seg/one/best.pt")]

    def vit(name: str, table: dict[str, Any], *more: str) -> Job:
        organs = builders.command(
            stores / "organs", folder / "vit" / name / out, table, *more, kinds=("brain", "knee")
        )
        return train_vit.__name__, organs

    return [
        (train_sr.__name__, command(stores, folder / "sr/l1" / out, builders.sr(**FP64))),
        (train_sr.__name__, command(stores, folder / "sr/eq9" / out, eq9, *networks)),
        (train_sr.__name__, command(stores, folder / "sr/fused" / out, fused, *networks)),
        (train_autoencoder.__name__, command(stores / "ae", folder / "ae" / out, coder)),
        vit("seg", builders.segmentation(**FP64)),
        vit("organ", builders.pretext("organ", **FP64), *start),
        vit("masked", builders.pretext("masked", **FP64), *start),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, frozen: dict[str, Path]) -> Path:
    """Every training twice: by one process in `NAME/one`, by two in `NAME/two`."""
    folder = tmp_path_factory.mktemp("two")
    stores = builders.toy_stores(folder / "stores")
    builders.toy_stores(stores / "ae", (4, 48, 48), (4, 64, 64))
    builders.organ_stores(stores / "organs")
    for name, arguments in every_training(stores, folder, frozen, "one"):
        MODULES[name].main(arguments)
    in_two(folder, *every_training(stores, folder, frozen, "two"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sr/l1", "sr/eq9", "sr/fused", "ae", "vit/seg", "vit/organ", "vit/masked"]
)
def test_two_processes_end_with_the_weights_of_one(trained: Path, name: str) -> None:
    close(trained / name / "one", trained / name / "two")
