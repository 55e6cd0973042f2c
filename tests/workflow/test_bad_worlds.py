"""What the world does to files: damage, malice, strangers. docs/reliability.md lists all of it.

Full disks, Snakemake and signed links: test_bad_worlds_slow.py. Parameters: test_loading.py.
Run: pytest tests/workflow/test_bad_worlds.py
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch

import builders
from mrsr import checkpoint, cli, models
from mrsr.compute import Machine
from mrsr.errors import UserError, guarded
from mrsr.files import LOCK, alone, atomic, full_disk_told
from mrsr.models import unetr
from mrsr.slices import slicing, store
from mrsr.training import resume, train_sr
from project import bound

HERE = Machine(torch.device("cpu"))


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The line on stderr; nothing else may be there."""
    said = capfd.readouterr().err
    assert said.startswith("mrsr: error: ") and said.count("\n") == 1, said
    return said


# damaged files ---------------------------------------------------------------------------------


def saved(path: Path) -> dict[str, Any]:
    """A checkpoint; its content."""
    torch.manual_seed(0)
    options = {"features": 4, "blocks": 1, "norm": "batch"}
    content = {
        "model_name": "srresnet",
        "options": options,
        "scale": 2,
        "weights": models.build("srresnet", 2, options).state_dict(),
        "settings": {"steps": 3, "losses": {"l1": 1.0}},
        "provenance": {"commit": "c0ffee"},
    }
    checkpoint.save(path, **content)
    return content


def flips(content: bytes, count: int) -> list[bytes]:
    """Copies with one flipped bit each, the same at each call."""
    chosen = random.Random(0)
    copies = []
    for place in chosen.sample(range(len(content)), count):
        copy = bytearray(content)
        copy[place] ^= 1 << chosen.randrange(8)
        copies.append(bytes(copy))
    return copies


