"""What several tests share: tiny stores, settings and frozen networks, and what trainings leave.

Settings are tables, as a job finds them in its JSON: `sr(steps=2)`, `evaluation()`, and so on.
`read` makes a job of one, `command` the arguments of a training. Changes of the tables named in
`MERGED` are merged into the tiny ones, all others replace them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pytest
import torch
import typer
import yaml
from torch import Tensor

from mrsr import checkpoint, cli, models
from mrsr.commands.options import alone
from mrsr.errors import UserError
from mrsr.params import jobs, loading, schema
from mrsr.params.experiment import Resolved
from mrsr.params.schema import SPLITS
from mrsr.params.typed import plain
from mrsr.training.session import Session
from project import ROOT

T = TypeVar("T")
Table = dict[str, Any]

# --- slice stores ---------------------------------------------------------------------------------


def write_store(
    path: Path,
    volumes: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] = (),
    each: Sequence[Table] = (),
    **about: object,
) -> Path:
    """A slice store as `slicing.py` writes it.

    volumes: (slices, height, width) each. labels: of the same shapes. each: attributes of the
    volumes that differ from the usual ones. about: likewise of the store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset="toy", organ="brain", contrast="T1", split=path.stem)
        file.attrs.update({"settings": "{}", "digest": ""} | about)
        for number, data in enumerate(volumes):
            group = file.create_group(f"volumes/{number:04d}")
            group.create_dataset("data", data=data, chunks=(1, *data.shape[1:]))
            if len(labels):
                group["labels"] = labels[number]
            group.attrs.update(subject=f"s{number}", visit="", path=f"s{number}.nii", slope=1.0)
            group.attrs.update(intercept=0.0, scale=float(np.abs(data).max()), affine=np.eye(4))
            group.attrs.update(slice_index=np.arange(len(data)), voxel_size=[1.0, 1.0, 1.0])
            group.attrs.update(each[number] if each else {})
    return path


def discs(seed: int, *shapes: tuple[int, int, int]) -> list[np.ndarray]:
    """Volumes of overlapping discs and stripes, float32: smooth, with edges."""
    rng = np.random.default_rng(seed)
    volumes = []
    for shape in shapes:
        y, x = np.mgrid[: shape[1], : shape[2]] / shape[1]
        volume = np.zeros(shape, dtype="float32")
        for image in volume:
            for _ in range(6):
                cy, cx, radius = [*rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.3)]
                image += rng.uniform(0.2, 1.0) * (np.hypot(y - cy, x - cx) < radius)
            image += 0.3 * np.sin(20 * x * rng.uniform(0.5, 1.5)) ** 2
        volumes.append(volume)
    return volumes


def noise(seed: int, *shapes: tuple[int, int, int], dtype: str = "int16") -> list[np.ndarray]:
    """Volumes of independent voxels, 0 to 1000, with phases where the type has them."""
    rng = np.random.default_rng(seed)
    volumes = [rng.random(shape) * 1000 for shape in shapes]
    if np.dtype(dtype).kind == "c":
        volumes = [data * np.exp(6j * rng.random(data.shape)) for data in volumes]
    return [data.astype(dtype) for data in volumes]


def toy_stores(folder: Path, *shapes: tuple[int, int, int]) -> Path:
    """Stores of discs, train.h5, validation.h5 and test.h5; six slices of 32x32 by default."""
    for seed, split in enumerate(SPLITS):
        volumes = discs(seed, *(shapes or ((6, 32, 32),)))
        write_store(folder / f"{split}.h5", volumes, digest=f"toy{seed}")
    return folder


