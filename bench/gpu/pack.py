"""Everything that `make gpu` needs on a bare machine: slice stores and the settings of each job.

    python bench/gpu/pack.py        # results/gpu_pack, from the experiment benchmark_gpu

Run it where the project is installed. It slices the scans first where no store is there yet, which
needs MRSR_MIRROR or the network. The folder is carried to the GPU machine beside the repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from mrsr.errors import UserError, guarded
from mrsr.files import write_text
from mrsr.params import loading
from mrsr.params.experiment import Cell, Resolved
from mrsr.params.schema import SPLITS
from mrsr.params.typed import digest, plain

OUT = Path("results/gpu_pack")
LARGEST = 40e6  # bytes of the stores; what is carried to such a machine is limited
VIT = "masked"  # the pretext task: the others need several organs, or more slices than these


def pack(experiment: str, out: Path, params: Path = Path("params.yaml")) -> dict[str, object]:
    """Copy the stores and write `jobs.json`, which is written last.

    Raises:
        UserError: the experiment has several datasets or scales, or its stores are too large.
    """
    resolved = loading.load(params, experiment)
    cells = resolved.trainings()
    if len({(cell.dataset, cell.scale) for cell in cells}) != 1:
        raise UserError(f"experiment '{experiment}': make gpu trains on one dataset at one scale")
    stores = _stores(resolved, cells[0].dataset)
    size = sum(path.stat().st_size for path in stores)
    if size > LARGEST:
        raise UserError(
            f"{stores[0].parent}: {size / 1e6:.0f} MB of slices, and {LARGEST / 1e6:.0f} can be "
            "carried; set max_volumes of the dataset"
        )
    shutil.rmtree(out, ignore_errors=True)
    (out / "stores").mkdir(parents=True)
    for path in stores:
        shutil.copyfile(path, out / "stores" / path.name)
    content = _jobs(resolved, cells)
    content["digest"] = digest(content)
    write_text(out / "jobs.json", json.dumps(content, indent=1) + "\n")
    return {"bytes": size, **content}


def _stores(resolved: Resolved, dataset: str) -> list[Path]:
    """The dataset's stores; sliced by the workflow if they are not there."""
    paths = [Path("results", resolved.name, "slices", dataset, f"{s}.h5") for s in SPLITS]
    if not all(path.is_file() for path in paths):
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, paths)]
        command += ["--config", f"experiment={resolved.name}"]
        if subprocess.run(command).returncode:
            raise UserError(f"cannot slice {dataset}: see above; MRSR_MIRROR names a copy of it")
    return paths


def _jobs(resolved: Resolved, cells: list[Cell]) -> dict[str, object]:
    """The settings of the trainings in the order of the table, frozen networks before their use."""
    jobs: list[dict[str, object]] = []
    for cell in cells:
        method = resolved.methods[cell.method]
        if method.type != "single":
            raise UserError(f"method '{cell.method}': make gpu trains methods of type single only")
        for name in method.frozen:
            if all(job["name"] != name for job in jobs):
                ask = resolved.autoencoder(cell.dataset, cell.scale)
                settings = plain(resolved.pretext(VIT) if name == "vit" else ask)
                # half a share of the time: they are no rows of the table
                jobs.append({"name": name, "kind": name, "settings": settings, "share": 0.5})
        settings = plain(resolved.super_resolution(cell.dataset, cell.scale, cell.method))
        jobs.append({"name": cell.method, "kind": "sr", "label": method.label, "share": 1.0,
                     "needs": list(method.frozen), "settings": settings})  # fmt: skip
    return {
        "experiment": resolved.name,
        "dataset": cells[0].dataset,
        "scale": cells[0].scale,
        "vit": {**plain(resolved.params.vit.network), "classes": resolved.params.vit.classes},
        "jobs": jobs,
    }


@guarded
def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="benchmark_gpu")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    made = pack(given.experiment, given.out, given.params)
    names = ", ".join(job["name"] for job in made["jobs"])
    print(f"{given.out}: {made['bytes'] / 1e6:.1f} MB of slices; {names}")


if __name__ == "__main__":
    main()
