"""Line 20 of issue 11: a network's code is part of what decides; comments and layout are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mrsr.params import code, declared, settings_files

NETWORK = '''"""A network."""

from torch import nn

from mrsr.models import extra
from mrsr.models.shared import layer


def build(scale: int, *, width: int = 3) -> nn.Module:
    """Build it."""
    return nn.Sequential(layer(width), extra.layer(scale))  # two
'''
SHARED = "def layer(n):\n    return n + 1\n"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of models in place of the package's."""
    monkeypatch.setattr(declared, "PACKAGE_FOLDERS", (tmp_path,))
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "net.py").write_text(NETWORK)
    (folder / "shared.py").write_text(SHARED)
    (folder / "extra.py").write_text(SHARED)
    (folder / "other.py").write_text(SHARED)
    yield folder
    forget()


def forget() -> None:
    """A process reads a file once."""
    code.model_code.cache_clear()
    declared.tree.cache_clear()


def changed(folder: Path, name: str, text: str) -> bool:
    """Whether the digest of net.py differs once a file has this text."""
    forget()
    before = code.model_code("net")
    old = (folder / name).read_text()
    (folder / name).write_text(text)
    forget()
    after = code.model_code("net")
    (folder / name).write_text(old)
    assert len(before) == len(after) == 12
    return before != after


@pytest.mark.parametrize(
    "text",
    [
        NETWORK.replace("# two", "# three"),
        NETWORK.replace('"""Build it."""', '"""Build the network."""'),
        NETWORK.replace('"""A network."""\n', ""),
        NETWORK.replace("layer(width), extra", "layer(width),\n        extra"),
        NETWORK.replace("return nn.Sequential(", "return (nn.Sequential)("),
        NETWORK.replace("\n\n\n", "\n\n\n\n"),
    ],
)
def test_line_20_remarks_and_layout_do_not_count(models: Path, text: str) -> None:
    assert text != NETWORK
    assert not changed(models, "net.py", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net.py", NETWORK.replace("width: int = 3", "width: int = 4")),
        ("net.py", NETWORK.replace("layer(width)", "layer(1 + width)")),
        ("net.py", NETWORK + "\n\nGUIDED = True\n"),
        ("shared.py", SHARED.replace("1", "2")),
        ("extra.py", SHARED.replace("n + 1", "n * 1")),
    ],
)
def test_line_20_code_counts_that_of_imported_files_too(models: Path, name: str, text: str) -> None:
    assert changed(models, name, text)


def test_line_20_other_files_do_not_count(models: Path) -> None:
    assert not changed(models, "other.py", SHARED.replace("1", "2"))


def test_line_20_the_digest_is_the_same_in_every_python() -> None:
    """Fields that later versions of Python added are empty, and empty fields are left out."""
    tree = code._plain(declared.ast.parse("def f(a: int = 1, *, b=None) -> str:\n    return a\n"))
    assert tree == ["Module", {"body": [["FunctionDef", {
        "name": "'f'",
        "args": ["arguments", {
            "args": [["arg", {"arg": "'a'", "annotation": ["Name", {
                "id": "'int'", "ctx": ["Load", {}]}]}]],
            "kwonlyargs": [["arg", {"arg": "'b'"}]],
            "kw_defaults": [["Constant", {}]],
            "defaults": [["Constant", {"value": "1"}]],
        }],
        "body": [["Return", {"value": ["Name", {"id": "'a'", "ctx": ["Load", {}]}]}]],
        "returns": ["Name", {"id": "'str'", "ctx": ["Load", {}]}],
    }]]}]  # fmt: skip


def test_line_20_every_network_of_the_project_has_a_digest_of_its_own(root: Path) -> None:
    from mrsr.params import loading

    names = declared.model_names()
    assert len({code.model_code(name) for name in names}) == len(names)
    jobs = settings_files.every_job(loading.load(root / "params.yaml", "demo"))
    for name, job in jobs.items():
        if name.startswith("checkpoints/"):
            assert len(getattr(job, "code", "") or job.model.code) == 12, name
        if name.startswith("metrics/"):
            assert len(job.model.code) == 12, name
