"""`mrsr --help`: panels, examples that parse, the version, and no heavy import.

Run: pytest tests/commands/test_cli_help.py
"""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import mrsr
from builders import parse
from mrsr import cli
from mrsr.commands.help import PANELS

GROUP = typer.main.get_command(cli.app)
EXAMPLES = [
    (name, example)
    for commands in PANELS.values()
    for name, examples in commands.items()
    for example in examples
]


def shown(*arguments: str) -> str:
    """What `mrsr` prints on a wide terminal."""
    environment = {"COLUMNS": "300", "TERMINAL_WIDTH": "300", "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(cli.app, list(arguments), env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_command_is_in_one_panel() -> None:
    listed = [name for commands in PANELS.values() for name in commands]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(GROUP.commands)


def test_help_shows_the_panels_in_order() -> None:
    text = shown("--help")
    marks = [text.index(f"─ {panel} ─") for panel in PANELS]
    assert marks == sorted(marks)
    for mark, end, commands in zip(marks, [*marks[1:], len(text)], PANELS.values(), strict=True):
        names = [line.split()[1] for line in text[mark:end].splitlines()[1:] if line[:2] == "│ "]
        assert names == list(commands)


def test_version() -> None:
    assert shown("--version") == f"mrsr {mrsr.__version__}\n"


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[e for _, e in EXAMPLES])
def test_examples_parse(name: str, example: str) -> None:
    words = shlex.split(example)
    assert words[:2] == ["mrsr", name]
    parse(words)


def test_an_example_with_a_wrong_option_does_not_parse() -> None:
    with pytest.raises(Exception, match="No such option: --factor"):
        parse(["mrsr", "degrade", "a.nii", "b.nii", "--factor", "2"])


@pytest.mark.parametrize("name", GROUP.commands)
def test_help_of_a_command_ends_with_its_examples(name: str) -> None:
    lines = [line.strip() for line in shown(name, "--help").splitlines() if line.strip()]
    examples = next(commands[name] for commands in PANELS.values() if name in commands)
    assert lines[-len(examples) - 1 :] == ["Examples", *examples]


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "pandas", "monai", "mlflow", "snakemake", "pydantic", "yaml"}
    code = f"import sys, mrsr.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
