"""Full disks, two runs on one folder, signed links in whole runs. See test_bad_worlds.py.

The full disks are small tmpfs that the tests mount: as root, on Linux; skipped elsewhere.
Run: pytest -m slow tests/workflow/test_bad_worlds_slow.py
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import builders
from builders import KNEE_HEADER, write_knees
from mrsr import checkpoint
from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.slices import slicing, store
from mrsr.training import resume
from project import ENVIRONMENT, bound, copy_project, edit_experiment, edit_params, run
from publisher import serving

pytestmark = pytest.mark.slow

FULL = r"No space left on device; free some space and run the same command again"


# full disks ------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts an empty disk of so many KiB."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        options = f"size={size}k"
        order = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(order, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no command mount here")
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def save(path: Path, size: int) -> None:
    """A checkpoint of about `size` KiB."""
    checkpoint.save(
        path,
        model_name="srcnn",
        options={},
        scale=2,
        weights={"a": torch.full((256 * size,), float(size))},
        settings={},
        provenance={},
    )


def test_a_full_disk_under_a_checkpoint(disk: Callable[[int], Path]) -> None:
    folder = disk(1024)
    save(folder / "best.pt", 300)
    for size in (720, 2000):  # full at the very end, and long before
        with pytest.raises(UserError, match=rf"best\.pt: {FULL}"):
            save(folder / "best.pt", size)
        assert names(folder) == ["best.pt"]
        assert checkpoint.load(folder / "best.pt").weights["a"][0] == 300
    save(folder / "best.pt", 310)


def test_a_full_disk_under_a_state(disk: Callable[[int], Path]) -> None:
    folder, machine = disk(1024), Machine(torch.device("cpu"))
    for step, size in ((1, 100), (2, 120)):
        more = {"best": torch.zeros(256 * size)}
        resume.save(folder, machine, step=step, digest="d", parts={}, **more)
    with pytest.raises(UserError, match=rf"resume\.pt: {FULL}"):
        resume.save(folder, machine, step=3, digest="d", parts={}, best=torch.zeros(256 * 900))
    assert names(folder) == ["resume.previous.pt", "resume.pt"]
    state = resume.load(folder, machine, digest="d")
    assert state is not None and state["step"] == 2


def test_a_full_disk_under_text(disk: Callable[[int], Path]) -> None:
    folder = disk(64)
    write_text(folder / "a.json", "{}")
    with pytest.raises(UserError, match=rf"a\.json: {FULL}"):
        write_text(folder / "a.json", "x" * 100_000)
    assert names(folder) == ["a.json"] and (folder / "a.json").read_text() == "{}"


# HDF5 crashed here: in a process of its own
SLICE = """
import sys
from types import SimpleNamespace
from pathlib import Path
import numpy as np
from mrsr.errors import guarded
from mrsr.params import jobs
from mrsr.params.typed import build
from mrsr.raw.volume import Volume, VolumeRef
from mrsr.slices import slicing

count, out = int(sys.argv[1]), Path(sys.argv[2])
refs = [VolumeRef(path=Path(f"raw/s{n}.nii"), subject=f"s{n}", contrast="T1", organ="brain")
        for n in range(count)]
def read(ref):
    noise = np.random.default_rng(int(ref.subject[1:])).integers(0, 9000, (8, 64, 64))
    return Volume(stored=noise.astype("int16"), affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0),
                  subject=ref.subject, contrast="T1", organ="brain")
source = SimpleNamespace(list_volumes=lambda *_: refs, read_volume=read)
slicing.datasets.source = lambda name: source
split = {"kind": "subjects", "train": [r.subject for r in refs[2:]],
         "validation": ["s0"], "test": ["s1"]}
settings = build(jobs.Slicing, {"dataset": "d", "source": "s", "contrast": "T1",
                                "organ": "brain", "split": split})
