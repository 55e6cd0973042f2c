"""Checkpoints: what they hold, and what is refused. `pytest tests/test_checkpoint.py`."""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import evaluation, read
from mrsr import checkpoint, compute, enhance, models
from mrsr.errors import UserError
from mrsr.method import features
from mrsr.metrics import evaluate, probe
from mrsr.models import unetr
from mrsr.params import jobs
from mrsr.tables import timings
from mrsr.training import resume, vit_networks

OPTIONS = {"features": 4, "blocks": 1, "norm": "batch"}


def write(path: Path, **changes: Any) -> Path:
    """A checkpoint of a small network."""
    torch.manual_seed(0)
    content = {
        "model_name": "srresnet",
        "options": OPTIONS,
        "scale": 2,
        "weights": models.build("srresnet", 2, OPTIONS).state_dict(),
        "settings": {"steps": 3, "losses": {"l1": 1.0}},
        "provenance": checkpoint.provenance(),
        **changes,
    }
    checkpoint.save(path, **content)
    return path


def refused(path: Path) -> str:
    """The one line that says why a file is refused."""
    with pytest.raises(UserError) as error:
        checkpoint.network(path)
    text = str(error.value)
    assert path.name in text and "\n" not in text
    return text


def test_round_trip_gives_the_same_network(tmp_path: Path) -> None:
    path = write(tmp_path / "best.pt")
    torch.manual_seed(0)
    network = models.build("srresnet", 2, OPTIONS).eval()
    loaded = checkpoint.network(path)
    lr = torch.rand(1, 1, 6, 6)
    assert not loaded.training
    assert torch.equal(loaded(lr), network(lr))
    content = checkpoint.load(path)
    assert (content.model_name, content.scale, content.options) == ("srresnet", 2, OPTIONS)
    assert content.settings == {"steps": 3, "losses": {"l1": 1.0}}


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.pt"), write(tmp_path / "other_name.pt")
    assert one.read_bytes() == two.read_bytes()


def test_provenance_names_code_and_versions_but_no_host() -> None:
    found = checkpoint.provenance()
    assert set(found) == {"commit", "torch", "python", "threads"}
    assert found["torch"] == str(torch.__version__) and found["threads"] >= 1


def test_the_commit_comes_from_the_environment_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_git", lambda *_: ("", "git is not installed"))
    monkeypatch.setenv("MRSR_COMMIT", "abc")
    assert checkpoint.commit() == ("abc", "")
    monkeypatch.delenv("MRSR_COMMIT")
    assert checkpoint.commit() == ("", "git is not installed")


