"""Back to the queue, and `mrsr resume`, with commands that play SLURM.

Real SLURM: make slurm-test. Run: pytest tests/ops/test_cluster.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrsr.errors import UserError
from mrsr.ops import cluster

UUID = "7a8d2ea5-33b3-45d3-a8ac-743b55aab61b"


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put commands of SLURM on the PATH; what they are called with goes to `calls`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    # none of the machine's own
    monkeypatch.setattr(
        cluster.shutil, "which", lambda name: str(tools / name) * (tools / name).exists() or None
    )

    def add(name: str, output: str = "", code: int = 0, once: str = "") -> Path:
        """`once`: that is printed the first time, `output` from then on."""
        calls, first = tmp_path / f"{name}.calls", tmp_path / f"{name}.first"
        first.write_text(once)
        (tools / name).write_text(
            f'#!/bin/sh\necho "$@" >> {calls}\n'
            f"if [ -s {first} ]; then cat {first}; : > {first}; exit {code}; fi\n"
            f"cat <<'END'\n{output}\nEND\nexit {code}\n"
        )
        (tools / name).chmod(0o755)
        return calls

    return add


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a Snakefile, as working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Snakefile").write_text("rule all:\n")
    monkeypatch.chdir(folder)
    return folder


def lock(project: Path, host: str, *command: str) -> None:
    """As a killed run leaves it."""
    (project / ".snakemake/locks").mkdir(parents=True)
    (project / ".snakemake/locks/0.input.lock").write_text("a\n")
    record = {"host": host, "pid": 1, "command": list(command)}
    (project / cluster.RECORD).write_text(json.dumps(record))


def test_outside_slurm_nothing_is_requeued(play, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = play("scontrol")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert cluster.requeue() is False
    assert not calls.exists()


def test_a_running_job_goes_back_to_the_queue(
    play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    calls = play("scontrol", "JobId=17 JobState=RUNNING Requeue=1 Restarts=3 BatchFlag=1")
    assert cluster.requeue() is True
    assert calls.read_text() == "show job 17\nrequeue 17\n"
    assert "job 17 is back in the queue" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", ""])
def test_a_job_being_cancelled_is_not_revived(
    play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    calls = play("scontrol", f"JobState={state} Restarts=0")
    assert cluster.requeue() is False
    assert calls.read_text() == "show job 17\n"
    told = capsys.readouterr().err
    assert f"job 17 stays as it is: SLURM ends it already ({state or 'no state'})" in told


def test_a_job_that_never_gets_anywhere_fails(
    play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    play("scontrol", f"JobState=RUNNING Restarts={cluster.RESTARTS}")
    assert cluster.requeue() is False
    assert "started again 100 times" in capsys.readouterr().err


def test_a_queue_that_refuses_leaves_the_job_to_snakemake(
    play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    play("scontrol", code=1)
    assert cluster.requeue() is False
    assert "job 17 stays as it is" in capsys.readouterr().err


def test_orphans_are_this_folders_jobs_of_snakemake(play, project: Path) -> None:
    play(
        "squeue",
        f"1|mrsr_{UUID}|{project}|rule_train_sr_wildcards_a|b\n"  # a bar in the comment
        f"2|{UUID}|{project}|group_figures\n"
        f"3|mrsr_{UUID}|{project.parent}|rule_train_sr\n"  # another project
        f"4|interactive|{project}|(null)\n"
        f"5|mrsr_{UUID}|{project}|by hand",
    )
    assert cluster.orphaned_jobs(project.resolve()) == ["1", "2"]


def test_clear_cancels_and_waits(play, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    play("squeue", once=f"1|mrsr_{UUID}|{project}|rule_evaluate\n", output="9|x|/|(null)")
    calls = play("scancel")
    cluster.clear()
    assert calls.read_text() == "1\n"
    assert "cancelled 1 jobs: 1" in capsys.readouterr().err


def test_refusals(play, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock(project, "elsewhere", "--cores", "2")
    with pytest.raises(UserError, match="was started on elsewhere"):
        cluster.clear()
    lock_host = {"host": os.uname().nodename, "pid": 1, "command": ["--profile", "slurm"]}
    (project / cluster.RECORD).write_text(json.dumps(lock_host))
    with pytest.raises(UserError, match="`squeue` is missing here"):
        cluster.clear()
    play("squeue", code=1)
    with pytest.raises(UserError, match=r"squeue.* failed"):
        cluster.clear()
    monkeypatch.chdir(project.parent)
    with pytest.raises(UserError, match="no Snakefile"):
        cluster.clear()


def test_a_controller_that_is_down_does_not_matter_to_a_local_run(play, project: Path) -> None:
    play("squeue", code=1)
    (project / ".snakemake").mkdir()
    cluster.note_start(["--cores", "2"])
    assert cluster.clear()["command"] == ["--cores", "2"]


def test_resume_without_a_record_asks_what_to_run(play, project: Path) -> None:
    with pytest.raises(UserError, match="no run is noted"):
        cluster.resume([])


SNAKEFILE = """
import sys
from mrsr.ops import cluster
rule all:
    input: "b"
rule a:
    output: "a"
    shell: "trap : TERM; echo $$ >> shells; sleep {seconds}; touch {{output}}"
rule b:
    input: "a"
    output: "b"
    shell: "touch {{output}}"
onstart:
    cluster.note_start(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_local_run_goes_on(project: Path) -> None:
    (project / "Snakefile").write_text(SNAKEFILE.format(seconds=600))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "all"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (project / "shells").exists():
            break
        time.sleep(0.1)
    assert cluster.live_runs(project.resolve()) == [run.pid]
    with pytest.raises(UserError, match="Snakemake is at work here"):
        cluster.clear()
    run.send_signal(signal.SIGKILL)
    run.wait()
    shell = int((project / "shells").read_text())
    assert cluster._alive(shell)
    # a plan by hand meets the lock
    (project / "Snakefile").write_text(SNAKEFILE.format(seconds=0))
    resume = [sys.executable, "-m", "mrsr.cli", "resume"]
    done = subprocess.run(resume, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not cluster._alive(shell)
    assert "ended 1 rules that were left running here" in done.stderr
    assert "mrsr: unlocked" in done.stderr
    assert (project / "b").exists()