def organ_store(
    path: Path, seed: int, organ: str, size: tuple[int, int] = (36, 34), *, labels: bool = True
) -> Path:
    """Two volumes of 18 slices: bright balls (brain) or stripes, labelled. Dataset: toy_<organ>."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:18, : size[0], : size[1]]
    shapes = []
    for number in range(2):
        centre = rng.uniform([8, 14, 14], [10, 20, 20])
        ball = np.hypot(np.hypot(z - centre[0], y - centre[1]), x - centre[2]) < 9
        shapes.append(ball if organ == "brain" else (y + number) % 6 < 3)
    images = [(shape + 0.1 * rng.random(shape.shape)).astype("float32") for shape in shapes]
    truth = [shape.astype("uint8") for shape in shapes] if labels else []
    about = {"dataset": f"toy_{organ}", "organ": organ, "digest": f"{organ}{seed}"}
    return write_store(path, images, truth, [{"scale": 1.0}] * 2, **about)


def organ_stores(folder: Path) -> Path:
    """Stores of labelled brains and of knees without labels: brain/train.h5, ..., knee/test.h5."""
    for organ in ("brain", "knee"):
        for seed, split in enumerate(SPLITS):
            path = folder / organ / f"{split}.h5"
            organ_store(path, seed + 1, organ, labels=organ == "brain")
    return folder


# --- settings -------------------------------------------------------------------------------------

MERGED = {
    *("optimizer", "schedule", "adversarial", "features", "discriminator", "network", "preset"),
    *("split", "normalise"),
}
_RUN: Table = {"experiment": "toy", "device": "cpu", "tracking": {"enabled": False}}
_LOOP: Table = _RUN | {
    **{"steps": 10, "batch": 4, "validate_every": 5, "checkpoint_every": 2, "log_every": 1},
    **{"optimizer": {"lr": 1e-3, "weight_decay": 0.1}, "schedule": {"warmup": 2}},
}
_SRRESNET = {"features": 8, "blocks": 1, "norm": "none", "skip": "bicubic"}
_CELL: Table = {"dataset": "toy", "scale": 2, "degradation": "bicubic"}
VIT = {
    **{"hidden": 12, "layers": 2, "heads": 2, "mlp": 16, "patch": 16, "size": [16, 32, 32]},
    "feature_size": 2,
}

# shapes of the networks that `write_frozen` writes
FROZEN_VIT = {
    **{"hidden": 16, "layers": 2, "heads": 2, "mlp": 32, "size": [16, 32, 32]},
    "feature_size": 2,
}
FROZEN_CODER: Table = {"structure_channels": 2, "texture": 8, "size": 0, "channels": [4, 4, 4, 4]}


def _merged(table: Table, changes: Mapping[str, Any]) -> Table:
    """A table of settings of its own with `changes`; see the module's docstring."""
    result = json.loads(json.dumps(table))
    for key, value in changes.items():
        both = key in MERGED and isinstance(value, Mapping)
        result[key] = {**(result.get(key) or {}), **value} if both else value
    return result


def sr(**changes: Any) -> Table:
    """A super-resolution training of a second."""
    table = _LOOP | _CELL | {
        "method": "srresnet", "model": {"name": "srresnet", "options": _SRRESNET},
        "losses": {"l1": 1.0}, "patch": 16, "validation_slices": 2,
    }  # fmt: skip
    return _merged(table, changes)


def own(**changes: Any) -> Table:
    """A training of type self, on each volume of a test store."""
    given = {
        "method": "own", "type": "self", "steps": 4,
        "model": {"name": "srcnn", "options": {"features": [4, 2]}},
        "batch": 2, "patch": 8, "checkpoint_every": 3, "log_every": 3,
    }  # fmt: skip
    return sr(**_merged(given, changes))


def autoencoder(**changes: Any) -> Table:
    """An auto-encoder's training of a second, its discriminator from the third step on."""
    weights = {"reconstruction": 1, "adversarial": 0.7, "swap": 0.7, "patch_swap": 0.5}
    table = _LOOP | _CELL | {
        "network": {"structure_channels": 2, "texture": 16, "size": 0, "channels": [8, 8, 4, 4]},
        "weights": {**weights, "consistency": 0.1}, "intensity_range": 255, "patch_n": 12,
        "discriminator": {"base": 4, "crop": 32, "warmup": 2}, "steps": 8, "micro_batch": 2,
        "optimizer": {"lr": 1e-3, "weight_decay": 0}, "validate_every": 4, "validation_slices": 0,
        "gradient_norms_every": 4,
    }  # fmt: skip
    return _merged(table, changes)


def segmentation(**changes: Any) -> Table:
    """A 3D pre-training of the vision transformer."""
    table = _LOOP | {
        "network": VIT, "classes": 2, "steps": 4, "batch": 2, "checkpoint_every": 1,
        "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01},
        "schedule": {"kind": "constant"}, "validate_every": 4, "validation_volumes": 1,
    }  # fmt: skip
    return _merged(table, changes)


def pretext(task: str = "organ", **changes: Any) -> Table:
    """A pretext task of the vision transformer, on the datasets toy_brain and toy_knee."""
    table = segmentation(batch=4)
    for name in ("network", "classes"):
        del table[name]
    table |= {
        "phase": "pretext", "pretext": task, "mask_ratio": 0.5, "temperature": 0.1, "scales": [2],
        "degradations": {"toy_brain": "bicubic", "toy_knee": "kspace"},
    }  # fmt: skip
    return _merged(table, changes)


