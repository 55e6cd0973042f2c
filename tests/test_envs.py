"""One source of pins: requirements.in, the lock, conda.yaml and apptainer.def agree.

pytest tests/test_envs.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from project import ROOT

ENVS = ROOT / "envs"
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;#]+)")


def _derive() -> ModuleType:
    spec = importlib.util.spec_from_file_location("derive", ENVS / "derive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


derive = _derive()
WANTED = derive.pins(ENVS / "requirements.in")
LOCKED = derive.pins(ENVS / "requirements.lock")


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def test_every_requirement_is_pinned() -> None:
    lines = (ENVS / "requirements.in").read_text().splitlines()
    requirements = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(requirements) == len(WANTED)


def test_lock_holds_the_pins() -> None:
    assert {name: LOCKED.get(name) for name in WANTED} == WANTED


def test_lock_names_no_build_no_index_and_no_host() -> None:
    text = (ENVS / "requirements.lock").read_text()
    assert WANTED["torch"] == "2.13.0"
    assert re.search(r"^torch==2\.13\.0(\s|$)", text, flags=re.MULTILINE)
    for line in text.splitlines():
        if not line.startswith("#"):
            assert PIN.match(line), line
            assert not re.search(r"\+cpu|\+cu|://|--| @ |^-", line.split("#")[0]), line


def test_conda_environment_has_the_pins() -> None:
    environment = yaml.safe_load((ENVS / "conda.yaml").read_text())
    packages = environment["dependencies"]
    assert f"python={derive.PYTHON}" in packages
    pip = next(item["pip"] for item in packages if isinstance(item, dict))
    assert dict(PIN.fullmatch(line).groups() for line in pip) == LOCKED


def test_apptainer_definition_has_the_pins() -> None:
    text = (ENVS / "apptainer.def").read_text()
    assert f"From: python:{derive.PYTHON}-slim" in text
    assert "pip install --no-cache-dir -r /opt/mrsr/requirements.lock" in text
    labels = text.split("%labels")[1].split("%runscript")[0].split()
    assert dict(zip(labels[::2], labels[1::2], strict=True)) == WANTED


def test_untried_files_say_so() -> None:
    for name in ("conda.yaml", "apptainer.def"):
        assert "UNTESTED" in (ENVS / name).read_text()
    assert "container) step" in (ROOT / "tests/fresh/debian.sh").read_text()


def test_line_26_every_python_from_3_11_to_3_14_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """By make, and by pip when it installs the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = SpecifierSet(project["requires-python"])
    condition = re.search(r"sys\.exit\((.*)\)'", (ROOT / "Makefile").read_text())
    for version in (
        (3, 10, 14),
        (3, 11, 2),
        (3, 12, 3),
        (3, 13, 5),
        (3, 14, 0),
        (3, 15, 0),
        (4, 0),
    ):
        monkeypatch.setattr("sys.version_info", version)
        taken = (3, 11) <= version < (3, 15)
        assert (not eval(condition[1], {"sys": sys})) == taken, version
        assert wanted.contains(".".join(map(str, version))) == taken, version


def test_line_26_without_such_a_python_make_says_what_to_install(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("make", "bash", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    # one that is too old, and one without ensurepip, as Debian has it without python3-venv
    for name in ("python3.11", "python3"):
        (tools / name).write_text("#!/bin/bash\nexit 1\n")
        (tools / name).chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "envs/requirements.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    done = subprocess.run(
        ["make", "venv"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "mrsr: error: no Python 3.11 to 3.14 with venv found; install one"
    )
    assert "apt install python3-venv" in done.stderr and not (tmp_path / ".venv").exists()


def test_derived_files_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make lock` would write from today's pins is what is committed."""
    for name in ("requirements.in", "requirements.lock"):
        (tmp_path / name).write_text((ENVS / name).read_text())
    monkeypatch.setattr(derive, "ENVS", tmp_path)
    monkeypatch.setattr("sys.argv", ["derive.py"])
    derive.main()
    for name in ("conda.yaml", "apptainer.def"):
        assert (tmp_path / name).read_text() == (ENVS / name).read_text(), f"run make lock: {name}"


def test_lock_text_drops_builds_options_and_comments() -> None:
    compiled = "--find-links /somewhere\n# note\ntorch==2.13.0+cpu    # via x\nnumpy==2.4.6\n"
    lines = [line for line in derive.lock_text(compiled).splitlines() if line[0] != "#"]
    assert lines == ["torch==2.13.0    # via x", "numpy==2.4.6"]


def test_package_accepts_what_the_lock_installs() -> None:
    """The loose minima of pyproject.toml contain the versions that the lock installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(LOCKED[_name(requirement.name)]), text


def test_this_environment_is_the_lock() -> None:
    """The tests speak for the pinned versions only when these are installed."""
    for name, version in WANTED.items():
        assert importlib.metadata.version(name).split("+")[0] == version, name
