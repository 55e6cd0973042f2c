"""Checkpoints: what they hold, and what is refused. `pytest tests/test_checkpoint.py`."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mrsr import checkpoint, models
from mrsr.errors import UserError

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
    monkeypatch.setattr(checkpoint, "_git", lambda *_: "")
    monkeypatch.setenv("MRSR_COMMIT", "abc")
    assert checkpoint.commit() == "abc"


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
