"""What `mrsr plan` says a target costs: `pytest tests/ops/test_plan.py`; `-m slow` runs one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mrsr import cli
from mrsr.errors import UserError
from mrsr.ops.plan import estimate, rates, sizes
from mrsr.ops.plan import jobs as plan_jobs
from mrsr.ops.plan.jobs import Cost, Job, Place, key_of, parse, settings_of, wall
from mrsr.ops.plan.rates import Rate, choose
from mrsr.ops.plan.text import report
from mrsr.params import loading
from project import copy_project, planned_jobs, run, snakemake

DRY = """\
Building DAG of jobs...
Job stats:
job      count
-----  -------
total        3

[Sun Nov 22 12:32:43 2026]
localrule raw_source:
    output: data/raw/phantom/manifest.csv
    jobid: 4
    reason: Missing output files: data/raw/phantom/manifest.csv
    wildcards: source=phantom
    threads: 2
    resources: tmpdir=/tmp, mem_mb=3000
[Sun Nov 22 12:32:45 2026] Group job figures (jobs in lexicogr. order):

    [Sun Nov 22 12:32:45 2026]
    rule loss_curves:
        input: results/d/checkpoints/phantom_t1/x2/srcnn/best.pt
        output: results/d/figures/phantom_t1_x2_srcnn.png
        wildcards: training=phantom_t1_x2_srcnn
[Sun Nov 22 12:32:46 2026]
rule train_sr:
    input: results/d/slices/phantom_t1/train.h5, results/d/slices/phantom_t1/test.h5
    output: results/d/checkpoints/phantom_t1/x2/srcnn/best.pt
    priority: 2
    wildcards: dataset=phantom_t1, scale=2, method=srcnn
[Sun Nov 22 12:32:46 2026]
rule all:
    input: results/d/figures/phantom_t1_x2_srcnn.png
    jobid: 0
