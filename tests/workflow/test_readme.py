"""The commands of the README and of how-tos, run as a reader would, in their order.

With `smoke` for the longer experiments, as the README says. Run: pytest -m long
tests/workflow/test_readme.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import real_scans
from project import ENVIRONMENT, ROOT, copy_project, edit_params, run

pytestmark = pytest.mark.long

# what the README says to put in place of longer experiments
SMOKE = {
    r"\b(openms|demo|openms_ablation)\b(?=$|/| )": "smoke",
    r"\bopenms_t1\b": "phantom_t1",
}
# commands that are run elsewhere, and where
ELSEWHERE = {
    "make demo": "tests/fresh/debian.sh",
    "make test": "tests/fresh/debian.sh",
    "snakemake --profile slurm all": "tests/slurm/test_slurm.py",
    "dvc repro": "tests/workflow/test_pipeline.py",
    "snakemake --cores 2 results/pretexts_": "tests/tables/test_pretext_table.py",
    "mrsr pretext-table": "tests/tables/test_pretext_table.py",
}
PAGES = ("README.md", *(f"docs/howto/{name}.md" for name in (
    "enhance-your-scan", "train-the-full-method", "watch-a-run", "track-with-mlflow",
)))  # fmt: skip


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a page that a reader can run."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^ *```(bash|python)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [(language, code) for language, code in found]


def lines(code: str) -> list[str]:
    """The commands of a bash block, without comments; a loop is one of several lines."""
    return [line.split(" #")[0].strip() for line in code.splitlines() if line.strip()]


def smoke(command: str) -> str:
    """The command with the smallest experiment."""
    for longer, shorter in SMOKE.items():
        command = re.sub(longer, shorter, command)
    return command


# a smaller phantom: what the commands do does not depend on it
SOME = {"train": 2, "validation": 1, "test": 2}
SMALL = {"data": {"sources": {"phantom": {"subjects": SOME, "knee": SOME, "slices": 16}}}}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after `make demo`, which stands for the experiment that is run first."""
    folder = copy_project(tmp_path_factory.mktemp("reader"))
    edit_params(folder, SMALL)
    run(folder, "snakemake", "--cores", "2", "all", "--config", "experiment=smoke")
    scan = sorted((folder / "data/raw/phantom").rglob("*T1.nii.gz"))[0]
    shutil.copy(scan, folder / "scan.nii.gz")
    best = folder / "results/smoke/checkpoints/phantom_t1/x2/srresnet/best.pt"
    shutil.copy(best, folder / "best.pt")
    shutil.copytree(real_scans.TWO_SERIES, folder / "dicom_folder")
    shutil.copy(real_scans.NIBABEL / "example4d.nii.gz", folder / "fmri.nii.gz")
    for inside in ("scans/anna.nii.gz", "dataset/sub-01/anat/sub-01_T1w.nii.gz"):
        (folder / inside).parent.mkdir(parents=True)
        shutil.copy(scan, folder / inside)
    (folder / "dataset/dataset_description.json").write_text(
        '{"Name": "a", "BIDSVersion": "1.9.0"}'
    )
    return folder


def serves(folder: Path, command: str) -> None:
    """Start a server as the page says, see its page, and end it."""
    job = subprocess.Popen(
        ["bash", "-c", f"exec {command} --port 5917"], cwd=folder,
        env=ENVIRONMENT | {"HOME": str(folder)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen("http://127.0.0.1:5917/") as page:
                    assert b"MLflow" in page.read()
                return
            except (urllib.error.URLError, ConnectionError):
                assert job.poll() is None, f"{command} ended"
                time.sleep(1)
        raise AssertionError(f"{command} does not answer")
    finally:
        job.terminate()
        job.wait(30)


@pytest.mark.parametrize("page", PAGES)
def test_line_25_every_command_of_the_page_runs(reader: Path, page: str) -> None:
    for file in ("coarse", "enhanced", "larger", "own", "finer", "plain", "sharp", "low", "high",
                 "scan_mrsr", "twice", "one", "t1"):  # fmt: skip
        for suffix in (".nii.gz", ".json"):
            (reader / f"{file}{suffix}").unlink(missing_ok=True)
    ran = 0
    for language, code in blocks(page):
        if language == "python":
            scores = run(reader, "python", "-c", code).stdout
            assert "psnr" in scores, page
            continue
        for line in lines(code):
            other = next((to for start, to in ELSEWHERE.items() if line.startswith(start)), "")
            if other or line.startswith(("for ", "done")):
                assert not other or (ROOT / other).is_file()
                continue
            command = smoke(line)
            ran += 1
            if command.startswith("mlflow ui"):
                serves(reader, command)
                continue
            done = run(reader, "bash", "-euo", "pipefail", "-c", command, check=False)
            assert done.returncode == 0, f"{page}: {line}\n{done.stdout[-2000:]}"
    assert ran, page


def test_line_25_times_agree() -> None:
    """`make soak` takes as long on every page."""
    told = re.search(r"make soak .*?\((\d+) min\)", (ROOT / "Makefile").read_text(), re.DOTALL)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert told and told[1] == "10" and re.search(r"make soak .*about ten minutes", page)