guarded(slicing.slice_dataset)(Path("raw"), settings, out, SimpleNamespace())
"""


@pytest.mark.parametrize("room", [32, 100, 200, 400, 700])
def test_a_full_disk_under_a_slice_store(disk: Callable[[int], Path], room: int) -> None:
    """Whatever HDF5 was just doing: 100 KiB are gone while it opens, 700 in the last store."""
    folder = disk(2000)
    order = [sys.executable, "-c", SLICE]
    good = subprocess.run([*order, "5", str(folder / "out")], capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    used = sum(len(content) for content in before.values()) // 1024
    (folder / "filler").write_bytes(bytes(1024 * max(0, 2000 - used - room - 40)))
    done = subprocess.run([*order, "14", str(folder / "out")], capture_output=True, text=True)
    assert done.returncode == 2, (done.returncode, done.stderr)
    last = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and "No space left on device" in last
    (folder / "filler").unlink()
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    for name in before:
        if name.endswith(".h5"):
            for volume in store.read_store(folder / name):
                store.read_slices(folder / name, volume)


def test_a_store_takes_no_more_than_it_needs(tmp_path: Path) -> None:
    """What was set aside for it is given back."""
    path = tmp_path / "a.h5"
    with slicing.new_store(path) as file:
        file.attrs["format"] = store.FORMAT
        file.create_group("volumes")
        volume = slicing.Sliced(
            data=np.tile(np.arange(256, dtype="int16"), (20, 256, 1)),
            scale=1.0,
            slope=1.0,
            intercept=0.0,
            slice_index=list(range(20)),
            affine=np.eye(4),
            voxel_size=(1.0, 1.0, 1.0),
        )
        slicing.write_volume(file, 0, volume, subject="s", visit="", path="s.nii")
    assert path.stat().st_size < volume.data.nbytes / 10
    assert path.stat().st_blocks * 512 < volume.data.nbytes / 4


def test_a_disk_that_fills_during_a_training(tmp_path: Path, disk: Callable[[int], Path]) -> None:
    """Exit code 2 and one line; with space again it ends as if nothing had been."""
    builders.toy_stores(tmp_path)
    folder = disk(4000)
    settings = builders.sr(steps=60, checkpoint_every=5)
    train = [sys.executable, "-m", "mrsr.training.train_sr"]
    order = [*train, *builders.command(tmp_path, folder / "out", settings)]
    (folder / "filler").write_bytes(bytes(1024 * (4000 - 300)))
    done = subprocess.run(order, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("mrsr: error: cannot write")
    assert set(names(folder)) <= {
        "filler", "out/log.jsonl", "out/resume.pt", "out/resume.previous.pt",
    }  # fmt: skip
    (folder / "filler").unlink()
    again = subprocess.run(order, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    whole = builders.command(tmp_path, tmp_path / "whole", settings)
    subprocess.run([*train, *whole], check=True, capture_output=True)
    assert builders.equal(folder / "out", tmp_path / "whole", "best.pt")


def test_a_log_on_the_full_disk_changes_no_exit_code(disk: Callable[[int], Path]) -> None:
    folder = disk(16)
    code = "from mrsr.errors import *\nguarded(lambda: (_ for _ in ()).throw(Diverged('NaN')))()"
    with open(folder / "log", "wb", buffering=0) as log:
        log.write(bytes(16 * 1024))
        done = subprocess.run([sys.executable, "-c", code], stdout=log, stderr=log)
    assert done.returncode == 4


# two runs --------------------------------------------------------------------------------------


def environment(project: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MRSR_T"))}
    return kept | ENVIRONMENT | {"PYTHONPATH": str(project / "src")} | more


def test_two_snakemakes_in_one_folder(tmp_path: Path) -> None:
    """The second says that the folder is locked, starts nothing, and the first ends well."""
    project = copy_project(tmp_path / "project")
    target = "results/smoke/tracking.ready"
    order = ["snakemake", "--cores", "1", target, "--config", "experiment=smoke"]
    with serving_database(project) as release:
        first = subprocess.Popen(
            order,
            cwd=project,
            env=environment(project),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        locks, until = project / ".snakemake/locks", time.monotonic() + 120
        while not (locks.is_dir() and any(locks.iterdir())):
            assert first.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        second = run(project, *order, check=False)
        release()
        printed = first.communicate(timeout=120)[0]
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stdout and "--unlock" in second.stdout
    assert "Traceback" not in second.stdout and "Job stats" not in second.stdout
    assert first.returncode == 0, printed
    assert (project / target).exists()


class serving_database:  # noqa: N801
    """The tracking store's lock, held: the first Snakemake waits in its job until released."""

    def __init__(self, project: Path) -> None:
        self.path = project / "mlflow.db.lock"

    def __enter__(self) -> Callable[[], None]:
        import fcntl

        self.file = open(self.path, "w")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return self.file.close

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_snakemake_in_a_folder_without_permission(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "results").mkdir(exist_ok=True)
    (project / "results").chmod(0o555)
    order = ["snakemake", "--cores", "1", "results/smoke/tracking.ready"]
    try:
        done = run(project, *bound(), *order, "--config", "experiment=smoke", check=False)
    finally:
        (project / "results").chmod(0o755)
    assert done.returncode == 1
    assert "Permission denied" in done.stdout and "results/smoke" in done.stdout