def evaluation(**changes: Any) -> Table:
    """An evaluation of bicubic interpolation."""
    table = _RUN | _CELL | {
        "method": "bicubic", "label": "Bicubic", "model": {"name": "bicubic"},
        "preset": plain(preset("slice")), "bootstrap": {"samples": 200}, "batch": 2,
    }  # fmt: skip
    return _merged(table, changes)


def read(kind: type[T], table: Table) -> T:
    """A job of its table."""
    return jobs.read(kind, json.dumps(table))


def preset(name: str, **changes: Any) -> jobs.Preset:
    """A metric convention of the schema with its name, and with changes."""
    return read(jobs.Preset, plain(schema.PRESETS[name]) | {"name": name} | changes)


# --- trainings ------------------------------------------------------------------------------------


def command(
    stores: Path, out: Path, table: Table, *more: str, kinds: Sequence[str] = ("",)
) -> list[str]:
    """Arguments of a training on the stores in a folder; kinds: its subfolders, for the ViT's."""
    arguments = ["--settings", json.dumps(table), "--out", str(out / "best.pt"), *more]
    for split in SPLITS:
        arguments += [f"--{split}", *(str(stores / kind / f"{split}.h5") for kind in kinds)]
    return arguments


def write_frozen(folder: Path) -> dict[str, Path]:
    """Checkpoints of a tiny vision transformer and a tiny auto-encoder, by name."""
    vit = FROZEN_VIT | {"dimensions": 2}
    coder = FROZEN_CODER
    paths = {}
    for number, (name, model, options) in enumerate(
        (("vit", "unetr", vit), ("autoencoder", "autoencoder", coder))
    ):
        torch.manual_seed(100 + number)
        # away from the start, where a code may hardly depend on the image
        network = models.build(model, 2, options).state_dict()
        network = {key: value + 0.3 * torch.randn_like(value) for key, value in network.items()}
        paths[name] = save(folder / f"{name}.pt", model, options, network)
    return paths


def save(
    path: Path, name: str, options: Table, weights: Mapping[str, Tensor] | None = None, **more: Any
) -> Path:
    """A checkpoint of a network, at scale 2 unless told otherwise; without weights, of seed 0."""
    given = {"scale": 2, "settings": {}, "provenance": {}} | more
    if weights is None:
        torch.manual_seed(0)
        weights = models.build(name, given["scale"], options).state_dict()
    checkpoint.save(path, model_name=name, options=options, weights=weights, **given)
    return path


