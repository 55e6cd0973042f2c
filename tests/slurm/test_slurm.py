"""The smoke experiment through real sbatch, and what happens to jobs on a cluster.

Run: make slurm-test (it starts a SLURM on this machine; GPUs are device files, trainings use the
CPU).
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import TARGET, TRAINING, Run, accounts, ask, jobs, wait_for

from project import run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]  # on a busy machine

MANY = 10_000  # steps of a hundredth second at least: minutes, so that a fault meets it at work
CHECKPOINTED = "the same command goes on from it"


def test_requests_are_those_of_the_profile(whole: Path) -> None:
    """GPU, CPUs, memory, time, partition; the comment names rule, dataset, scale, method."""
    requests = {job["comment"]: job for job in accounts(whole)}
    assert all(job["state"] == "COMPLETED" for job in requests.values())
    assert all(job["name"].startswith("mrsr_") for job in requests.values())
    training = requests["rule_train_sr_wildcards_phantom_t1_2_srcnn"]
    assert training["memory"] == "32000M"
    assert {"cpu=4", "gres/gpu=1", "mem=32000M"} <= set(training["tres"].split(","))
    assert training["minutes"] == "30"
    measuring = requests["rule_evaluate_wildcards_phantom_t1_2_proposed"]
    assert {"cpu=2", "gres/gpu=1", "mem=16000M"} <= set(measuring["tres"].split(","))
    slicing = requests["rule_slice_dataset_wildcards_phantom_knee"]
    assert "gres/gpu" not in slicing["tres"] and slicing["memory"] == "16000M"
    found = ask("scontrol", "show", "job", training["id"])
    assert "Partition=gpu" in found and "Account=lab" in found and "Requeue=1" in found
    found = ask("scontrol", "show", "job", slicing["id"])
    assert "Partition=cpu" in found  # the cluster's default
    # local rules are no jobs, and six figures are one
    assert not any("raw_source" in name or "tables" in name for name in requests)
    assert [name for name in requests if "loss_curves" in name] == ["rule_figures_loss_curves"]
    assert (whole / "results/smoke/tables/table1.md").is_file()
    assert list((whole / ".snakemake/slurm_logs/rule_train_sr").rglob("*.log"))


def test_second_run_has_nothing_to_do(whole: Path) -> None:
    before = len(accounts(whole))
    again = Run(whole, "all")
    assert "Nothing to be done" in again.finish()
    assert len(accounts(whole)) == before


def test_node_failure_then_ctrl_c(training: Callable[..., Run]) -> None:
    work = training(MANY, TARGET)
    work.reach(500)
    [job] = jobs(work.folder)
    node = ask("squeue", "--noheader", "--jobs", job["id"], "--format", "%N").strip()
    ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        wait_for("pending", lambda: "PENDING" in [now["state"] for now in jobs(work.folder)])
    finally:
        # it may have returned to service by itself
        subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"])
    assert work.went_on() >= 500
    assert [now["id"] for now in jobs(work.folder)] == [job["id"]]

    work.process.send_signal(signal.SIGINT)
    wait_for("no jobs", lambda: not jobs(work.folder), 60)
    assert work.process.wait(60) != 0
    assert not list((work.folder / ".snakemake/locks").glob("*.lock"))
    assert not (work.folder / TARGET).exists()


def test_preempted_job_goes_on_from_its_checkpoint(
    training: Callable[..., Run], limited: Run
) -> None:
    work = training(3_000, TARGET, MRSR_SLURM_GPU_PARTITION="scavenge")
    work.reach(500)
    [job] = jobs(work.folder)
    assert job["partition"] == "scavenge"
    # all GPUs for a job of a partition with a higher priority
    ask(
        "sbatch",
        "-p",
        "gpu",
        "--gpus=4",
        "-t",
        "1",
        "--mem=100",
        "-o",
        "/dev/null",
        "--wrap",
        "true",
    )
    wait_for("checkpoint", lambda: CHECKPOINTED in work.log())
    assert work.went_on() >= 500
    assert "1 of 1 steps (100%) done" in work.finish()
    assert [(job["id"], job["state"]) for job in accounts(work.folder, "train_sr")][-1:] == [
        (job["id"], "COMPLETED")
    ]
    assert not list((work.folder / TRAINING).glob("resume*"))


def test_killed_snakemake_is_resumed(training: Callable[..., Run], tmp_path: Path) -> None:
    work = training(4_000, TARGET)
    work.reach(500)
    live = run(work.folder, "mrsr", "resume", check=False)
    assert live.returncode == 2 and "Snakemake is at work here" in live.stdout, live.stdout
    work.process.kill()
    work.process.wait()
    [orphan] = jobs(work.folder)
    # a job of the same name and comment that works in another folder is not ours
    name = ask("squeue", "--noheader", "--jobs", orphan["id"], "--format", "%j").strip()
    alien = ["sbatch", "--parsable", "-J", name, "--comment", orphan["comment"], "-D", "/tmp"]
    other = ask(*alien, "--mem=100", "-o", "/dev/null", "--wrap", "sleep 600").strip()
    try:
        again = Run(work.folder, command=("mrsr", "resume"))
        text = again.finish()
        listed = ask("squeue", "--noheader", "--jobs", other, "--format", "%T")
    finally:
        ask("scancel", other)
    assert listed.strip() in ("RUNNING", "PENDING")
    assert f"cancelled 1 jobs: {orphan['id']}" in text and "mrsr: unlocked" in text
    assert again.went_on() >= 500
    ended = {job["id"]: job["state"] for job in accounts(work.folder, "train_sr")}
    assert ended[orphan["id"]].startswith("CANCELLED")
    assert list(ended.values())[-1] == "COMPLETED"


def test_killed_for_memory_then_more(training: Callable[..., Run]) -> None:
    work = training(1_500, TARGET, "--set-resources", "train_sr:mem_mb=450 * attempt")
    text = work.finish()
    tried = [job for job in accounts(work.folder, "train_sr") if job["memory"] != "32000M"]
    assert [job["memory"] for job in tried] == [f"{450 * n}M" for n in range(1, len(tried) + 1)]
    # with cgroups the state would be OUT_OF_MEMORY
    assert len(tried) > 1 and tried[0]["state"] in ("FAILED", "OUT_OF_MEMORY")
    [log] = (work.folder / ".snakemake/slurm_logs").rglob(f"{tried[0]['id']}.log")
    assert "exceeded memory limit" in log.read_text()
    assert tried[-1]["state"] == "COMPLETED"
    assert "Trying to restart job" in text


def test_time_limit_shorter_than_the_training(limited: Run) -> None:
    """One minute, again and again: back to the queue, or a retry where that came too late."""
    text = limited.finish(900)
    assert "going on at step" in limited.log()
    [*_, job] = accounts(limited.folder, "train_sr")
    assert job["state"] == "COMPLETED" and job["minutes"] == "1"
    assert "1 of 1 steps (100%) done" in text
    logs = [log.read_text() for log in (limited.folder / ".snakemake/slurm_logs").rglob("*.log")]
    assert any("is back in the queue and will go on" in log for log in logs)
