"""`--through-plane` takes a number or none, and other arguments stay as they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mrsr.commands.options import alone


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["--through-plane"], ["--through-plane", "0"]),
        (["--through-plane", "1.5", "--ensemble", "8"],) * 2,
        (["--through-plane", "--axis", "2"], ["--through-plane", "0", "--axis", "2"]),
    ],
)
def test_through_plane_alone_means_as_fine_as_the_plane(
    given: list[str], expected: list[str]
) -> None:
    assert alone(given) == expected


def test_no_arguments_show_the_help() -> None:
    done = subprocess.run([sys.executable, "-m", "mrsr.cli"], capture_output=True, text=True)
    assert "Usage:" in done.stdout + done.stderr and "Traceback" not in done.stderr