def lines(folder: Path) -> list[Table]:
    """A training's log, parsed."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def metrics(folder: Path, split: str = "train") -> dict[int, Table]:
    """What the log says of a split, by step."""
    return {line["step"]: line["metrics"] for line in lines(folder) if line.get("split") == split}


def curve(folder: Path, split: str, name: str) -> list[float]:
    """One metric of one split over the steps."""
    return [found[name] for found in metrics(folder, split).values()]


def weights(folder: Path, name: str = "last.pt") -> dict[str, Tensor]:
    """The weights that a training left."""
    return checkpoint.load(folder / name).weights


def equal(one: Path, two: Path, name: str = "last.pt") -> bool:
    """Whether two trainings left the same weights, bit for bit."""
    first, second = weights(one, name), weights(two, name)
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )


def same(one: Path, two: Path) -> None:
    """Assert equal weights bit for bit, equal logs but for the clock, and no state left over."""
    assert equal(one, two, "best.pt") and equal(one, two)
    assert timeless(one) == timeless(two)
    assert not list(one.glob("resume*")) and not list(one.glob(".tmp-*"))


def timeless(folder: Path) -> list[Table]:
    """The log without what a clock says."""
    found = lines(folder)
    for line in found:
        for key in ("time", "cpu", "seconds"):
            line.pop(key, None)
        line.get("metrics", {}).pop("images_per_second", None)
        line.get("provenance", {}).pop("commit", None)  # somebody may commit meanwhile
    return found


def in_step(patch: pytest.MonkeyPatch, step: int, how: Callable[[], object]) -> None:
    """`how` is called once in a training's step, after backward and before the optimizer's step."""
    original, left = Session.add, [step]

    def add(session: Session, *given: Any) -> None:
        if session.step in left:
            left.clear()
            how()
        original(session, *given)

    patch.setattr(Session, "add", add)


def at_step(folder: Path, step: int, job: subprocess.Popen[Any]) -> None:
    """Wait until the log of a running training has reached a step."""
    log = folder / "log.jsonl"
    for _ in range(20_000):
        text = log.read_text() if log.exists() else ""
        whole = [json.loads(line) for line in text.splitlines(True) if line[-1] == "\n"]
        if whole and max(line.get("step", 0) for line in whole) >= step:
            return
        assert job.poll() is None, "the training ended before it could be stopped"
        time.sleep(0.003)
    raise AssertionError("the training did not start")


# --- params.yaml and experiments ------------------------------------------------------------------

EXPERIMENTS = loading.names(ROOT / "params.yaml")


@functools.cache
def _parsed() -> dict[str, Table]:
    files = {name: loading.experiment_file(ROOT / "params.yaml", name) for name in EXPERIMENTS}
    return {name: loading.read_yaml(file) for name, file in files.items()} | {
        "params": loading.read_yaml(ROOT / "params.yaml")
    }


def parameters(*names: str) -> dict[str, Table]:
    """This project's params.yaml and experiments as tables of one's own: `params`, `demo`, ..."""
    return copy.deepcopy({name: _parsed()[name] for name in ("params", *names)})


def write_parameters(folder: Path, tables: Mapping[str, Table]) -> Path:
    """Write them as a project has them, its sizes too; the path of params.yaml."""
    (folder / loading.EXPERIMENTS).mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / loading.SIZES, folder / loading.SIZES, dirs_exist_ok=True)
    for name, table in tables.items():
        file = folder / ("" if name == "params" else loading.EXPERIMENTS) / f"{name}.yaml"
        dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        file.write_text(yaml.dump(table, Dumper=dumper, sort_keys=False))
    return folder / "params.yaml"


def load(folder: Path, tables: Mapping[str, Table], experiment: str | None = None) -> Resolved:
    """An experiment, resolved from tables that are written into a folder."""
    return loading.load(write_parameters(folder, tables), experiment)


def refused(folder: Path, tables: Mapping[str, Table], experiment: str | None = None) -> str:
    """The line by which loading them is refused; paths in it are relative to the folder."""
    with pytest.raises(UserError) as caught:
        load(folder, tables, experiment)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def put(table: Any, path: str, value: Any) -> None:
    """Set what lies under a path such as "grid 0 scales"; tables on the way are made."""
    *parts, last = path.split()
    for part in parts:
        table = table[int(part)] if isinstance(table, list) else table.setdefault(part, {})
    table[last] = value


# --- records for MLflow ---------------------------------------------------------------------------


def log_lines(steps: Iterable[int], when: float = 1000.0) -> list[Table]:
    """The log of a training as far as some steps, which lasted a second each."""
    settings = sr(experiment="demo", dataset="phantom_t1", method="srcnn", losses={"l2": 1.0})
    settings["model"] = {"name": "srcnn", "options": {}}
    start = {"event": "start", "time": 1000.0, "settings": settings, "digest": "abc"}
    found: list[Table] = [start | {"provenance": {"commit": "c0ffee"}}]
    for step in steps:
        train = {"total": 1.0 / step, "lr": 1e-3, "odd": None}
        found.append({"time": when + step, "step": step, "split": "train", "metrics": train})
        if step % 2 == 0:
            held_out = {"split": "validation", "metrics": {"psnr": 30.0 + step}}
            found.append({"time": when + step, "step": step} | held_out)
    return found


def write_training(folder: Path, log: list[Table], *, end: bool = False, tail: str = "") -> Path:
    """The folder of a training with this log; end: it is complete. tail: half a line."""
    folder.mkdir(parents=True, exist_ok=True)
    if end:
        log = [*log, {"event": "end", "time": 1100.0, "seconds": 100.0}]
        (folder / "best.pt").write_bytes(b"weights")
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log) + tail)
    return folder


def record(method: str = "bicubic", scale: int = 2, psnr: float = 31.123456789012345) -> Table:
    """What an evaluation of 400 subjects found: too long for one tag of MLflow."""
    subjects = [f"subject-{number:04d}" for number in range(400)]
    return {
        "format": 1, "experiment": "demo", "dataset": "phantom_t1", "scale": scale,
        "method": method, "preset": plain(preset("slice")), "subjects": subjects,
        "n_subjects": 400, "n_slices": 999, "interval": "95 %", "settings_digest": "def",
        "psnr": {"mean": psnr, "low": psnr - 1 / 3, "high": psnr + 0.1},
        "ssim": {"mean": 0.9, "low": None, "high": None},
        "nmse": {"mean": 1 / 300, "low": None, "high": None}, "seconds_per_slice": 0.1,
        "parameters": 8129, "steps": 6, "patches": 96, "commit": "c0ffee",
        "per_subject": {
            name: {"psnr": 1.0 * number, "ssim": 0.9, "nmse": 1 / 300}
            for number, name in enumerate(subjects)
        },
    }  # fmt: skip


def write_evaluation(folder: Path, value: Table) -> Path:
    """The files of an evaluation under the results of an experiment; its JSON."""
    file = folder / "metrics" / "phantom_t1" / f"x{value['scale']}" / f"{value['method']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    file.with_suffix(".csv").write_text("psnr\n1\n")
    return file


# --- sources --------------------------------------------------------------------------------------

KNEE_HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>63000000</H1resonanceFrequency_Hz>
</experimentalConditions>
<encoding>
<encodedSpace><matrixSize><x>12</x><y>8</y><z>1</z></matrixSize>
<fieldOfView_mm><x>12</x><y>8</y><z>4.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>6</x><y>6</y><z>1</z></matrixSize>
<fieldOfView_mm><x>6</x><y>6</y><z>4.5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>7</maximum>
<center>4</center></kspace_encoding_step_1></encodingLimits>
<trajectory>cartesian</trajectory>
</encoding>
</ismrmrdHeader>"""


