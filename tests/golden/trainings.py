"""Every training with a tiny network and tiny stores: all that the golden files know of the code.

What the code calls its modules, settings and commands stands in this file alone: when a module is
renamed, or settings are handed over another way, nothing else in this folder changes.

- `curve(name, folder)` trains as a command line does and gives the metrics of the training's log;
- `outputs(name)` loads a committed checkpoint and applies its network to an image;
- `tables(folder)` runs the smoke experiment and gives its tables.

The settings are those of the experiment in golden.yaml. The stores are synthetic: whole numbers
from a seed, the same on every machine. The trainings run in float64, where the order of sums does
not show; `srresnet_fp32` has the precision of real trainings.
"""

from __future__ import annotations

import csv
import functools
import importlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from mrsr import checkpoint, models
from mrsr.method.features import load_encoder
from mrsr.params import loading
from mrsr.params.schema import SPLITS
from mrsr.params.typed import plain
from project import ROOT, copy_project, snakemake

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE / "checkpoints"
# odd sizes are padded, and volumes differ; whole slices as batches need equal ones (knee)
SHAPES = dict.fromkeys(("t1", "t2"), ((6, 40, 37), (4, 36, 44))) | {"knee": ((4, 40, 36),) * 2}
TABLES = (
    *("tables/results.csv", "tables/table1.csv", "tables/table1.md", "tables/table1.tex"),
    *("tables/frozen.csv", "tables/frozen.md"),
    *(
        f"summary/phantom_t1/x2/{name}.json"
        for name in ("bicubic", "srcnn", "srresnet", "proposed")
    ),
)
RATES = ("images_per_second",)  # metrics that depend on the machine
BLANKED = {"results.csv": ("seconds_per_slice",)}  # columns that depend on the machine


@functools.cache
def experiment() -> Any:
    """The experiment of golden.yaml, loaded as every other."""
    return loading.load(ROOT / "params.yaml", HERE / "golden.yaml")


def _sr(method: str, dataset: str = "phantom_t2", scale: int = 2) -> dict[str, Any]:
    return plain(experiment().super_resolution(dataset, scale, method))


def _autoencoder() -> dict[str, Any]:
    return plain(experiment().autoencoder("phantom_t2", 2))


def _vit(phase: str, pretext: str = "") -> dict[str, Any]:
    if phase == "segmentation":
        return plain(experiment().segmentation())
    return plain(experiment().pretext(pretext))


# trainings that start from others read the committed checkpoints: each curve stands by itself
FROZEN = (
    *("--vit", str(CHECKPOINTS / "organ.pt")),
    *("--autoencoder", str(CHECKPOINTS / "autoencoder.pt")),
)
START = ("--start", str(CHECKPOINTS / "segmentation.pt"))
# name -> module, settings, stores, further arguments; {stores} is the folder of the stores
TRAININGS: dict[str, tuple[str, Any, tuple[str, ...], tuple[str, ...]]] = {
    "srresnet": ("train_sr", lambda: _sr("srresnet"), ("t2",), ()),
    "srresnet_fp32": ("train_sr", lambda: _sr("srresnet") | {"precision": "fp32"}, ("t2",), ()),
    "srcnn_other_options": ("train_sr", lambda: _sr("srcnn", "phantom_knee", 4), ("knee",), ()),
    "proposed": ("train_sr", lambda: _sr("proposed"), ("t2",), FROZEN),
    "proposed_eq9": ("train_sr", lambda: _sr("proposed_eq9"), ("t2",), FROZEN),
    "proposed_fused": ("train_sr", lambda: _sr("proposed_fused"), ("t2",), FROZEN),
    "minet": ("train_sr", lambda: _sr("minet"), ("t2",), ("--guide", "{stores}/t1")),
    "t2net_undersampled": ("train_sr", lambda: _sr("t2net_undersampled"), ("t2",), ()),
    "smore": ("train_self", lambda: _sr("smore"), ("t2",), ()),
    "autoencoder": ("train_autoencoder", _autoencoder, ("t2",), ()),
    "segmentation": ("train_vit", lambda: _vit("segmentation"), ("t1",), ()),
    "organ": ("train_vit", lambda: _vit("pretext", "organ"), ("t1", "knee"), START),
    "masked": ("train_vit", lambda: _vit("pretext", "masked"), ("t1", "knee"), START),
    "contrastive": ("train_vit", lambda: _vit("pretext", "contrastive"), ("t1", "knee"), START),
}  # fmt: skip
# the trainings whose checkpoint is kept, each after those that it reads; no checkpoint holds the
# discriminator
SAVED = ("segmentation", "organ", "autoencoder", "srresnet", "minet", "t2net_undersampled", "smore")


def train(name: str, folder: Path, noise: float = 0.0, **changes: Any) -> Path:
    """Train in this process on stores made in `folder`; returns the folder of log and weights.

    noise: slices are multiplied by 1 + noise * a normal number, to see how much rounding may move.
    changes: of the settings.
    """
    module, settings, kinds, further = TRAININGS[name]
    stores, out = folder / "stores", folder / name
    for kind in SHAPES:
        for seed, split in enumerate(SPLITS):
            _store(stores / kind / f"{split}.h5", kind, seed, noise)
    out.mkdir(parents=True)
    (folder / f"{name}.json").write_text(json.dumps(settings() | changes), encoding="utf-8")
    arguments = ["--settings", f"@{folder / f'{name}.json'}", "--out", str(out / "best.pt")]
    arguments += [argument.format(stores=stores) for argument in further]
    if module == "train_self":
        arguments += ["--slices", str(stores / kinds[0] / "test.h5")]
    else:
        for split in SPLITS:
            arguments += [f"--{split}", *(str(stores / kind / f"{split}.h5") for kind in kinds)]
    importlib.import_module(f"mrsr.training.{module}").main(arguments)
    return out