# signed links ----------------------------------------------------------------------------------

SECRET = "-".join(("Signature", "abc123", "topsecret"))  # not as it is in this file: it is copied
LINKS = ("FASTMRI_KNEE_TRAIN_URL", "FASTMRI_KNEE_VAL_URL")
ARCHIVES = ("knee_singlecoil_train.tar.xz", "knee_singlecoil_val.tar.xz")

# the command `mrsr`, less patient, and with all logging turned on
IMPATIENT = """
import logging
logging.basicConfig(level=logging.DEBUG)
from mrsr import cli
from mrsr.raw import download
download.TIMEOUT, download.FIRST_WAIT, download.LONGEST_WAIT = (1.0, 0.3), 0.0, 0.0
cli.main()
"""


def packed(folder: Path, *more: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=0) as archive:
        archive.add(folder, arcname=folder.name)
        for info in more:
            archive.addfile(info)
    return out.getvalue()


def without_secret(folder: Path, *texts: str) -> None:
    """Nothing that was printed or written holds the secret, also not quoted or in UTF-16."""
    for text in texts:
        assert SECRET not in text
    needles = [SECRET.encode(), SECRET.encode("utf-16-le"), SECRET.encode().hex().encode()]
    found = [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]
    assert not found


TROUBLE = {
    "not there": "the server answers 404",
    "expired": "the server answers 403",
    "no answer": "gave up after",
    "silence": "gave up after",
    "nobody there": "gave up after",
    "half": "damaged",
    "a web page": "damaged",
    "no scans": "holds no .h5 files",
    "link": "nothing was unpacked",
    "outside": "nothing was unpacked",
    "not a URL": "not a usable address",
    "wrong scheme": "cannot fetch ftp",
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_signed_link_stays_secret_in_trouble(tmp_path: Path, trouble: str) -> None:
    write_knees(tmp_path / "in" / "singlecoil_train", 1000, 2)
    whole = packed(tmp_path / "in" / "singlecoil_train")
    name, work = ARCHIVES[0], tmp_path / "work"
    work.mkdir()
    with serving({name: whole}) as publisher, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and never accepts
        url = f"{publisher.url}/{name}?{SECRET}"
        if trouble == "not there":
            publisher.files.clear()
        elif trouble == "expired":
            publisher.answers[name] = [403]
        elif trouble == "no answer":
            publisher.breaks[name] = [0] * 20
        elif trouble == "silence":
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/{name}?{SECRET}"
        elif trouble == "nobody there":
            url = f"http://127.0.0.1:1/{name}?{SECRET}"
        elif trouble == "half":
            publisher.files[name] = whole[: len(whole) // 2]
        elif trouble == "a web page":
            publisher.files[name] = b"<html>please sign in</html>" * 99
        elif trouble == "no scans":
            (tmp_path / "in" / "nothing").mkdir()
            publisher.files[name] = packed(tmp_path / "in" / "nothing")
        elif trouble in ("link", "outside"):
            info = tarfile.TarInfo("../evil.h5" if trouble == "outside" else "link.h5")
            if trouble == "link":
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            publisher.files[name] = packed(tmp_path / "in" / "singlecoil_train", info)
        elif trouble == "not a URL":
            url = f"http://127.0.0.1:{SECRET}/{name}?{SECRET}"
        else:
            url = f"ftp://127.0.0.1/{name}?{SECRET}"
        done = subprocess.run(
            [sys.executable, "-c", IMPATIENT, "raw", "fastmri", "--settings", SETTINGS],
            cwd=work,
            env={**os.environ, LINKS[0]: url, LINKS[1]: f"{publisher.url}/{ARCHIVES[1]}?{SECRET}"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("mrsr: error: ") and TROUBLE[trouble] in line
    assert "Traceback" not in done.stderr
    assert not (work / "data/raw/fastmri/manifest.csv").exists()
    assert not list(tmp_path.rglob("evil.h5"))
    without_secret(work, done.stdout, done.stderr)


SETTINGS = json.dumps({
    "source": "", "pairs": "", "pairs_train": 3, "pairs_test": 1, "validation": 1, "seed": 0,
})  # fmt: skip


def larger_knees(folder: Path, first: int, people: int) -> None:
    """Images of 32x32, which networks and metrics can work on."""
    header = KNEE_HEADER
    for small, large in ((12, 40), (8, 32), (6, 32), (7, 31), (4, 16)):
        header = header.replace(f">{small}<", f">{large}<")
    write_knees(folder, first, people)
    for path in folder.iterdir():
        random = np.random.default_rng(zlib.crc32(path.stem.encode()))
        with h5py.File(path, "r+") as file:
            del file["kspace"], file["ismrmrd_header"]
            file["kspace"] = random.normal(size=(3, 40, 32, 2)).view(np.complex128)[..., 0]
            file["ismrmrd_header"] = header


def test_a_signed_link_stays_secret_in_a_whole_run(tmp_path: Path) -> None:
    """raw, slices, a training, metrics and tables; then every byte of the project is looked at."""
    project = copy_project(tmp_path / "project")
    edit_params(project, {
        "data": {
            "sources": {"fastmri": json.loads(SETTINGS)},
            "datasets": {"fastmri": {"crop": None, "central_slices": None}},
        },
        "tracked": ["secret"],
    })  # fmt: skip
    edit_experiment(project, "secret", {
        "description": "knees behind signed links",
        "grid": [{"datasets": ["fastmri"], "scales": [2], "methods": ["srcnn"]}],
        "tables": {"table2": ["fastmri"]},
        "set": {"sr": {"steps": 2, "batch": 2, "patch": 4, "validate_every": 2}},
    })  # fmt: skip
    files = {}
    for name, first, people in ((ARCHIVES[0], 1000, 3), (ARCHIVES[1], 2000, 1)):
        folder = tmp_path / "in" / name.removeprefix("knee_").removesuffix(".tar.xz")
        larger_knees(folder, first, people)
        files[name] = packed(folder)
    order = ["snakemake", "--cores", "2", "--printshellcmds", "--show-failed-logs"]
    order += ["metrics", "--config", "experiment=secret"]
    with serving(files) as publisher:
        urls = (f"{publisher.url}/{name}?{SECRET}" for name in ARCHIVES)
        links = dict(zip(LINKS, urls, strict=True))
        printed = [run(project, *order, **links, MLFLOW_TRACKING_URI="").stdout]
        assert len(publisher.requests) == 2
        assert all(SECRET in path for path, _ in publisher.requests)
    run(project, "mrsr", "track")
    named = ("raw-fastmri", "slices-secret", "checkpoints-secret", "metrics-secret")
    printed.append(run(project, "dvc", "commit", "--verbose", "--force", *named, **links).stdout)
    assert (project / "results/secret/metrics/fastmri/x2/srcnn.json").exists()
    assert (project / "mlflow.db").exists()
    assert "results/secret/metrics" in (project / "dvc.lock").read_text()
    without_secret(project, *printed)