Job stats:
"""
CPU = "cpu: a test's"
ONE = Place(CPU, cores=1)


@pytest.fixture
def demo(root: Path) -> object:
    return loading.load(root / "params.yaml", "demo")


def train(method: str = "srcnn", scale: str = "2") -> Job:
    cell = {"dataset": "phantom_t1", "scale": scale, "method": method}
    return Job("train_sr", cell, outputs=(f"{method}-{scale}",))


def test_a_dry_run_is_read() -> None:
    jobs = parse(DRY)
    assert [job.rule for job in jobs] == ["raw_source", "loss_curves", "train_sr"]
    assert [job.stage for job in jobs] == ["raw", "tables", "checkpoints"]
    assert [job.threads for job in jobs] == [2, 1, 1]
    assert [job.priority for job in jobs] == [0, 0, 2]
    assert jobs[2].wildcards == {"dataset": "phantom_t1", "scale": "2", "method": "srcnn"}
    assert len(jobs[2].inputs) == 2
    assert jobs[1].inputs == jobs[2].outputs


def test_nothing_to_do_costs_nothing(demo: loading.InForce) -> None:
    assert parse("Building DAG of jobs...\nNothing to be done.\n") == []
    assert report("all", demo, [], [], ONE).endswith("nothing to do\n")


def test_an_unknown_target_is_one_line() -> None:
    said = plan_jobs._refusal("tabels", "MissingRuleException:\nNo rule to produce tabels (if\n")
    assert said == (
        "nothing makes 'tabels'; targets are all, raw, slices, checkpoints, metrics, tables, "
        "or a file of the experiment"
    )
    assert plan_jobs._refusal("all", "Error\n  the last line\n").endswith("'all': the last line")


@pytest.mark.parametrize(
    ("place", "seconds"),
    [
        (Place(CPU, cores=1), 10 + 20 + 30 + 5),  # one after the other
        (Place(CPU, cores=2), 10 + 30 + 5),  # b and c side by side
        (Place("H100", cores=8, gpus=1), 10 + 20 + 30 + 5),  # trainings wait for the GPU
        (Place("H100", cores=8, gpus=2), 10 + 30 + 5),
        (Place("H100", cores=1, gpus=1, jobs=9), 10 + 30 + 5),  # a queue counts jobs alone
    ],
)
def test_wall_time_follows_the_graph(
    place: Place, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_jobs, "BETWEEN", 0.0)
    a = Job("raw_source", outputs=("a",), threads=2)
    b, c = (Job("train_sr", inputs=("a",), outputs=(name,)) for name in "bc")
    d = Job("write_tables", inputs=("b", "c"), outputs=("d",))
    # also where the dry run lists them in another order
    assert wall([a, b, c, d], [10, 20, 30, 5], place) == seconds
    assert wall([d, c, b, a], [5, 30, 20, 10], place) == seconds


def test_what_others_wait_for_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_jobs, "BETWEEN", 0.0)
    short, other = (Job("train_sr", outputs=(name,)) for name in ("s", "o"))
    last = Job("train_sr", inputs=("v",), outputs=("l",))
    for priority, seconds in ((0, 10 + 20 + 5), (2, 20 + 5)):
        first = Job("train_vit_segmentation", outputs=("v",), priority=priority)
        work, place = [short, other, first, last], Place(CPU, cores=2)
        assert wall(work, [10, 10, 20, 5], place) == seconds


def test_a_circle_is_refused() -> None:
    two = [Job("x", inputs=("b",), outputs=("a",)), Job("x", inputs=("a",), outputs=("b",))]
    with pytest.raises(UserError, match="wait for each other"):
        wall(two, [1, 1], ONE)


def test_seconds_of_a_training(demo: loading.InForce) -> None:
    settings = settings_of(demo, train())  # 300 steps, a validation of 8 slices every 100
    rate = Rate(rule="train_sr", key="", device=CPU, step=0.5, fixed=7, check=2, checked=4)
    found = estimate._timed("train_sr", settings, rate, None)
    assert found.seconds == pytest.approx(7 + 300 * 0.5 + 3 * 2 * 8 / 4)
    assert estimate._timed("train_sr", settings, None, None).seconds is None


def test_seconds_of_an_evaluation_and_of_a_volumes_own_training(demo: loading.InForce) -> None:
    geometry = sizes.geometry(demo, "phantom_t1", Path("absent"))
    rate = Rate(rule="evaluate", key="", device=CPU, step=0.1, fixed=5)
    assert estimate._timed("evaluate", {}, rate, geometry).seconds == pytest.approx(5 + 256 * 0.1)
    settings = {"steps": 100, "validate_every": 10}
    found = estimate._timed("train_self", settings, rate, geometry).seconds
    assert found == pytest.approx(5 + 8 * 100 * 0.1)
    assert estimate._timed("evaluate", {}, rate, None).seconds is None  # not sliced, size not known


def test_what_takes_as_long_has_one_key(root: Path, demo: loading.InForce) -> None:
    def key(method: str, scale: str = "2", of: loading.InForce = demo) -> str:
        return key_of(of, train(method, scale))

    assert key("srcnn") != key("srresnet") != key("proposed")
    assert key("srresnet") != key("srresnet", "4")
    assert key("proposed") != key("no_vit")
    # rates and decay do not change what a step takes, nor does the dataset or the seed
    assert key("srresnet", of=loading.load(root / "params.yaml", "smoke")) != key("srresnet")
    settings = settings_of(demo, train("srresnet"))
    slower = {**settings, "steps": 9, "seed": 3, "dataset": "openms_t1", "losses": {"l1": 7}}
    assert rates.speed("train_sr", slower) == rates.speed("train_sr", settings)
    assert rates.speed("train_sr", {**settings, "batch": 9}) != key("srresnet")


def test_the_best_rate_is_chosen_and_scaling_is_said() -> None:
    common = {"rule": "train_sr", "key": "k", "fixed": 5.0}
    measured = Rate(**common, device=CPU, step=2, origin="measured by a few steps")
    ran = Rate(**common, device=CPU, step=3, dataset="b", origin="run demo")
    other = Rate(**common, device=CPU, step=4, dataset="a", origin="run demo")
    gpu = Rate(**common, device="NVIDIA H100", step=0.1, origin="run demo")
    everything = [measured, ran, other, gpu]
    assert choose(everything, "train_sr", "k", CPU, "a") is other
    assert choose([measured, gpu], "train_sr", "k", CPU) is measured
    scaled = choose(everything, "train_sr", "k", "V100")
    assert scaled is not None
    assert scaled.origin == "extrapolated from NVIDIA H100"
    assert scaled.step == pytest.approx(0.1 * ((989 * 3350) / (15.7 * 900)) ** 0.5)
    assert scaled.fixed == 5
    assert choose(everything, "train_sr", "other", CPU) is None


def test_devices() -> None:
    assert rates.ratio("NVIDIA A100-SXM4-80GB", "A100") == 1
    assert rates.ratio("H200", "V100") > 1 > rates.ratio("V100", "H200")
    assert rates.device_for("NVIDIA V100") == "NVIDIA V100"
    assert rates.device_for("cpu").startswith("cpu: ")
    with pytest.raises(UserError, match="device 'abacus' is not known; choose auto"):
        rates.device_for("abacus")


def written_run(folder: Path, demo: loading.InForce, seconds: float) -> None:
    """A finished training's log and benchmark file; 100 steps of 8 images, 16 a second."""
    settings = settings_of(demo, train())
    lines = [
        {"event": "start", "settings": settings, "provenance": {"device": "cpu"}},
        {"step": 50, "split": "train", "metrics": {"images_per_second": 16.0}},
        {"step": 100, "split": "train", "metrics": {"images_per_second": 16.0}},
        {"step": 100, "split": "validation", "metrics": {"psnr": 30.0}},
        {"event": "end", "seconds": seconds},
    ]
    log = folder / "results/demo/checkpoints/phantom_t1/x2/srcnn/log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_on_disk_give_rates(tmp_path: Path, demo: loading.InForce) -> None:
    written_run(tmp_path, demo, 59.0)
    there = (tmp_path / "results", tmp_path / "logs")
    (pulled,) = rates.from_runs(*there)
    assert pulled.device == "cpu: of another computer"  # no benchmark file: not known to be ours
    benchmark = tmp_path / "logs/demo/benchmarks/phantom_t1/x2/srcnn.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\n65.0\t0:01:05\n")
    (ours,) = rates.from_runs(*there)
    assert ours.device == rates.cpu_name()
    assert ours.key == key_of(demo, train())
    assert (ours.step, ours.fixed) == (0.5, 6.0)
    assert ours.check == pytest.approx((59 - 50) / 3)  # 300 steps would have had three


