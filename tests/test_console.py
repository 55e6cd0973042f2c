"""Lines and bars that people see. Run: pytest tests/test_console.py"""

from __future__ import annotations

import sys
import types

import pytest

from mrsr import console


def test_lines_are_recorded_and_shown(capfd):
    with console.recorded() as outer:
        console.say("one")
        with console.recorded() as inner:
            console.say("two")
        console.say("three")
    console.say("four")
    assert (outer, inner) == (["one", "two", "three"], ["two"])
    assert capfd.readouterr().err == "mrsr: one\nmrsr: two\nmrsr: three\nmrsr: four\n"


def test_recording_ends_with_an_error():
    with pytest.raises(ValueError, match="broken"), console.recorded() as lines:
        raise ValueError("broken")
    console.say("later")
    assert lines == []


def test_no_bar_in_a_log_and_one_in_a_notebook(monkeypatch, capfd):
    """A notebook's streams are no terminal, and somebody watches nevertheless."""
    with console.bar(3, "slice") as bar:
        assert bar.disable
    assert capfd.readouterr().err == ""
    shell = types.ModuleType("IPython")
    shell.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", shell)
    with console.bar(3, "slice", "volume 2") as bar:
        assert not bar.disable
    assert "volume 2" in capfd.readouterr().err
    shell.get_ipython = lambda: None  # IPython is imported, and no notebook
    with console.bar(3, "slice") as bar:
        assert bar.disable
