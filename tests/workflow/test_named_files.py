"""What settings name decides what runs again: scans, lists, weights, plug-ins (line 5).

With the real Snakemake: every output of an experiment is there and recorded, nothing is to be done;
then one file changes, and the jobs that read it are planned, with the reason. Nothing is trained.

Run: pytest -m slow tests/workflow/test_named_files.py
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import TOY_NETWORK, TOY_SOURCE
from mrsr.ops import provenance
from project import copy_project, edit_experiment, edit_params, parse_jobs, snakemake

pytestmark = pytest.mark.long

RUN = ("all", "--config", "experiment=named")


def entry(source: str, contrast: str = "any", **more: object) -> dict[str, object]:
    return {
        **{"source": source, "contrast": contrast, "organ": "brain", "label": "", "crop": None},
        **{"split": {"kind": "source"}},
        **more,
    }


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A project whose results are there and recorded; and what its settings name, beside it."""
    outside = tmp_path_factory.mktemp("outside")
    for name in ("scans/sub-01/anat/sub-01_T1w.nii.gz", "scans/.git/x.nii.gz", "clinic/a.nii",
                 "ixi/IXI-T1/IXI002-Guys-0828-T1.nii.gz", "knees/file1.h5", "knees/notes.txt",
                 "unetr.pt"):  # fmt: skip
        write(outside / name, "x" * 2_000_000 if name == "unetr.pt" else name)
    write(outside / "people.csv", "subject,split\nsub-01,train\n")
    write(outside / "clinic.csv", "subject,split\na,train\n")
    write(outside / "ixi.csv", "subject,split\n")
    write(outside / "pairs/one.csv", "file1,file2\n")
    write(outside / "plug/datasets/plugged.py", TOY_SOURCE)
    write(outside / "plug/models/plugged.py", TOY_NETWORK)
    write(outside / "plug/models/_layers.py", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRSR_PLUGINS", str(outside / "plug"))
        folder = copy_project(tmp_path_factory.mktemp("project"))
        sources = {
            "folder": {"path": str(outside / "scans"), "split": str(outside / "people.csv")},
            "clinic": {"like": "folder", "path": str(outside / "clinic")},
            "ixi": {"source": str(outside / "ixi"), "subjects": str(outside / "ixi.csv")},
            "fastmri": {"source": str(outside / "knees"), "pairs": str(outside / "pairs")},
            "plugged": {},
        }
        datasets = {
            "own_t1": entry("folder", "T1w"),
            "own_t2": entry("folder", "T2w"),
            "clinic": entry("clinic", split={"kind": "csv", "path": str(outside / "clinic.csv")}),
            "plugged": entry("plugged", "T1", organ="toy"),
        }
        used = ["phantom_t1", "own_t1", "own_t2", "clinic", "ixi_t1", "fastmri", "plugged"]
        edit_params(folder, {"data": {"sources": sources, "datasets": datasets},
                             "methods": {"plugged": {"losses": {"l1": 1}}},
                             "vit": {"weights": str(outside / "unetr.pt")}})  # fmt: skip
        edit_experiment(folder, "named", {
            "description": "what settings name",
            "grid": [{"datasets": used, "scales": [2], "methods": ["bicubic"]},
                     {"datasets": ["phantom_t1"], "scales": [2],
                      "methods": ["plugged", "srcnn", "vit_only"]}],
            "tables": {"table1": used},
            "vit_data": {"labelled": ["phantom_t1"], "pool": ["phantom_t1", "phantom_knee"]},
            "set": {"tracking": {"enabled": False}},
        })  # fmt: skip
        for job in parse_jobs(snakemake(folder, "--dry-run", *RUN)):
            for output in job.outputs:
                write(folder / output, "made\n")
                # else the workflow asks the file itself what made it
                write(folder / provenance.record(Path(output), "metadata"), "{}\n")
        snakemake(folder, "--touch", "--forceall", *RUN)
        assert "Nothing to be done" in snakemake(folder, "--dry-run", *RUN)
        yield folder, outside


def replace(path: str) -> Callable[[Path], None]:
    """Another content of the same size; twice, and it is as before."""

    def change(outside: Path) -> None:
        file = outside / path
        text = file.read_text()
        file.write_text(text[:-1] + (" " if text.endswith("\n") else "\n"))

    return change  # fmt: skip


def add(path: str) -> Callable[[Path], None]:
    return lambda outside: write(outside / path, "new") and None


def remove(path: str) -> Callable[[Path], None]:
    return lambda outside: (outside / path).unlink()


OWN = {"data/raw/folder", "slices/own_t1", "slices/own_t2"}
IXI = {"data/raw/ixi", "slices/ixi_t1"}
KNEES = {"data/raw/fastmri", "slices/fastmri"}
PLUGGED = {"checkpoints/phantom_t1/x2/plugged"}
# changes of one group concern different jobs: a dry run for each group, not for each change
CHANGES: dict[str, list[tuple[Callable[[Path], None], set[str]]]] = {
    "replaced": [
        (replace("scans/sub-01/anat/sub-01_T1w.nii.gz"), OWN),
        (replace("ixi/IXI-T1/IXI002-Guys-0828-T1.nii.gz"), IXI),
        (replace("knees/file1.h5"), KNEES),
        (replace("unetr.pt"), {"checkpoints/vit/segmentation"}),
        (replace("plug/models/plugged.py"), PLUGGED),
        (replace("plug/datasets/plugged.py"), {"data/raw/plugged", "slices/plugged"}),
        (replace("clinic.csv"), {"slices/clinic"}),
    ],
    "added": [
        (add("scans/sub-02/anat/sub-02_T1w.nii.gz"), OWN),
        (add("knees/file2.h5"), KNEES),
        (add("clinic/b.nii"), {"data/raw/clinic", "slices/clinic"}),
        (add("plug/models/_layers.py"), PLUGGED),
    ],
    "removed": [
        (remove("scans/sub-01/anat/sub-01_T1w.nii.gz"), OWN),
        (remove("plug/models/_layers.py"), PLUGGED),
    ],
    "lists": [
        (replace("people.csv"), OWN),
        (replace("ixi.csv"), IXI),
        (replace("pairs/one.csv"), KNEES),
    ],
    "a list more": [(add("pairs/two.csv"), KNEES)],
}


def blocks(said: str) -> list[str]:
    """What a dry run says, job by job."""
    return re.split(r"\n+(?=\[|rule )", said)


def planned(folder: Path) -> set[str]:
    """What is made again because of what its settings name.

    Snakemake gives one reason for a job; for slices it is the raw data, which are made before.
    """
    found = set()
    for block in blocks(snakemake(folder, "--dry-run", *RUN)):
        rule = re.search(r"rule (\w+):", block)
        output = re.search(r"output: ([^,\n]*)", block)
        if rule and output and (rule[1] == "slice_dataset" or "Params have changed" in block):
            path = output[1].removeprefix("results/named/")
            found.add(re.sub(r"/(manifest\.csv|train\.h5|best\.pt)$", "", path))
    return found


@pytest.mark.parametrize("group", CHANGES)
def test_line_5_a_change_of_what_a_setting_names_runs_its_jobs_again(
    world: tuple[Path, Path], group: str
) -> None:
    folder, outside = world
    kept = outside.with_name(f"{outside.name}.kept")
    shutil.copytree(outside, kept)
    try:
        for change, _ in CHANGES[group]:
            change(outside)
        assert planned(folder) == set().union(*(jobs for _, jobs in CHANGES[group]))
    finally:  # as it was, times too
        shutil.rmtree(outside)
        kept.rename(outside)


def test_line_5_what_does_not_count_runs_nothing(world: tuple[Path, Path]) -> None:
    """Hidden and derived files, other kinds of files, and a list that is only touched."""
    folder, outside = world
    more = ("scans/.git/y.nii.gz", "scans/derivatives/z.nii.gz", "scans/README", "knees/more.txt",
            "ixi/notes.txt", "clinic/.a.nii.swp")  # fmt: skip
    for name in more:
        write(outside / name, "new")
    try:
        os.utime(outside / "people.csv", (time.time() + 5, time.time() + 5))
        assert "Nothing to be done" in snakemake(folder, "--dry-run", *RUN)
    finally:
        for name in more:
            (outside / name).unlink()


def test_line_5_slices_know_it_themselves(world: tuple[Path, Path]) -> None:
    """When only the raw data were made again, the slices are not forgotten."""
    folder, outside = world
    replace("ixi.csv")(outside)
    try:
        raw = ("data/raw/ixi/manifest.csv", "--config", "experiment=named")
        snakemake(folder, "--touch", *raw)
        assert "Nothing to be done" in snakemake(folder, "--dry-run", *raw)
        said = snakemake(folder, "--dry-run", *RUN)
        wanted = "output: results/named/slices/ixi_t1/train.h5"
        (block,) = [block for block in blocks(said) if wanted in block]
        assert "Params have changed" in block, block
    finally:
        replace("ixi.csv")(outside)
        snakemake(folder, "--touch", "--forceall", *RUN)
