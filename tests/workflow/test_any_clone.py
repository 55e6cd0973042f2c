"""A clone under any path, without an activated environment, and how a failed run ends there.

Run: pytest -m slow tests/workflow/test_any_clone.py
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from pip._vendor.distlib.scripts import ScriptMaker

from project import ROOT, copy_project, edit_params

pytestmark = pytest.mark.long

# DVC cannot format its own progress bar where the path has braces, so only the second has them
PATHS = ('a "q" `touch no` $HOME c', "it's $(touch no) {dataset} {x} 50% & #1; é \\ *?[a] ~")
COMMANDS = ("mrsr", "snakemake", "dvc", "mlflow")
EVALUATION = "results/mini/metrics/phantom_t1/x2/bicubic.json"
ONE = {"train": 1, "validation": 1, "test": 1}
SMALL = {"data": {"sources": {"phantom": {"subjects": ONE, "knee": ONE, "slices": 16}}}}
MINI = """
like: smoke
grid:
  - datasets: [phantom_t1]
    scales: [2]
    methods: [bicubic, srcnn]
vit_data: null
"""


def environment(clone: Path) -> None:
    """What `make venv` leaves: an environment in the clone, with this one's packages."""
    site = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    (clone / ".venv" / site / "packages.pth").write_text(
        f"{clone / 'src'}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8"
    )
    maker = ScriptMaker(None, str(clone / ".venv/bin"))  # as pip writes them
    maker.executable, maker.variants, maker.set_mode = f'"{clone}/.venv/bin/python"', {""}, True
    if " " not in str(clone):
        maker.executable = maker.executable.strip('"')
    for command in entry_points(group="console_scripts"):
        if command.name in COMMANDS:
            maker.make(f"{command.name} = {command.value}")
    spec = importlib.util.spec_from_file_location("commands", ROOT / "envs" / "commands.py")
    commands = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(commands)
    commands.main(clone / ".venv/bin")
    (clone / ".venv/.stamp").touch()


def there(clone: Path, *command: str, code: int = 0) -> list[str]:
    """The lines that a command shows, without an activated environment; it must end with `code`."""
    done = subprocess.run(
        command,
        cwd=clone,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(clone), "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "MRSR_TRACKING": "off",
            "PYTHONPYCACHEPREFIX": str(clone.parent / "pycache"),
        },
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8",
    )  # fmt: skip
    shown = done.stdout.strip().splitlines()
    assert done.returncode == code, done.stdout[-3000:]
    return shown


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone under the first path, with the experiment `mini`."""
    folder = copy_project(tmp_path_factory.mktemp("clone") / PATHS[0])
    (folder / "workflow/experiments/mini.yaml").write_text(MINI)
    edit_params(folder, SMALL)
    environment(folder)
    return folder


def test_line_13_the_whole_chain_under_such_a_path(clone: Path) -> None:
    snakemake = (".venv/bin/snakemake", "--cores", "2")
    there(clone, *snakemake, "all", "--config", "experiment=mini")
    assert (clone / "results/mini/tables/table1.md").is_file()
    assert not list(clone.rglob("no")) and not (clone.parent / "no").exists()
    report = ("--report", "report.html", "all", "--config", "experiment=mini")
    there(clone, *snakemake, *report)
    assert (clone / "report.html").stat().st_size > 0
    best = "results/mini/checkpoints/phantom_t1/x2/srcnn/best.pt"
    scan = next(str(file) for file in sorted((clone / "data/raw/phantom").rglob("*.nii*")))
    there(clone, ".venv/bin/mrsr", "enhance", scan, "finer.nii.gz", "--model", best)


def test_line_13_braces_and_other_signs_in_the_path(clone: Path, tmp_path: Path) -> None:
    folder = copy_project(tmp_path / PATHS[1])
    environment(folder)
    shutil.copytree(clone / "data/raw", folder / "data/raw")
    (folder / "workflow/experiments/mini.yaml").write_text(MINI)
    edit_params(folder, SMALL)
    snakemake = (".venv/bin/snakemake", "--cores", "2")
    shown = there(folder, *snakemake, "--dry-run", "all", "--config", "experiment=smoke")
    assert any(line.startswith("This was a dry-run") for line in shown)
    there(folder, *snakemake, EVALUATION, "--config", "experiment=mini")
    assert (folder / EVALUATION).is_file()
    assert not list(folder.rglob("no")) and not (folder.parent / "no").exists()


def test_line_14_dvc_and_mlflow_find_their_commands(clone: Path) -> None:
    there(clone, ".venv/bin/dvc", "repro", "--force", "--single-item", "raw-phantom")
    assert (clone / "dvc.lock").is_file()
    there(clone, ".venv/bin/mlflow", "--version")
    there(clone, ".venv/bin/mrsr", "params", "--experiment", "mini")


def test_line_21_the_failed_jobs_line_is_the_last(clone: Path) -> None:
    store = clone / "results/mini/slices/phantom_t1/test.h5"
    (clone / EVALUATION).unlink(missing_ok=True)
    times = store.stat()
    content = store.read_bytes()
    store.write_bytes(content[:3000])
    os.utime(store, ns=(times.st_atime_ns, times.st_mtime_ns))
    run = (".venv/bin/snakemake", "--cores", "1", EVALUATION, "--config", "experiment=mini")
    for display in ((), ("--logger", "mrsr")):
        *_, what, why = there(clone, run[0], *display, *run[1:], code=1)
        assert what == f"failed: evaluate Bicubic on phantom_t1 2x, logs/{_log()}"
        assert why.startswith("mrsr: error: ") and "test.h5 is not a readable HDF5 file" in why
    store.write_bytes(content)
    os.utime(store, ns=(times.st_atime_ns, times.st_mtime_ns))
    *_, last = there(clone, *run)  # and a run that works says nothing of the kind
    assert "failed" not in last and "error" not in last


def _log() -> str:
    return "mini/metrics/phantom_t1/x2/bicubic.log"


def test_line_21_so_is_a_wrong_settings_line(clone: Path) -> None:
    """make and dvc add a line of their own, as they do for every command that fails."""
    kept = (clone / "params.yaml").read_text()
    edit_params(clone, {"sr": {"stepz": 1}})
    wanted = "mrsr: error: params.yaml: sr.stepz: unknown key"
    try:
        run = (".venv/bin/snakemake", "--cores", "1", "all", "--config", "experiment=mini")
        assert there(clone, *run, code=1)[-1] == wanted
        assert there(clone, run[0], "--logger", "mrsr", *run[1:], code=1)[-1] == wanted
        *_, ours, own = there(clone, "make", "demo", code=2)
        assert ours == wanted and own.startswith("make: *** ")
        repro = (".venv/bin/dvc", "repro", "--force", "--single-item", "raw-phantom")
        *_, ours, own = there(clone, *repro, code=255)
        assert ours == wanted and own.startswith("ERROR: failed to reproduce 'raw-phantom'")
    finally:
        (clone / "params.yaml").write_text(kept)