def test_a_damaged_log_is_passed_over(tmp_path: Path, demo: loading.InForce) -> None:
    written_run(tmp_path, demo, 59.0)
    log = next(tmp_path.rglob("log.jsonl"))
    log.write_text(log.read_text()[:-30])
    assert rates.from_runs(tmp_path / "results", tmp_path / "logs") == []


def test_measurements_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert rates.read_measured(path) == []
    old = Rate(rule="evaluate", key="k", device=CPU, step=1, fixed=1)
    new = Rate(rule="evaluate", key="k", device=CPU, step=2, fixed=1)
    other = Rate(rule="evaluate", key="k", device="H100", step=3, fixed=1)
    rates.keep_measured([old, other], path)
    rates.keep_measured([new], path)
    assert rates.read_measured(path) == [new, other]
    path.write_text('[{"of": "another version"}]')
    assert rates.read_measured(path) == []


def test_sizes(root: Path, demo: loading.InForce) -> None:
    nowhere = Path("absent")
    brain = sizes.geometry(demo, "phantom_t1", nowhere)
    assert brain is not None
    assert (brain.count("train"), brain.count("test"), brain.labels) == (192, 256, True)
    # 25.2 MB measured, with labels
    assert brain.bytes() == pytest.approx(25.2e6, rel=0.02)
    smoke = sizes.geometry(loading.load(root / "params.yaml", "smoke"), "phantom_t1", nowhere)
    assert smoke is not None
    assert (smoke.volumes["test"], smoke.slices) == (2, 16)
    paper = loading.load(root / "params.yaml", "paper")
    ixi = sizes.geometry(paper, "ixi_t1", nowhere)
    assert ixi is not None
    assert (ixi.count("train"), ixi.height, ixi.width) == (48000, 240, 240)
    fastmri = sizes.geometry(paper, "fastmri", nowhere)
    assert fastmri is not None
    assert (fastmri.volumes["train"] + fastmri.volumes["validation"], fastmri.is_complex) == (
        227,
        True,
    )
    assert sizes.raw_bytes(paper, "ixi") == (14e9, 19e9)
    assert sizes.shown(1.4e10) == "14 GB"


