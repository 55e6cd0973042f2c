"""`snakemake --logger mrsr`: what a run shows, on a terminal and elsewhere.

Run: pytest tests/workflow/test_display.py
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from mrsr.console import Progress as TrainingProgress
from project import ROOT
from snakemake_logger_plugin_mrsr import clock, words
from snakemake_logger_plugin_mrsr.time_left import USUAL, Progress, Spent, about
from snakemake_logger_plugin_mrsr.words import WORDS, error_line, job_words, last_step

SNAKEFILE = """
from snakemake_logger_plugin_mrsr import words
words.METHODS["srresnet"] = "SRResNet"
rule all:
    input: expand("phantom_t1/x2/{method}", method=config["methods"].split())
rule train_sr:
    output: "{dataset}/x{scale}/{method}"
    log: "logs/{dataset}/x{scale}/{method}.log"
    shell:
        "for step in 1 2 3; do echo sr  step $step/3  train: loss 1; sleep 1; done > {log} 2>&1;"
        " [ {wildcards.method} != broken ] ||"
        " {{ printf 'mrsr: error: no [GPU]; use --device cpu\\nafter\\n' >> {log}; exit 2; }};"
        " touch {output}"
"""


def command(folder: Path, methods: str, *options: str) -> list[str]:
    (folder / "Snakefile").write_text(SNAKEFILE)
    start = [sys.executable, "-m", "snakemake", "--logger", "mrsr", "--cores", "2", *options]
    return [*start, "--config", f"methods={methods}"]


def on_a_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code, and what was written to a terminal of 100 x 30, without control sequences."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        arguments, cwd=folder, stdin=end, stdout=end, stderr=end,
        env=environment | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(end)
    text = b""
    try:
        while piece := os.read(terminal, 65536):
            text += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(terminal)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())
    return process.wait(), plain.replace("\r", "\n")


def test_a_terminal_shows_one_living_display(tmp_path: Path) -> None:
    code, text = on_a_terminal(tmp_path, *command(tmp_path, "srresnet srcnn"))
    assert code == 0, text
    assert "0 of 3 steps done, less than a minute left" in text
    assert re.search(r"^  train SRResNet on phantom_t1 2x: step [123] of 3", text, re.MULTILINE)
    assert text.strip().splitlines()[-1].startswith("3 of 3 steps done in 0:")
    assert not re.search("jobid|Job stats|shell|start  ", text)
    again = on_a_terminal(tmp_path, *command(tmp_path, "srresnet srcnn"))
    assert again[0] == 0
    assert "nothing to do: everything is there and up to date" in again[1]


def test_elsewhere_a_line_per_start_and_end_and_the_error_last(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "srresnet broken", "--keep-going"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert sorted(lines[:2]) == [
        "[0/3] start  train SRResNet on phantom_t1 2x",
        "[0/3] start  train broken on phantom_t1 2x",
    ]
    finished = r"\[1/3\] done   train SRResNet on phantom_t1 2x \(0:\d\d\), less than a minute left"
    assert sum(bool(re.fullmatch(finished, line)) for line in lines) == 1
    assert lines[-3].startswith("1 of 3 steps done in 0:")
    assert lines[-2] == "failed: train broken on phantom_t1 2x, logs/phantom_t1/x2/broken.log"
    assert lines[-1] == "mrsr: error: no [GPU]; use --device cpu"
    assert len(lines) == 7
    assert "\x1b" not in done.stdout


def test_a_mistake_before_the_run_is_told(tmp_path: Path) -> None:
    wrong = command(tmp_path, "srresnet", "nowhere")
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "No rule to produce nowhere" in done.stderr


def test_every_rule_with_output_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(file.read_text() for file in sorted(ROOT.glob("workflow/rules/*.smk")))
    rules = re.findall(r"^rule (\w+):\n(?:    .*\n|\n)*?    output:", text, re.MULTILINE)
    assert set(rules) == set(WORDS) == set(USUAL)
    cell = {"dataset": "openms_t1", "scale": "2", "method": "edsr", "source": "ixi",
            "pretext": "organ", "training": "vit_organ", "column": "openms_t1_x2"}  # fmt: skip
    for rule in rules:
        assert "{" not in job_words(rule, cell)
        assert job_words(rule, cell) != rule.replace("_", " ")
    monkeypatch.setitem(words.METHODS, "edsr", "EDSR")
    assert job_words("train_sr", cell) == "train EDSR on openms_t1 2x"
    assert job_words("align_scans", {"subject": "s1"}) == "align scans s1"
    assert job_words("train_sr", {"seed": "3"}) == "train sr 3"


def test_steps_are_read_from_what_a_training_prints(tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "train.log"
    with open(log, "w") as file:
        monkeypatch.setattr("sys.stderr", file)
        progress = TrainingProgress("phantom_t1 2x srresnet", 300, 118)
        for _ in range(2):
            progress.step()
            progress.show({"loss": 0.5})
    assert last_step(log, time.time() - 60) == (120, 300)
    assert last_step(log, time.time() + 60) is None  # of an earlier run
    assert last_step(tmp_path / "absent", 0.0) is None
    log.write_text("loading\n")
    assert last_step(log, 0.0) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nmrsr: error: disk full; delete it\nb\n", "mrsr: error: disk full; delete it"),
        ("Traceback\n  File x\nKeyError: 1\n\n", "KeyError: 1"),
        ("", "the job's log is empty"),
    ],
)  # fmt: skip
def test_error_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "log").write_text(text)
    assert error_line(tmp_path / "log") == line
    assert error_line(tmp_path / "absent") == "the job left no log"


def test_time_left_from_finished_jobs() -> None:
    progress = Progress({"train_sr": 3})
    assert progress.left([], 2) is None
    progress.finished["train_sr"] += [50.0, 70.0]
    assert progress.left([], 2) == pytest.approx(3 * 60 / 2)
    # a job that says nothing has the rest of the mean to go, never less than nothing
    assert progress.left([Spent("train_sr", 20.0)], 2) == pytest.approx((40 + 180) / 2)
    assert progress.left([Spent("train_sr", 200.0)], 2) == pytest.approx(180 / 2)


def test_time_left_from_a_running_training() -> None:
    alone = Progress({})
    # a quarter in 30 s: 90 s to go, and no number of cores makes it faster
    assert alone.left([Spent("train_sr", 30.0, 0.25)], 8) == pytest.approx(90)
    # others of the rule take as long as it will
    others = Progress({"train_sr": 2})
    assert others.left([Spent("train_sr", 30.0, 0.25)], 1) == pytest.approx(90 + 2 * 120)


def test_time_left_of_other_rules_follows_the_pace_of_this_machine() -> None:
    progress = Progress({"evaluate": 1})
    progress.finished["train_sr"].append(2 * USUAL["train_sr"])
    assert progress.left([], 1) == pytest.approx(2 * USUAL["evaluate"])


def test_times_in_words() -> None:
    assert about(None) == "time left not known yet"
    assert about(20) == "less than a minute left"
    assert about(61) == "about 1 min left"
    assert about(400) == "about 7 min left"
    assert about(3 * 3600) == "about 3.0 hours left"
    assert [clock(9), clock(75.4), clock(3725)] == ["0:09", "1:15", "1:02:05"]
