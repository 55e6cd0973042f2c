"""The paper experiment's networks at full size, one step each: `pytest -m slow -s` on this file.

Settings are those of `experiment=paper`; only how long and on how much is trained is cut down.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from mrsr.params import loading
from mrsr.params.typed import plain

LIMIT = 12e9  # bytes
# a step of everything: two (the auto-encoder, which pairs images: four) images, accumulated
SHORT = {
    "steps": 1, "batch": 2, "micro_batch": 1, "validate_every": 1, "checkpoint_every": 1,
    "log_every": 1, "device": "cpu", "threads": 1, "tracking": {"enabled": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Gone after the tests: checkpoints and states of full size are gigabytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write_store(path: Path, shape: tuple[int, int, int], organ: str, labels: bool = False) -> Path:
    """One volume of int16: a ball with a smooth texture; labels are its shells, 0 to 4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.meshgrid(*(np.linspace(-0.8, 0.8, n, dtype=np.float32) for n in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in grid))
    waves = 1 + 0.3 * np.sin(40 * grid[1]) * np.cos(30 * grid[2])
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset="toy", organ=organ, contrast="PD", split="train")
        file.attrs.update(settings="{}", digest=f"{organ}{shape}")
        group = file.create_group("volumes/0000")
        group.attrs.update(subject="s0", visit="", path="s.nii.gz", slope=1.0, intercept=0.0)
        group.attrs.update(scale=1000.0, slice_index=list(range(shape[0])), affine=np.eye(4))
        group.attrs.update(voxel_size=[1.0, 1.0, 1.0])
        group["data"] = (900 * (radius < 0.9) * waves).astype("int16")
        if labels:
            group["labels"] = (np.clip(5 - radius / 0.2, 0, 4)).astype("uint8")
    return path


def train(module: str, settings: dict[str, Any], out: Path, *arguments: Any) -> None:
    """Run a training command; prints its time, its peak memory and what it saved."""
    out.parent.mkdir(parents=True)
    command = [sys.executable, "-m", f"mrsr.training.{module}", "--settings", json.dumps(settings)]
    began = time.monotonic()
    with open(out.parent / "messages", "w+") as messages:
        job = subprocess.Popen(
            [*command, *map(str, arguments), "--out", str(out)],
            stdout=messages, stderr=messages, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            _, status, usage = os.wait4(job.pid, 0)  # what this process used, and no other
        except BaseException:  # such as the test's time limit
            job.kill()
            job.wait()
            raise
        job.returncode = os.waitstatus_to_exitcode(status)
        messages.seek(0)
        assert job.returncode == 0, messages.read()
    peak = usage.ru_maxrss * 1024
    # mapped, not read: what this process holds in memory counts into the peak of the next
    saved = torch.load(out, mmap=True, weights_only=True)["weights"]
    count = sum(weights.numel() for weights in saved.values())
    del saved
    print(
        f"\n{out.parent.name}: {count / 1e6:.2f} M parameters, peak {peak / 1e9:.2f} GB, "
        f"{time.monotonic() - began:.0f} s",
        end="",
    )
    assert peak < LIMIT
    lines = [json.loads(line) for line in (out.parent / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line.get("split") == "train"]
    assert steps and all(math.isfinite(v) for line in steps for v in line["metrics"].values())
    for name in ("last.pt", "resume.pt"):  # as large as best.pt; later steps do not need them
        (out.parent / name).unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of computing; but beside other jobs a core is rarely free
def test_every_training_takes_a_step_at_full_size(folder: Path, root: Path) -> None:
    paper = loading.load(root / "params.yaml", "paper")
    slices = {
        organ: [
            write_store(folder / organ / f"{split}.h5", (count, side, side), organ)
            for split, count in (("train", 6), ("validation", 2))
        ]
        for organ, side in (("brain", 240), ("knee", 320))
    }
    brain = ["--train", slices["brain"][0], "--validation", slices["brain"][1]]
    vit, organ, codes = (
        folder / name / "best.pt" for name in ("segmentation", "organ", "autoencoder")
    )

    settings = plain(paper.segmentation())
    assert settings["network"]["size"] == [96, 96, 96] and settings["network"]["layers"] == 12
    stores = [
        "--train", write_store(folder / "labelled.h5", (96, 240, 240), "brain", labels=True),
        # four windows, as many as the sliding window takes at once
        "--validation", write_store(folder / "held.h5", (96, 144, 144), "brain", labels=True),
    ]  # fmt: skip
    train("train_vit", settings | SHORT, vit, *stores)
    print(" (UNETR; paper: 92.58 M)", end="")

    stores = [
        *("--train", *(pair[0] for pair in slices.values())),
        *("--validation", *(pair[1] for pair in slices.values())),
    ]
    settings = plain(paper.pretext(paper.params.vit.pretext))
    settings["degradations"] = {"toy": "bicubic"}  # what the stores here are of
    train("train_vit", settings | SHORT, organ, *stores, "--start", vit)
    print(" (its encoder in 2D; paper: 93.4 M, with what is not said)", end="")
    vit.unlink()

    settings = plain(paper.autoencoder("ixi_pd", 2))
    assert settings["network"]["size"] == 256 and settings["patch"] == 0  # whole slices
    train("train_autoencoder", settings | SHORT | {"batch": 4, "micro_batch": 2}, codes, *brain)

    settings = plain(paper.super_resolution("ixi_pd", 2, "proposed"))
    assert settings["model"]["options"]["blocks"] == 16
    settings["features"] |= {"validation_patches": 1, "gradient_norms_every": 1}
    settings["adversarial"] |= {"warmup": 0}  # or the discriminator would wait
    settings |= SHORT | {"patch": 240, "validation_slices": 1}
    frozen = ["--vit", organ, "--autoencoder", codes]
    train("train_sr", settings, folder / "proposed" / "best.pt", *brain, *frozen)
    text = (folder / "proposed" / "log.jsonl").read_text()
    for term in ("l1", "adversarial", "vit", "structure", "texture"):
        assert f'"gradient/{term}"' in text
    assert '"accuracy_fake"' in text