def test_a_flipped_bit_in_a_checkpoint_never_changes_a_network(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    content = saved(path)
    whole = path.read_bytes()
    refused = 0
    for copy in flips(whole, 400):
        path.write_bytes(copy)
        try:
            found = checkpoint.load(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and "best.pt" in str(error)
            continue
        # padding, and fields of the archive that nobody reads
        assert (found.model_name, found.options) == ("srresnet", content["options"])
        assert (found.settings, found.provenance) == (content["settings"], content["provenance"])
        assert all(torch.equal(found.weights[k], v) for k, v in content["weights"].items())
    assert refused > 100


def test_a_weight_that_flipped_is_named_as_damage(tmp_path: Path) -> None:
    """torch alone would read it without a word."""
    path = tmp_path / "best.pt"
    weights = saved(path)["weights"]
    largest = max(weights.values(), key=torch.numel).contiguous()
    whole = bytearray(path.read_bytes())
    whole[whole.index(largest.numpy().tobytes()) + 40] ^= 64
    path.write_bytes(whole)
    torch.load(path, weights_only=True)
    with pytest.raises(UserError, match=r"best\.pt is damaged.*checksum.*copy it again or retrain"):
        checkpoint.load(path)


def test_checkpoints_of_the_format_before_are_read(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    saved(path)
    content = torch.load(path, weights_only=True)
    del content["sha256"]
    for number, accepted in ((1, True), (2, False), (3, False)):
        torch.save(content | {"format": number}, path)
        if accepted:
            assert checkpoint.load(path).model_name == "srresnet"
        else:
            with pytest.raises(UserError, match=r"damaged|update mrsr"):
                checkpoint.load(path)


def test_a_flipped_bit_anywhere_in_a_state_gives_the_one_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = torch.nn.Linear(3, 2)
    for step in (1, 2):
        resume.save(tmp_path, HERE, step=step, digest="d", parts={"network": network})
    path = tmp_path / resume.NAME
    whole = path.read_bytes()
    for copy in [*flips(whole, 200), whole[:-1], whole[: len(whole) // 2], b""]:
        path.write_bytes(copy)
        state = resume.load(tmp_path, HERE, digest="d")
        assert state is not None and state["step"] == 1
        assert capfd.readouterr().err == "mrsr: resume.pt is damaged, it is left aside\n"


def test_a_flipped_bit_in_a_slice_store_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "test.h5"
    noise = np.random.default_rng(0).integers(0, 30000, (3, 24, 24)).astype("int16")
    smooth = np.tile(np.arange(24, dtype="int16"), (3, 24, 1))
    with slicing.new_store(path) as file:
        file.attrs["format"] = store.FORMAT
        for name in ("dataset", "digest"):
            file.attrs[name] = store.fixed(name)
        file.create_group("volumes")
        for number, data in enumerate((noise, smooth)):  # HDF5 stores noise without zlib
            volume = slicing.Sliced(
                data=data,
                scale=100.0,
                slope=1.0,
                intercept=0.0,
                slice_index=[0, 1, 2],
                affine=np.eye(4),
                voxel_size=(1.0, 1.0, 1.0),
                labels=(data > 9).astype("uint8"),
            )
            slicing.write_volume(file, number, volume, subject="s", visit="", path="s.nii")

    def content() -> Any:
        volumes = store.read_store(path)
        arrays = [(store.read_slices(path, v), store.read_labels(path, v, [1])) for v in volumes]
        return [repr(v) for v in volumes], store.attributes(path), [
            array.tobytes() for pair in arrays for array in pair
        ]  # fmt: skip

    before, whole, refused = content(), path.read_bytes(), 0
    for copy in [*flips(whole, 300), *(whole[: len(whole) * n // 9] for n in range(9))]:
        path.write_bytes(copy)
        try:
            assert content() == before
        except UserError as error:
            refused += 1
            assert "test.h5" in str(error) and "slice again" in str(error)
    assert refused > 150


AFFINES = {
    "NaN": np.full((3, 4), np.nan),
    "infinite": np.diag([1, 1, np.inf, 1])[:3],
    "singular": np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]),
    "flat": np.diag([1, 1, 0, 1])[:3],
    "zooms of 1e9": np.diag([1e9, 1e9, 1e9, 1])[:3],
    "zooms of 1e-9": np.diag([1e-9, 1e-9, 1e-9, 1])[:3],
    "lost in space": np.array([[1, 0, 0, 9e9], [0, 1, 0, 0], [0, 0, 1, 0]]),
}


@pytest.mark.parametrize("kind", AFFINES)
def test_an_absurd_affine_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, out = tmp_path / "scan.nii", tmp_path / "out.nii"
    values = np.random.default_rng(0).random((8, 9, 5)).astype("float32")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    with open(path, "rb+") as file:
        file.seek(254)  # sform_code, and the rows from byte 280 on
        file.write((1).to_bytes(2, "little"))
        file.seek(280)
        file.write(AFFINES[kind].astype("<f4").tobytes())
    for task in (["enhance", "-m", "bicubic", "--scale", "2"], ["degrade"]):
        monkeypatch.setattr(sys, "argv", ["mrsr", *task, str(path), str(out)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        assert "scan.nii" in one_line(capfd)
        assert [file.name for file in tmp_path.iterdir()] == ["scan.nii"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("srcnn", {"features": [-8, 4]}),
        ("srcnn", {"features": 8}),
        ("srcnn", {"kernels": ["a", 5, 5]}),
        ("srresnet", {"features": -3}),
        ("srresnet", {"features": "many"}),
        ("srresnet", {"blocks": "../../etc"}),
        ("srresnet", {"blocks": None}),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"srcnn|srresnet|kernels") as caught:
        models.build(name, 2, options)
    assert "\n" not in str(caught.value)


# malice ----------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (self.target,)


def bombs(target: Path) -> dict[str, bytes]:
    """Files that would run code: a pickle, and archives of torch.save."""
    made = {"pickle": pickle.dumps(Bomb(target))}
    for name, content in {
        "archive": {"format": 2, "weights": {"a": Bomb(target)}, "sha256": "0" * 64},
        "nested": {"state_dict": {"a": torch.ones(2), "b": Bomb(target)}},
    }.items():
        buffer = io.BytesIO()
        torch.save(content, buffer)
        made[name] = buffer.getvalue()
    return made


@pytest.mark.parametrize("kind", ["pickle", "archive", "nested"])
def test_no_bomb_goes_off(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    target, path = tmp_path / "executed", tmp_path / "best.pt"
    content = bombs(target)[kind]
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on the pickle's protocol
        with pytest.raises(pickle.UnpicklingError):  # it is a bomb: torch says so
            torch.load(path, weights_only=True)

    # best.pt: loaded, applied to a scan, printed
    scan = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.random.rand(8, 9, 5).astype("float32"), np.eye(4)), scan)
    with pytest.raises(UserError, match="holds code"):
        checkpoint.network(path)
    monkeypatch.setattr(sys, "argv", ["mrsr", "enhance", str(scan), f"{scan}.gz", "-m", str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "holds code" in one_line(capfd)
    with pytest.raises(SystemExit) as stop:
        checkpoint.main([str(path)])
    assert stop.value.code == 2 and "holds code" in one_line(capfd)

    # the user's own transformer weights
    with pytest.raises(UserError, match="holds code"):
        unetr.load_weights(torch.nn.Linear(2, 2), path)

    # resume.pt, with a checksum that is right
    state = resume.MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    for name in (resume.NAME, resume.PREVIOUS):
        (tmp_path / name).write_bytes(state)
    assert resume.load(tmp_path, HERE, digest="d") is None
    assert capfd.readouterr().err.count("is damaged, it is left aside") == 2
    assert not target.exists()


# one folder, two processes ---------------------------------------------------------------------

HOLD = """
import sys, time
from mrsr.files import alone
with alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return builders.toy_stores(tmp_path)


def command(folder: Path, out: str) -> list[str]:
    """Arguments of a training of two steps."""
    return builders.command(folder, folder / out, builders.sr(steps=2))


def test_a_second_training_on_a_folder_is_refused_until_the_first_is_gone(
    toy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(toy / "out")], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        (toy / "out" / ".tmp-half.pt").write_bytes(b"half")
        with pytest.raises(SystemExit) as stop:
            train_sr.main(command(toy, "out"))
        assert stop.value.code == 2
        said = one_line(capfd)
        assert f"another process is writing to {toy / 'out'}" in said
        names = {file.name for file in (toy / "out").iterdir()}
        assert names == {LOCK, ".tmp-half.pt"}  # the first one's
        train_sr.main(command(toy, "other"))
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (toy / "out" / LOCK).exists()
    train_sr.main(command(toy, "out"))
    names = {file.name for file in (toy / "out").iterdir()}
    assert names == {"best.pt", "last.pt", "log.jsonl"}


def test_the_lock_is_the_processes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(tmp_path / "new" / "folder"):
        with pytest.raises(UserError, match="another process"), alone(tmp_path / "new" / "folder"):
            pass
        with monkeypatch.context() as second:  # of one training on two GPUs
            second.setenv("RANK", "1")
            with alone(tmp_path / "new" / "folder"):
                pass
    with alone(tmp_path / "new" / "folder"):
        pass
    assert not list((tmp_path / "new" / "folder").iterdir())


# places that cannot be written to --------------------------------------------------------------


# exit codes of several commands, of which each would import torch anew
ONE_AFTER_ANOTHER = """
import importlib, json, sys
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv = [module, *arguments]
    try:
        importlib.import_module(module).main(*[] if module == "mrsr.cli" else [arguments])
    except SystemExit as stop:
        print(stop.code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="setpriv is of Linux")
def test_a_folder_without_permission_is_one_line(toy: Path) -> None:
    results = toy / "results"
    (results / "there").mkdir(parents=True)
    commands = [
        ["mrsr.training.train_sr", *command(toy, "results/new")],
        ["mrsr.training.train_sr", *command(toy, "results/there")],
        ["mrsr.cli", "tracking-init", "--settings", "{}", "--out", f"{results}/there/ready"],
    ]
    (results / "there").chmod(0o555)
    results.chmod(0o555)
    try:
        order = [*bound(), sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)]
        environment = os.environ | {"MRSR_TRACKING": "off"}
        done = subprocess.run(order, capture_output=True, text=True, env=environment)
        lines = done.stderr.splitlines()
        assert done.stdout == "2\n2\n2\n" and len(lines) == 3, done.stderr
        assert all("Permission denied" in line and str(results) in line for line in lines)
        assert [file.name for file in results.rglob("*")] == ["there"]
    finally:
        results.chmod(0o755)
        (results / "there").chmod(0o755)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_told_and_leaves_the_file_before(tmp_path: Path, wrapped: bool) -> None:
    """test_bad_worlds_slow.py has real full disks."""
    path = tmp_path / "best.pt"
    path.write_bytes(b"good")
    message = r"best\.pt: No space left on device; free"
    with pytest.raises(UserError, match=message) as caught, atomic(path) as temporary:
        temporary.write_bytes(b"half")
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            if wrapped:  # as torch.save does
                raise RuntimeError("enforce fail")  # noqa: B904
            raise
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]
    assert path.read_bytes() == b"good"
    with pytest.raises(PermissionError), full_disk_told(path):
        raise PermissionError(13, "Permission denied")


def test_a_full_disk_that_nobody_expected_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", "somewhere")

    with pytest.raises(SystemExit) as stop:
        guarded(full)()
    assert stop.value.code == 2
    assert "No space left on device (somewhere); free some space" in one_line(capfd)


def test_a_store_is_read_by_plain_h5py(tmp_path: Path) -> None:
    """Its strings are text there too."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["name"] = store.fixed("Müller")
        file.attrs["empty"] = store.fixed("")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["name"].decode() == "Müller" and file.attrs["empty"] == b""
