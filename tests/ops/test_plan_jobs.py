"""The jobs of a plan against Snakemake's own, and which of them are finished."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from mrsr.errors import UserError
from mrsr.ops import provenance
from mrsr.ops.plan import jobs
from mrsr.ops.plan.jobs import Job, needed
from mrsr.params import loading
from project import ROOT, copy_project, edit_experiment, parse_jobs, snakemake


def _comparable(found: list[Job]) -> Counter[tuple[object, ...]]:
    return Counter(
        (
            job.rule, frozenset(job.wildcards.items()), frozenset(job.inputs),
            frozenset(job.outputs), job.threads, job.priority,
        )
        for job in found
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "experiment", ["smoke", "demo", "openms", "benchmark", "paper", "study", "skip_and_norm"]
)
def test_the_jobs_are_snakemakes_own(tmp_path: Path, experiment: str) -> None:
    """`benchmark` has guides, `paper` all of it; rule by rule with wildcards, files and threads."""
    folder = copy_project(tmp_path / "copy")
    config = ("--config", f"experiment={experiment}")
    dry = parse_jobs(snakemake(folder, "--dry-run", "--forceall", "all", *config))
    resolved = loading.load(folder / "params.yaml", experiment)
    ours = needed(jobs.every(resolved), "all", fresh=True)
    assert len(dry) > 10
    assert _comparable(ours) == _comparable(dry)


@pytest.mark.slow
@pytest.mark.parametrize("target", jobs.STAGES)
def test_the_stages_are_snakemakes_own(tmp_path: Path, target: str) -> None:
    """Also where a method is trained on another dataset, a ViT is compared, and SMORE runs."""
    folder = copy_project(tmp_path / "copy")
    grid = [
        {"datasets": ["openms_t1"], "scales": [2, 4], "methods": ["seran_all_8", "seran_all"]},
        {"datasets": ["phantom_t2"], "scales": [2], "methods": ["smore", "minet", "proposed"]},
    ]
    content = {
        "description": "a mixture", "about": "", "like": "demo", "grid": grid,
        "tables": {"table1": ["openms_t1", "phantom_t2"]}, "vit_data": {"also": ["masked"]},
    }  # fmt: skip
    edit_experiment(folder, "mixture", content)
    config = ("--config", "experiment=mixture")
    dry = parse_jobs(snakemake(folder, "--dry-run", "--forceall", target, *config))
    resolved = loading.load(folder / "params.yaml", "mixture")
    assert _comparable(needed(jobs.every(resolved), target, fresh=True)) == _comparable(dry)


@pytest.fixture
def every(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The smoke experiment's jobs, all of whose files lie in the current folder, in order."""
    monkeypatch.chdir(tmp_path)
    found = jobs.every(loading.load(ROOT / "params.yaml", "smoke"))
    for number, job in enumerate(found):
        for path in map(Path, job.outputs):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (1e9 + number, 1e9 + number))
    return found


def _rules(found: list[Job]) -> Counter[str]:
    return Counter(job.rule for job in found)


def test_what_lies_there_is_not_made_again(every: list[Job]) -> None:
    assert needed(every, "all") == []
    assert needed(every, "all", fresh=True) == every
    # what is not asked for: a store that a finished training was made from
    Path("results/smoke/slices/phantom_t1/train.h5").unlink()
    assert needed(every, "all") == []
    assert _rules(needed(every, "slices")) == {"slice_dataset": 1}


def test_what_follows_from_a_missing_file_is_made(every: list[Job]) -> None:
    Path("results/smoke/metrics/phantom_t1/x2/srcnn.json").unlink()
    Path("results/smoke/checkpoints/phantom_t1/x2/srcnn/best.pt").unlink()
    assert needed(every, "tables") == []  # as Snakemake has it: the tables lie there
    assert _rules(needed(every, "metrics")) == {"train_sr": 1, "evaluate": 1}
    assert _rules(needed(every, "results/smoke/metrics/phantom_t1/x2/srcnn.json")) == {
        "train_sr": 1,
        "evaluate": 1,
    }


def test_what_is_newer_or_was_made_otherwise_runs_on(every: list[Job]) -> None:
    path = Path("results/smoke/checkpoints/phantom_t1/x2/autoencoder/best.pt")
    os.utime(path, (2e9, 2e9))
    ran = _rules(needed(every, "all"))
    assert ran["train_sr"] == ran["probe_autoencoder"] == 1  # proposed looks through it
    assert ran["train_autoencoder"] == 0 and ran["write_tables"] == 1
    os.utime(path, (1e9, 1e9))
    changed = ["results/smoke/checkpoints/phantom_t1/x2/srresnet/best.pt"]
    once = _rules(needed(every, "metrics", changed))
    assert once["evaluate"] >= 1 and once["train_sr"] >= 1
    os.utime("results/smoke/tracking.ready", (2e9, 2e9))
    assert needed(every, "raw") == []


def test_a_wrong_target_is_a_line(every: list[Job]) -> None:
    with pytest.raises(UserError, match="nothing makes 'tabels'; targets are all, raw, slices"):
        needed(every, "tabels")


def test_nothing_has_changed_where_nothing_lies(root: Path, tmp_path: Path) -> None:
    smoke = loading.load(root / "params.yaml", "smoke")
    assert provenance.changed(smoke, tmp_path) == []
    log = tmp_path / "smoke/checkpoints/phantom_t1/x2/srcnn/log.jsonl"
    log.parent.mkdir(parents=True)
    log.with_name("best.pt").touch()
    log.write_text('{"event": "start", "settings": {"steps": 7}}\n')
    assert provenance.changed(smoke, tmp_path) == [str(log.with_name("best.pt"))]
