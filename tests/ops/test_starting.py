"""Line 22 of issue 11: a mistyped `--config`, and an experiment that nobody asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mrsr.errors import UserError
from mrsr.ops import starting
from project import copy_project, run, snakemake


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("experiments", "did you mean experiment=...? known: experiment="),
        ("experimnet", "did you mean experiment=...? "),
        ("param", "did you mean params=...? "),
        ("steps", "unknown key; known: experiment="),
        ("Experiment", "did you mean experiment=...? "),
    ],
)
def test_line_22_an_unknown_key_of_config_is_refused(key: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        starting.check_config({"experiment": "smoke", key: "x"})
    assert str(caught.value).startswith(f"--config {key}=...: unknown key; ")
    assert hint in str(caught.value)


def test_line_22_known_keys_pass() -> None:
    starting.check_config({})
    starting.check_config({"experiment": "demo", "params": "other.yaml"})


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["--profile", "slurm", "all"], False),
        (["--cores", "2", "all"], False),
        (["--cores", "2", "all", "--config", "experiment=demo"], True),
        (["all", "--config=experiment=demo"], True),
    ],
)
def test_line_22_who_names_the_experiment_is_told_nothing(command: list[str], asked: bool) -> None:
    assert starting.asked(command) is asked


def test_line_22_the_announcement_says_where_the_name_comes_from() -> None:
    assert "'paper', which its profile" in starting.announcement("paper", {"experiment": "paper"})
    assert "'demo', which params.yaml" in starting.announcement("demo", {})


def test_line_22_without_an_estimate_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no Snakefile
    told = starting.cost("paper", ["--profile", "slurm", "all"], 0)
    assert told.startswith("mrsr: cost not known: ") and "no Snakefile here" in told


@pytest.mark.slow
def test_line_22_a_profile_says_what_it_runs_and_costs_before_the_first_job(
    tmp_path: Path,
) -> None:
    project = copy_project(tmp_path / "project")
    refused = snakemake(project, "all", "--config", "experiments=smoke", check=False)
    assert "--config experiments=...: unknown key; did you mean experiment=...?" in refused
    assert "Job stats" not in refused
    (project / "cluster").mkdir()
    (project / "cluster/config.yaml").write_text("config:\n  - experiment=smoke\ncores: 2\n")
    printed = run(project, "snakemake", "--profile", "cluster", "slices").stdout
    said = printed.index("mrsr: runs experiment 'smoke', which its profile")
    cost = printed.index("slices of experiment 'smoke' on ")
    assert said < cost < printed.index("localrule raw_source:")
    assert printed.index("wall time: ") < printed.index("localrule raw_source:")
    asked = run(project, "snakemake", "--cores", "2", "slices", "--config", "experiment=smoke")
    assert "runs experiment" not in asked.stdout
    assert sys.executable not in printed.split("localrule")[0]