def curve(name: str, folder: Path, noise: float = 0.0) -> list[dict[str, Any]]:
    """Step, split and metrics of each line of a training's log, and the best step; no times."""
    lines = []
    log = train(name, folder, noise) / "log.jsonl"
    for text in log.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "metrics" in line:
            metrics = {key: value for key, value in line["metrics"].items() if key not in RATES}
            lines.append({"step": line["step"], "split": line["split"], "metrics": metrics})
        elif line.get("event") == "end":
            lines.append({"step": line["best_step"], "split": "best", "metrics": {}})
    return lines


def save_checkpoint(name: str, folder: Path) -> None:
    """Train in the precision of real trainings, and keep the checkpoint and its outputs."""
    shutil.copy(train(name, folder, precision="fp32") / "best.pt", CHECKPOINTS / f"{name}.pt")
    found = {key: array.astype(np.float32) for key, array in outputs(name).items()}
    np.savez_compressed(CHECKPOINTS / f"{name}.npz", **found)


def tables(folder: Path) -> dict[str, bytes]:
    """The tables of the smoke experiment, run in a copy of the project; `BLANKED` columns empty."""
    copy_project(folder)
    snakemake(folder, "all", "--config", "experiment=smoke")
    return read_tables(folder / "results" / "smoke")


def read_tables(results: Path) -> dict[str, bytes]:
    """The tables below a folder of results by their names; `BLANKED` columns empty."""
    found = {Path(path).name: (results / path).read_bytes() for path in TABLES}
    for name, columns in BLANKED.items():
        rows = list(csv.DictReader(io.StringIO(found[name].decode(), newline="")))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | dict.fromkeys(columns, "") for row in rows)
        found[name] = text.getvalue().encode()
    return found


def image(*shape: int) -> torch.Tensor:
    """An image (1, 1, ...) in 0...1 to apply networks to: multiples of 1/16 in a fixed pattern."""
    numbers = torch.arange(int(np.prod(shape)), dtype=torch.int64)
    return ((numbers * numbers // 7) % 17).reshape(1, 1, *shape).double() / 16


@torch.no_grad()
def outputs(name: str) -> dict[str, np.ndarray]:
    """The input, and what the networks of a committed checkpoint make of it, in float64."""
    path = CHECKPOINTS / f"{name}.pt"
    if name == "smore":  # a network per volume
        saved = checkpoint.load(path)
        network = models.build(saved.model_name, saved.scale, saved.options)
        given, found = (image(12, 10),), {}
        for key in ("0000", "0001"):
            checkpoint.adopt_part(network, saved, key)
            found[key] = network.double().eval()(*given)
    else:
        network = checkpoint.network(path).double()
        if name == "organ":  # hidden states of the 2D encoder
            given = (image(32, 32),)
            found = {"states": network(*given, [-1])[0]}
        elif name == "segmentation":  # in 3D, and its encoder collapsed to 2D
            given = (image(16, 32, 32),)
            found = {"logits": network(*given)[..., ::4, ::4, ::4]}
            found["states"] = load_encoder(path).double()(given[0][:, :, 0], [-1])[0]
        elif name == "autoencoder":
            given = (image(32, 32),)
            structure, texture = network.encode(*given)
            found = {"structure": structure, "texture": texture}
            found["image"] = network.decode(structure, texture)
        else:
            given = (image(12, 10), *((image(24, 20),) if name == "minet" else ()))
            found = {"image": network(*given)}
    inputs = {f"input{number}": one for number, one in enumerate(given)}
    return {key: one.numpy() for key, one in (inputs | found).items()}


def _store(path: Path, kind: str, seed: int, noise: float) -> None:
    """A slice store of labelled discs, the same in t1 and t2; knee: complex stripes."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    organ, contrast = ("knee", "KNEE_PDFS") if kind == "knee" else ("brain", kind.upper())
    with h5py.File(path, "w") as file:
        file.attrs.update(format=1, dataset=f"phantom_{kind}", organ=organ, contrast=contrast)
        file.attrs.update(split=path.stem, settings="{}", digest=f"{kind}{seed}")
        for number, shape in enumerate(SHAPES[kind]):
            z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
            labels, data = np.zeros(shape, np.uint8), rng.integers(0, 40, shape)
            for step in range(6):
                cy, cx, r = (int(n) for n in rng.integers([8, 8, 4], [28, 28, 12]))
                disc = (y - cy) ** 2 + (x - cx) ** 2 < (r + z % 3) ** 2
                stripe = (y * 2 + x + z + cy) % (r + 4) < 3
                labels[stripe if kind == "knee" else disc] = 1 + step % 2
                bright = {"t1": 300 + 100 * step, "t2": 900 - 120 * step, "knee": 150}[kind]
                data = data + bright * (stripe if kind == "knee" else disc)
            values = data.astype(np.float64)
            if noise:
                values *= 1 + noise * np.random.default_rng(99).standard_normal(shape)
            group = file.create_group(f"volumes/{number:04d}")
            group.attrs.update(subject=f"s{number}", visit="", path=f"s{number}.nii", slope=1.0)
            group.attrs.update(intercept=0.0, scale=2000.0, slice_index=np.arange(shape[0]))
            group.attrs.update(affine=np.eye(4), voxel_size=[1.0, 1.0, 1.0])
            values = values.astype("float32")
            if kind == "knee":  # phases whose magnitude rounds nothing
                values = values * np.where((x + y) % 8 < 4, 1, 0.6 + 0.8j).astype("complex64")
            group.create_dataset("data", data=values, chunks=(1, *shape[1:]))
            group["labels"] = labels