def test_line_16_why_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In repositories of all kinds that git gives no commit for."""
    (tmp_path / "checkpoint.py").write_text("")
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in ("MRSR_COMMIT", "GIT_DIR", "GIT_CEILING_DIRECTORIES"):
        monkeypatch.delenv(name, raising=False)

    def why() -> str:
        found = checkpoint.provenance()
        assert found["commit"] == "" and str(tmp_path) not in found["no_commit"]
        return found["no_commit"]

    def git(*words: str) -> None:
        named = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", *named, *words], cwd=tmp_path, check=True, capture_output=True)

    assert why() == "the code is in no git repository"
    git("init")
    assert why() == "the code is not tracked by the repository around it"
    git("add", "--all")
    assert why() == "the repository has no commit"
    git("commit", "-m", "all")
    found = checkpoint.provenance()
    assert re.fullmatch("[0-9a-f]{40}", found["commit"]) and "no_commit" not in found
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert "belongs to another user" in why()
    monkeypatch.setenv("PATH", "")
    assert why() == "git is not installed"
    monkeypatch.setenv("MRSR_COMMIT", "abc")
    assert checkpoint.provenance()["commit"] == "abc"


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path) -> None:
    plain, archive, target = tmp_path / "plain.pt", tmp_path / "archive.pt", tmp_path / "executed"
    plain.write_bytes(pickle.dumps(Bomb(target)))
    with open(archive, "wb") as file:
        torch.save({"format": 1, "weights": Bomb(target)}, file)
    for path in (plain, archive):
        refused(path)
        assert not target.exists()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_line(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "best.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path)


def test_garbage_and_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    assert "no such file" in refused(path)
    path.write_bytes(b"not a checkpoint at all" * 100)
    refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(path)
    assert "folder" in refused(tmp_path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": 1}, {"format": 99}, {"format": 1}, {"state_dict": torch.ones(1)}]
)
def test_other_peoples_files_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.pt"
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
    refused(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": "no_such_model"},
        {"model_name": "os.path"},
        {"options": {"features": 8, "blocks": 1}},
        {"options": {"colour": 8}},
        {"options": {"features": "many"}},
        {"scale": 4},
        {"weights": {}},
        {"provenance": "me"},
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    refused(write(tmp_path / "best.pt", **changes))


def test_printing_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.main([str(write(tmp_path / "best.pt"))])
    assert '"model_name": "srresnet"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        checkpoint.main([])
    assert stop.value.code == 2


VIT_OPTIONS = {
    "size": [16, 16, 16], "hidden": 12, "mlp": 24, "heads": 3, "feature_size": 4, "classes": 2,
    "dimensions": 3,
}  # fmt: skip
KINDS = {
    checkpoint.SR: ("srresnet", OPTIONS),
    checkpoint.AUTOENCODER: ("autoencoder", {}),
    checkpoint.VIT: ("unetr", VIT_OPTIONS),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_line_11_a_checkpoint_says_what_it_is(tmp_path: Path, kind: str, wanted: str) -> None:
    model, options = KINDS[kind]
    path = write(tmp_path / "best.pt", model_name=model, options=options, weights={})
    assert torch.load(path, weights_only=True)["kind"] == checkpoint.load(path).kind == kind
    if kind == wanted:
        assert checkpoint.load(path, wanted).kind == kind
        return
    with pytest.raises(UserError) as error:
        checkpoint.load(path, wanted)
    line = str(error.value)
    assert kind in line.split(", not ")[0] and wanted in line.split(", not ")[1], line
    assert "give results/<experiment>/checkpoints/" in line and "\n" not in line


@pytest.mark.parametrize("kind", KINDS)
def test_line_11_so_do_checkpoints_of_earlier_versions(tmp_path: Path, kind: str) -> None:
    model, options = KINDS[kind]
    path = write(tmp_path / "best.pt", model_name=model, options=options, weights={})
    content = torch.load(path, weights_only=True)
    del content["kind"], content["sha256"]
    torch.save(content | {"format": checkpoint.WITHOUT_DIGEST}, path)
    assert checkpoint.load(path).kind == kind


def test_line_11_files_that_are_given_by_mistake(tmp_path: Path) -> None:
    assert resume.MAGIC.startswith(b"mrsr-resume")
    files = {
        b"mrsr-resume-1 abc\nPK": "the state of an unfinished training",
        b"\x89HDF\r\n\x1a\n" + b"\0" * 90: "an HDF5 file, such as a slice store",
        b"\x1f\x8b\x08" + b"\0" * 90: "a compressed file, such as a scan",
    }
    for content, what in files.items():
        (tmp_path / "best.pt").write_bytes(content)
        assert f"is {what}, not a checkpoint; give " in refused(tmp_path / "best.pt")
    for value, what in (
        (torch.ones(3), "a single tensor"),
        ({"a.weight": torch.ones(3)}, "a file of weights alone"),
        ([1, 2], "a file with a list inside"),
        ({"a": 1}, "a table of something else"),
    ):
        torch.save(value, tmp_path / "best.pt")
        assert f"is {what}, not a checkpoint of mrsr; give " in refused(tmp_path / "best.pt")


def _reads(reader: str, path: Path) -> None:
    """Have a part of the project read a checkpoint."""
    if reader == "enhance":
        enhance(path, path.with_name("out.nii"), path)
    elif reader == "evaluate":
        settings = read(jobs.Evaluation, evaluation())
        evaluate.evaluate(settings, path, path.with_name("out.json"), path)
    elif reader == "vit loss":
        features.load_encoder(path)
    elif reader == "texture loss":
        machine = compute.Machine(torch.device("cpu"))
        features.load({"texture": 1.0}, None, {"autoencoder": path}, machine, 0)
    elif reader == "pretext":
        vit_networks.encoder(path)
    elif reader == "own weights":
        unetr.load_weights(models.build("unetr", 1, VIT_OPTIONS), path)
    elif reader == "timings":
        model, options = KINDS[checkpoint.VIT]
        timings.Part("unetr", path, model, options).network(torch.device("cpu"))


READERS = {
    "enhance": checkpoint.SR, "evaluate": checkpoint.SR, "vit loss": checkpoint.VIT,
    "texture loss": checkpoint.AUTOENCODER, "pretext": checkpoint.VIT, "own weights": "MONAI",
    "timings": checkpoint.VIT,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_line_11_every_reader_says_what_it_got(tmp_path: Path, kind: str, reader: str) -> None:
    wanted = READERS[reader]
    if kind == wanted:
        return
    model, options = KINDS[kind]
    path = write(tmp_path / "best.pt", model_name=model, options=options, weights={})
    with pytest.raises(UserError) as error:
        _reads(reader, path)
    assert kind in str(error.value) and wanted in str(error.value)


def test_line_11_so_does_the_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "best.pt")
    with pytest.raises(SystemExit) as stop:
        probe.main(["--checkpoint", str(path), "--slices", str(path), "--out", str(path)])
    assert stop.value.code == 2
    assert "a super-resolution network, not an auto-encoder" in capsys.readouterr().err