def test_parameters_are_the_networks(demo: loading.InForce) -> None:
    from mrsr import models

    settings = settings_of(demo, train())
    network = models.build("srcnn", 2, settings["model"]["options"])
    count = sum(p.numel() for p in network.parameters())
    assert sizes.parameters("train_sr", settings) == count
    found = estimate.cost(demo, train(), ONE, [])
    assert (found.disk, found.running) == (8 * count, 32 * count)


def test_the_report_adds_up(demo: loading.InForce) -> None:
    jobs = [train("srcnn"), train("srresnet"), Job("write_tables", outputs=("t",))]
    known = [Cost(3600.0, "run demo", 1e6), Cost(1800.0, "run demo", 2e6), Cost(36.0)]
    text = report("all", demo, jobs, known, ONE)
    assert re.search(r"^checkpoints +2 +1\.500 +3 MB$", text, re.MULTILINE)
    assert re.search(r"^SRCNN +1 +1\.000 +1 MB$", text, re.MULTILINE)
    assert len(re.findall(r"^total +3 +1\.510 +3 MB$", text, re.MULTILINE)) == 2
    assert "wall time: 1.5 h on 1 core" in text or "wall time: 90." in text
    assert "run demo: 2 jobs, 99 % of the time" in text
    gpu = report("all", demo, jobs, known, Place("H100", cores=4))
    assert re.search(r"^total +3 +1\.500 +0\.010 +3 MB$", gpu, re.MULTILINE)
    unknown = report("all", demo, jobs, [Cost(None, "not measured"), *known[1:]], ONE)
    assert "at least" in unknown and "0.500 + ?" in unknown
    assert "1 job whose time is not known" in unknown


def test_the_command_needs_the_projects_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="project's root"):
        estimate.run("all", None)
    assert callable(cli.plan)


@pytest.mark.slow
@pytest.mark.timeout(2400)  # every network is timed, then the experiment runs
@pytest.mark.xdist_group("plan")
def test_the_smoke_experiment_as_planned(tmp_path: Path) -> None:
    """The jobs are those that Snakemake runs; done, they cost nothing; a wrong target is a line."""
    folder = copy_project(tmp_path / "copy")
    smoke = ("--config", "experiment=smoke")
    dry = planned_jobs(snakemake(folder, "--dry-run", "all", *smoke))
    command = ("mrsr", "plan", "all", "--experiment", "smoke", "--device", "cpu")
    measured = run(folder, *command, "--measure").stdout
    jobs = sum(dry.values()) - dry["all"]
    assert f"on {rates.cpu_name()}: {jobs} jobs" in measured
    assert "not measured" not in measured
    assert "measured by a few steps" in measured
    listed = json.loads((folder / "logs" / "plan.json").read_text())
    rules = {row["rule"] for row in listed}
    assert {"train_sr", "evaluate", "train_autoencoder", "train_vit_segmentation"} <= rules
    assert all(row["step"] > 0 and row["fixed"] > 0 for row in listed)

    snakemake(folder, "all", *smoke)
    assert "nothing to do" in run(folder, *command).stdout
    again = run(folder, *command, "--fresh").stdout
    assert f": {jobs} jobs" in again
    assert "run smoke" in again

    refused = run(folder, "mrsr", "plan", "tabels", "--experiment", "smoke", check=False)
    assert refused.returncode == 2
    assert refused.stdout.strip().startswith("mrsr: error: nothing makes 'tabels'")
    assert len(refused.stdout.strip().splitlines()) == 1
