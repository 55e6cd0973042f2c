"""Text and names from outside need not be UTF-8: one line, or they work. Line 10 of the list."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrsr.errors import UserError
from mrsr.files import write_text
from mrsr.params.loading import read_yaml

TEXT = "# Größe: é, 雪\nsr: {steps: 3}\nlabel: naïve\n"


@pytest.mark.parametrize(
    ("encoding", "read"),
    [
        ("utf-8", True), ("utf-8-sig", True), ("latin-1", False), ("cp1252", False),
        ("utf-16", False), ("utf-16-le", False), ("utf-16-be", False), ("utf-32", False),
        ("shift-jis", False), ("cp037", False), ("utf-7", True),
    ],
)  # fmt: skip
def test_line_10_settings_in_other_encodings(tmp_path: Path, encoding: str, read: bool) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(TEXT.encode(encoding, "ignore"))
    if read:
        assert read_yaml(file)["sr"] == {"steps": 3}
        return
    with pytest.raises(UserError, match=r"params\.yaml is not (UTF-8|YAML)"):
        read_yaml(file)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-16")),
        st.text("[]{}:,?-&*!|>'\"%@`#\n 1aé~<", max_size=40).map(str.encode),
    )
)
def test_line_10_settings_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    try:
        assert isinstance(read_yaml(file), dict)
    except UserError as error:
        assert "any.yaml" in str(error)


def test_line_10_settings_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(UserError, match=r"deep\.yaml"):
        read_yaml(tmp_path / "deep.yaml")


def test_line_10_a_name_that_is_not_utf_8_in_a_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xfcller.nii")
    with pytest.raises(UserError, match=r"not UTF-8: 2,m\\udcfcller\.nii,x; rename that file"):
        write_text(tmp_path / "manifest.csv", f"1,a.nii\n2,{name},x\n3,b.nii\n")
    assert not list(tmp_path.iterdir())


LOCALES = {
    "UTF-8": {"LANG": "C.UTF-8"},
    "strict UTF-8": {"LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    "C": {"LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
              "PYTHONIOENCODING": "ascii:strict"},
    "Latin-1": {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1:strict"},
}  # fmt: skip
# three commands in one process each: torch is imported once
COMMANDS = """
import os, sys
from mrsr import cli
folder = sys.argv[1]
for name in (b"m\\xfcller", "m\\u00fcller \\u00e9 \\u96ea".encode()):
    scan = os.path.join(folder, os.fsdecode(name + b".nii"))
    out = os.path.join(folder, os.fsdecode(name + b"-out.nii"))
    for words in (
        ["enhance", scan, out, "--model", "bicubic", "--scale", "2", "--overwrite"],
        ["score", out, out],
        ["enhance", "no" + scan, out, "--model", "bicubic", "--scale", "2", "--overwrite"],
    ):
        sys.argv = ["mrsr", *words]
        try:
            cli.main()
        except SystemExit as end:
            print("CODE", end.code or 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("locale", LOCALES)
def test_line_10_names_of_scans_in_every_locale(tmp_path: Path, locale: str) -> None:
    values = np.random.default_rng(0).random((8, 8, 2), np.float32)
    image = nibabel.Nifti1Image(values, np.diag([1, 1, 4, 1.0]))
    nibabel.save(image, tmp_path / "scan.nii")
    names = (b"m\xfcller", "müller é 雪".encode())
    for name in names:
        (tmp_path / os.fsdecode(name + b".nii")).write_bytes((tmp_path / "scan.nii").read_bytes())
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(tmp_path)],
        env=kept | LOCALES[locale],
        capture_output=True,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 0 and b"Traceback" not in shown, shown.decode("utf-8", "replace")
    assert done.stdout.count(b"CODE 2") == 2, shown.decode("utf-8", "replace")
    assert done.stderr.count(b"mrsr: error: no file ") == 2
    for name in names:
        assert nibabel.load(tmp_path / os.fsdecode(name + b"-out.nii")).shape == (16, 16, 2)
