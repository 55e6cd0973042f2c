"""What README and docs say is there and runs: paths, commands, options, links.

pytest tests/test_docs.py
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from builders import parse
from mrsr import cli
from mrsr.params import loading
from mrsr.params.typed import plain
from project import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "config" / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
BIN = Path(sys.executable).parent
# written by running the project, so absent from a fresh clone
MADE = {"data/"}
# what docs/howto/write-an-experiment.md writes; tests/workflow/test_adding.py runs it
MINE = "mine"


def _blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)


def _commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command in a bash block, without comments and assignments."""
    found = []
    for page in PAGES:
        for block in _blocks(page, "bash"):
            for line in block.splitlines():
                for part in line.split("#")[0].split("&&"):
                    words = shlex.split(part)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words = words[1:]
                    if words:
                        words[0] = words[0].removeprefix(".venv/bin/")
                        found.append((page.relative_to(ROOT).as_posix(), words))
    return found


COMMANDS = _commands()


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    return subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def _ids(commands: list[tuple[str, list[str]]]) -> list[str]:
    return [f"{page}: {' '.join(words)[:60]}" for page, words in commands]


SLOW = pytest.mark.slow
MRSR = [item for item in COMMANDS if item[1][0] == "mrsr"]
CHEAP = [
    item
    for item in COMMANDS
    if item[1][:2] == ["mrsr", "params"] or (item[1][0] == "snakemake" and "--dry-run" in item[1])
]
# once each, however many pages show it; a dry run takes seconds, so all but one are slow tests
CHEAP = [
    pytest.param(
        *found, id=words, marks=SLOW if "snakemake" in words and "=smoke" not in words else ()
    )
    for words, found in {" ".join(words): (page, words) for page, words in CHEAP}.items()
    if "..." not in words and MINE not in words.replace("=", " ").split()
]


def _tree() -> str:
    page = ROOT / "docs" / "where-things-are.md"
    return next(block for block in _blocks(page, "text") if "Snakefile" in block)


def test_the_tree_of_the_docs_exists() -> None:
    tree = _tree()
    paths = [line.split()[0] for line in tree.splitlines() if line.strip()]
    assert len(paths) > 20
    missing = [path for path in paths if path not in MADE and not (ROOT / path).exists()]
    assert not missing


def test_the_tree_has_a_comment_per_path() -> None:
    tree = _tree()
    assert all(len(line.split()) > 2 for line in tree.splitlines() if line.strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_there_are_commands() -> None:
    assert len(MRSR) > 5
    assert len(CHEAP) > 2


@pytest.mark.parametrize(("page", "words"), MRSR, ids=_ids(MRSR))
def test_mrsr_commands_parse(page: str, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize(("page", "words"), CHEAP)
def test_cheap_commands_run(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "mrsr":
        monkeypatch.chdir(ROOT)
        assert CliRunner().invoke(cli.app, words[1:]).exit_code == 0, page
        return
    result = _run([words[0], "--nolock", "--rerun-incomplete", *words[1:]])
    assert result.returncode == 0, f"{page}\n{result.stdout[-1500:]}\n{result.stderr[-1500:]}"


def test_make_targets_and_experiments_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    experiments = [*loading.names(ROOT / "params.yaml"), MINE]
    for page, words in COMMANDS:
        if words[0] == "make":
            for target in words[1:]:
                assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), (page, target)
        for word in words:
            name = re.fullmatch(r"experiment=(\w+)", word)
            if name:
                assert name[1] in experiments, (page, word)


def _below(value: object, part: str) -> list[object]:
    """What lies at one part of a dotted path; * stands for any key, lists are entered."""
    if isinstance(value, list):
        return [found for item in value for found in _below(item, part)]
    if isinstance(value, dict):
        pattern = re.compile(part.replace("*", ".*"))
        return [found for key, found in value.items() if pattern.fullmatch(str(key))]
    return []


def test_parameters_named_in_replication_exist() -> None:
    """`a.b.c` of the parameter column is a setting, given in params.yaml or with a default."""
    params = plain(loading.load(ROOT / "params.yaml", "paper").params)
    params["experiments"] = {
        name: plain(loading.load(ROOT / "params.yaml", name).experiment)
        for name in loading.names(ROOT / "params.yaml")
    }
    sections = r"`((?:data|vit|autoencoder|sr|metrics|methods|experiments)\.[^`]+)`"
    checked = 0
    for line in (ROOT / "docs" / "replication.md").read_text().splitlines():
        cells = line.split("|")
        if len(cells) != 6 or cells[3].strip() in ("parameter", "none", "---"):
            continue
        for path in re.findall(sections, cells[3]):
            nodes: list[object] = [params]
            for part in path.split("."):
                nodes = [found for node in nodes for found in _below(node, part)]
            assert nodes, path
            checked += 1
    assert checked > 50


def test_documented_exit_codes_are_the_code() -> None:
    from mrsr import compute, errors

    codes = {
        0,
        errors.BAD_INPUT,
        errors.DIVERGED,
        errors.INTERRUPTED,
        compute.LostProcess.exit_code,
    }
    for page in (ROOT / name for name in ("docs/design.md", "docs/reliability.md")):
        section = page.read_text(encoding="utf-8").split("## Exit codes")[1].split("\n## ")[0]
        assert {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == codes


def _tracked() -> list[Path]:
    listed = _run(["git", "ls-files", "-z"])
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_tracked_files_name_no_private_place() -> None:
    """No absolute path of a developer's machine, no package index or mirror host."""
    root = str(ROOT)
    forbidden = [
        r"/(?:home|Users)/[a-z]\w*/",
        r"/(?:work|workspace|root)/\w",
        r"/opt/(?:wheels|pypi)",
        r"--(?:extra-)?index-url[ =]\S*//",
        r"https?://[^\s/]*(?:pypi|artifactory|nexus|devpi)[^\s/]*/",
    ]
    pattern = re.compile("|".join(forbidden))
    for path in _tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found[0]}"
        assert len(ROOT.parts) < 3 or f"{root}/" not in text, path


def test_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_citation_is_valid_yaml_and_names_the_version() -> None:
    import mrsr

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mrsr.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