def write_knee(path: Path, acquisition: str, person: str, slices: int = 3, size: int = 8) -> None:
    """One knee in fastMRI's single-coil layout."""
    random = np.random.default_rng(zlib.crc32(path.stem.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    kspace = random.normal(size=(slices, 12, size, 2)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.view(np.complex64)[..., 0]
        file["ismrmrd_header"] = KNEE_HEADER
        file.attrs["acquisition"] = acquisition
        file.attrs["patient_id"] = person
        file.attrs["max"] = 1.0


def write_knees(folder: Path, first: int, people: int, size: int = 8) -> None:
    """`people` persons with a PD and an FS-PD file each."""
    for person in range(people):
        number = first + 2 * person
        write_knee(folder / f"file{number}.h5", "CORPD_FBK", f"person{number}", size=size)
        write_knee(folder / f"file{number + 1}.h5", "CORPDFS_FBK", f"person{number}")


# a source and a network of one's own, as files
TOY_SOURCE = '''"""A toy: noise made on the spot."""

import numpy as np

from mrsr.raw.volume import Volume, VolumeRef

SETTINGS = {"subjects": 3}


def prepare(folder, settings):
    for number in range(settings.subjects):
        values = np.random.default_rng(number).random((4, 48, 40), np.float32)
        np.save(folder / f"toy{number}.npy", values + 1)


def list_volumes(folder, settings, contrast):
    names = ("train", "validation", "test")
    return [
        VolumeRef(path=path, subject=path.stem, contrast=contrast, organ="toy", split=split,
                  pair=path.stem)
        for path, split in zip(sorted(folder.glob("*.npy")), names, strict=True)
    ]


def read_volume(ref):
    values = np.load(ref.path)
    return Volume(stored=values, affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0), **ref.names)
'''

TOY_NETWORK = '''"""A toy: one convolution on the upsampled image."""

from torch import Tensor, nn

from mrsr.resampling import upsample


class MyNet(nn.Module):
    def __init__(self, scale: int, width: int) -> None:
        super().__init__()
        self.scale = scale
        self.layer = nn.Conv2d(1, 1, width, padding=width // 2)

    def forward(self, lr: Tensor) -> Tensor:
        fine = upsample(lr, self.scale)
        return fine + self.layer(fine)


def build(scale: int, *, width: int = 3) -> nn.Module:
    return MyNet(scale, width)
'''


# --- the command line -----------------------------------------------------------------------------


def two_methods() -> jobs.Tables:
    """Settings of a table of bicubic and srcnn, on the phantom's T1 at 2x and 4x."""
    return jobs.Tables(
        experiment="demo",
        tables={"table1": ("phantom_t1",)},
        datasets={"phantom_t1": "Phantom T1"},
        scales=(2, 4),
        methods=tuple(jobs.MethodName(key=key, label=key) for key in ("bicubic", "srcnn")),
        preset=preset("slice"),
    )


def parse(words: list[str]) -> None:
    """Parse a command such as `mrsr params -e demo`, without running it; raises as for a user."""
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("mrsr", words[1:], resilient_parsing=True)
    with contextlib.suppress(typer.Exit):  # --list-models, which answers at once
        group.commands[words[1]].make_context(words[1], alone(words[2:]), parent=context)
