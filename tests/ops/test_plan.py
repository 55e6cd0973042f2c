"""What `mrsr plan` says a target costs: `pytest tests/ops/test_plan.py`; `-m slow` runs one."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest

from mrsr import cli
from mrsr.errors import UserError
from mrsr.ops.plan import estimate, measure, rates, sizes
from mrsr.ops.plan import jobs as plan_jobs
from mrsr.ops.plan.estimate import report
from mrsr.ops.plan.jobs import Job, Place, parse, wall
from mrsr.ops.plan.rates import ASSUMED, Rate, choose
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from mrsr.tables import network_sizes
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
ONE = Place("cpu", cores=1)


@pytest.fixture(scope="module")
def demo(root: Path) -> Resolved:
    return loading.load(root / "params.yaml", "demo")


def train(method: str = "srcnn", scale: str = "2") -> Job:
    cell = {"dataset": "phantom_t1", "scale": scale, "method": method}
    path = f"results/demo/checkpoints/phantom_t1/x{scale}/{method}/best.pt"
    return Job("train_sr", cell, outputs=(path,))


def test_a_dry_run_is_read() -> None:
    jobs = parse(DRY)
    assert [job.rule for job in jobs] == ["raw_source", "loss_curves", "train_sr"]
    assert [job.stage for job in jobs] == ["raw", "tables", "checkpoints"]
    assert [job.threads for job in jobs] == [2, 1, 1]
    assert [job.priority for job in jobs] == [0, 0, 2]
    assert jobs[2].wildcards == {"dataset": "phantom_t1", "scale": "2", "method": "srcnn"}
    assert len(jobs[2].inputs) == 2
    assert jobs[1].inputs == jobs[2].outputs


def test_nothing_to_do_costs_nothing(demo: Resolved) -> None:
    assert parse("Building DAG of jobs...\nNothing to be done.\n") == []
    assert report("all", demo, [], pd.DataFrame(), ONE).endswith("nothing to do\n")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "MissingRuleException:\nNo rule to produce tabels (if\n",
            "nothing makes 'tabels'; targets are all, raw, slices, checkpoints, metrics, tables, "
            "or a file of the experiment",
        ),
        ("Error\n  the last line\n", "snakemake cannot plan 'tabels': the last line"),
        ("", "snakemake cannot plan 'tabels': no reason given"),
    ],
)
def test_a_refusal_is_one_line(said: str, line: str) -> None:
    assert plan_jobs.refusal("tabels", said) == line


@pytest.mark.parametrize(
    ("place", "seconds"),
    [
        (Place("cpu", cores=1), 10 + 20 + 30 + 5),  # one after the other
        (Place("cpu", cores=2), 10 + 30 + 5),  # b and c side by side
        (Place("H100", cores=8, gpus=1), 10 + 20 + 30 + 5),  # trainings wait for the GPU
        (Place("H100", cores=8, gpus=2), 10 + 30 + 5),
        (Place("H100", cores=1, gpus=1, jobs=9), 10 + 30 + 5),  # a queue counts jobs alone
        (Place("H100", cores=9, gpus=9, jobs=1), 10 + 20 + 30 + 5),
    ],
)
def test_wall_time_follows_the_graph(
    place: Place, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_jobs, "BETWEEN", 0.0)
    a = Job("raw_source", outputs=("data/raw/a",), threads=2)
    b, c = (
        Job("train_sr", inputs=a.outputs, outputs=(f"results/x/checkpoints/{name}",))
        for name in "bc"
    )
    d = Job("write_tables", inputs=(*b.outputs, *c.outputs), outputs=("results/x/tables/d",))
    # also where the dry run lists them in another order
    assert wall([a, b, c, d], [10, 20, 30, 5], place) == seconds
    assert wall([d, c, b, a], [5, 30, 20, 10], place) == seconds


def test_what_others_wait_for_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_jobs, "BETWEEN", 0.0)
    short, other = (Job("train_sr", outputs=(f"x/checkpoints/{name}",)) for name in "so")
    vit = "x/checkpoints/v"
    last = Job("train_sr", inputs=(vit,), outputs=("x/checkpoints/l",))
    for priority, seconds in ((0, 10 + 20 + 5), (2, 20 + 5)):
        first = Job("train_vit_segmentation", outputs=(vit,), priority=priority)
        work, place = [short, other, first, last], Place("cpu", cores=2)
        assert wall(work, [10, 10, 20, 5], place) == seconds


def work_of(of: Resolved, method: str, scale: str = "2") -> float:
    return network_sizes.work(*estimate.work_of(of, train(method, scale)))


def test_work_counts_the_networks_of_a_step(demo: Resolved) -> None:
    """By hand: SRCNN is three convolutions on HR pixels, 9x9, 1x1 and 5x5; forward and backward
    are three passes over 64x64 pixels."""
    features = demo.methods["srcnn"].options["features"]
    each = 81 * features[0] + features[0] * features[1] + 25 * features[1]
    assert each < work_of(demo, "srcnn") / (3 * 64**2) < 1.1 * each  # and the enlargement


def test_frozen_networks_and_the_discriminator_count(root: Path, demo: Resolved) -> None:
    parts = {
        method: [part[0][0] for part in network_sizes.parts(*estimate.work_of(demo, train(method)))]
        for method in ("srresnet", "no_vit", "proposed")
    }
    assert parts["srresnet"] == ["srresnet"]
    assert parts["no_vit"] == ["srresnet", "discriminator", "autoencoder"]
    assert parts["proposed"] == ["srresnet", "discriminator", "unetr", "autoencoder"]
    assert work_of(demo, "srresnet") < work_of(demo, "no_vit") < work_of(demo, "proposed")
    # which codes are compared, weights, steps and seeds do not change what a step takes
    assert work_of(demo, "no_structure") == work_of(demo, "no_texture")
    rule, settings, *rest = estimate.work_of(demo, train("srresnet"))
    other = {**settings, "steps": 9, "seed": 3, "batch": 2, "losses": {"l1": 7}}
    assert network_sizes.work(rule, other, *rest) == work_of(demo, "srresnet")
    assert work_of(demo, "srresnet", "4") != work_of(demo, "srresnet")


def test_multiply_adds_of_a_job(demo: Resolved) -> None:
    rule, settings, networks, pixels = estimate.work_of(demo, train("srresnet"))
    size = sizes.geometry(demo, "phantom_t1", Path("absent"))
    assert size is not None and pixels == 224 * 192
    image = network_sizes.work(rule, settings, networks, pixels)
    # 300 steps of 8 images; 3 validations of 8 slices of two splits, forward only
    steps, checks = 300 * 8 * image, 3 * 2 * 8 * image / 3 * pixels / 64**2
    assert rates.total(rule, settings, networks, size) == pytest.approx(steps + checks)
    once = {**settings, "steps": 1, "validate_every": 1, "batch": 1}
    by_volume = rates.total("train_self", once, networks, size)
    assert by_volume == pytest.approx(8 * image)  # volumes
    slices = rates.total("evaluate", settings, networks, size)
    assert slices == pytest.approx(256 * network_sizes.work("evaluate", settings, networks, pixels))
    for unsliced in ("evaluate", "train_self"):
        assert math.isnan(rates.total(unsliced, settings, networks, None))


def test_the_nearest_rate_is_chosen_and_scaling_is_said() -> None:
    measured = Rate("train_sr", "cpu", 100.0, 2.0, "measured")
    other = Rate("train_sr", "cpu", 1000.0, 3.0, "run demo")
    ran = Rate("train_sr", "cpu", 100.0, 4.0, "run demo")
    vit = Rate("train_vit_pretext", "cpu", 100.0, 5.0, "run demo")
    gpu = Rate("train_sr", "NVIDIA H100", 100.0, 0.1, "run demo")
    rated = Rate("evaluate", "cpu", 100.0, 6.0, "run demo")
    everything = [rated, gpu, vit, ran, measured, other]
    assert choose(everything, "train_sr", "cpu", 101.0).pace == 4  # of equals the first
    assert choose(everything, "train_sr", "cpu", 101.0).origin == "run demo"
    assert choose([gpu, measured], "train_sr", "cpu", 100.0).origin == "measured"
    far = choose(everything, "train_sr", "cpu", 900.0)
    assert (far.pace, far.origin) == (3, "scaled from run demo on cpu")
    assert choose(everything, "train_autoencoder", "cpu", 100.0).pace == 5  # nearest of others
    assert choose(everything, "evaluate", "cpu", 7.0).pace == 6
    scaled = choose([gpu], "train_sr", "V100", 100.0)
    assert scaled.origin == "scaled from run demo on NVIDIA H100"
    assert scaled.pace == pytest.approx(0.1 * ((989 * 3350) / (15.7 * 900)) ** 0.5)
    # nothing is known: an answer all the same, and it says so
    guess = choose([rated], "train_sr", "H200", 100.0)
    assert guess.origin == "assumed"
    assert guess.pace == pytest.approx(ASSUMED.pace * rates.ratio("cpu", "H200"))
    assert 0.05 < 2 / guess.pace / 989e12 < 0.2  # of the card's printed speed


def test_devices() -> None:
    assert rates.ratio("NVIDIA A100-SXM4-80GB", "A100") == 1
    assert rates.ratio("H200", "V100") > 1 > rates.ratio("V100", "H200")
    assert rates.device_for("NVIDIA V100") == "NVIDIA V100"
    assert rates.device_for("cpu") == "cpu"
    with pytest.raises(UserError, match="device 'abacus' is not known; choose auto"):
        rates.device_for("abacus")


@pytest.fixture
def log(tmp_path: Path, demo: Resolved) -> Path:
    """A finished training's log: 16 images a second; the benchmark file says that it ran here."""
    _, settings, *_ = estimate.work_of(demo, train())
    lines = [
        {"event": "start", "settings": settings, "provenance": {"device": "cpu"}},
        *({"step": n, "split": "train", "metrics": {"images_per_second": 16.0}} for n in (1, 2)),
        {"step": 2, "split": "validation", "metrics": {"psnr": 30.0}},
        {"event": "end", "seconds": 59.0},
    ]
    path = tmp_path / "results/demo/checkpoints/phantom_t1/x2/srcnn/log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    benchmark = tmp_path / "logs/demo/benchmarks/phantom_t1/x2/srcnn.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\th:m:s\n109.0\t0:01:49\n")
    return path


def test_trainings_on_disk_give_rates(tmp_path: Path, demo: Resolved, log: Path) -> None:
    (rate,) = rates.from_runs(tmp_path)
    assert (rate.rule, rate.device, rate.origin) == ("train_sr", "cpu", "run demo")
    assert rate.image == pytest.approx(work_of(demo, "srcnn"))
    assert rate.pace * rate.image == pytest.approx(1 / 16)


def test_evaluations_on_disk_give_rates(tmp_path: Path, demo: Resolved) -> None:
    job = Job("evaluate", train().wildcards)
    _, settings, *_ = estimate.work_of(demo, job)
    record = {**settings, "device": "NVIDIA H100", "seconds_per_slice": 0.25}
    for name, text in (
        ("results/demo/metrics/phantom_t1/x2/srcnn.json", json.dumps(record)),
        ("logs/demo/benchmarks/metrics/phantom_t1/x2/srcnn.tsv", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (rate,) = rates.from_runs(tmp_path)
    assert (rate.rule, rate.device) == ("evaluate", "NVIDIA H100")
    assert rate.pace * rate.image == pytest.approx(0.25)


@pytest.mark.parametrize("damage", ["cut", "from elsewhere"])
def test_what_tells_nothing_is_passed_over(tmp_path: Path, log: Path, damage: str) -> None:
    if damage == "cut":
        log.write_text(log.read_text()[:-30])
    else:  # a copied run has no benchmark file: it was another computer's
        next(tmp_path.rglob("*.tsv")).unlink()
    assert rates.from_runs(tmp_path) == []


def test_measurements_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert measure.read(path) == []
    old = Rate("evaluate", "cpu", 1.0, 1.0, "measured")
    new = Rate("evaluate", "cpu", 1.0, 2.0, "measured")
    other = Rate("evaluate", "H100", 1.0, 3.0, "measured")
    measure.keep([old, other], path)
    measure.keep([new], path)
    assert measure.read(path) == [new, other]
    path.write_text('[{"of": "another version"}]')
    assert measure.read(path) == []


@pytest.mark.parametrize("method", ["bicubic", "srcnn", "no_vit"])
def test_the_networks_of_a_method_are_timed(demo: Resolved, method: str) -> None:
    """`no_vit` has a discriminator and an auto-encoder beside its generator."""
    for network, _ in network_sizes.parts(*estimate.work_of(demo, train(method))):
        assert 1e-13 < measure.pace(network, "cpu") < 1e-5


def test_another_computer_cannot_be_measured(demo: Resolved) -> None:
    with pytest.raises(UserError, match="--measure times this computer, not 'H200'"):
        measure.measure([], Place("H200"))


def test_sizes(root: Path, demo: Resolved) -> None:
    def size(experiment: str, dataset: str) -> sizes.Geometry:
        resolved = loading.load(root / "params.yaml", experiment)
        found = sizes.geometry(resolved, dataset, Path("absent"))
        assert found is not None
        return found

    brain = size("demo", "phantom_t1")
    assert (brain.count("train"), brain.count("test")) == (192, 256)
    # 25.2 MB measured, with labels
    stored = brain.megapixels() * 1e6 * brain.pixel_bytes
    assert stored == pytest.approx(25.2e6, rel=0.02)
    smoke = size("smoke", "phantom_t1")
    assert (smoke.volumes["test"], smoke.slices) == (2, 16)
    ixi = size("paper", "ixi_t1")
    assert (ixi.count("train"), ixi.height, ixi.width) == (48000, 240, 240)
    fastmri = size("paper", "fastmri")
    assert fastmri.volumes["train"] + fastmri.volumes["validation"] == 227


def test_stores_that_exist_are_read(root: Path, tmp_path: Path) -> None:
    assert sizes.stored(tmp_path) is None
    assert sizes.stored(root / "tests" / "data") is None


def test_disk_is_the_networks(demo: Resolved) -> None:
    from mrsr import models

    options = demo.methods["srcnn"].options
    count = sum(p.numel() for p in models.build("srcnn", 2, options).parameters())
    assert estimate.cost(demo, train(), ONE, [])["disk"] == 8 * count


def test_the_report_adds_up(demo: Resolved) -> None:
    jobs = [train("srcnn"), train("srresnet"), Job("write_tables", outputs=("x/tables/t",))]
    costs = pd.DataFrame(
        {
            "seconds": [3600.0, 1800.0, 36.0],
            "origin": ["run demo", "run demo", "constants"],
            "disk": [1e6, 2e6, 0.0],
        }
    )
    text = report("all", demo, jobs, costs, ONE)
    assert re.search(r"^checkpoints +2 +1\.500 +3.0 MB *$", text, re.MULTILINE)
    assert re.search(r"^SRCNN +1 +1\.000 +1.0 MB *$", text, re.MULTILINE)
    assert re.search(r"^run demo +2 +1\.500 +3.0 MB *$", text, re.MULTILINE)
    assert len(re.findall(r"^total +3 +1\.510 +3.0 MB *$", text, re.MULTILINE)) == 3
    assert "wall time: 0 days 01:30:45 on 1 cores" in text
    assert "may be off" not in text
    gpu = report("all", demo, jobs, costs, Place("H100", cores=4))
    assert re.search(r"^total +3 +1\.500 +0\.010 +3.0 MB *$", gpu, re.MULTILINE)
    guessed = costs.assign(
        seconds=[math.nan, *costs["seconds"][1:]], origin=["assumed", "run demo", "constants"]
    )
    unknown = report("all", demo, jobs, guessed, ONE)
    assert "0.510" in unknown
    assert "on 1 cores, and 1 jobs of a size that only slicing can tell" in unknown
    assert "may be off several times" in unknown


def test_every_method_of_the_paper_is_answered(root: Path) -> None:
    """Nothing has run and no data is there; a fastMRI evaluation and SMORE too get a number."""
    paper = loading.load(root / "params.yaml", "paper")
    for dataset, rule, method in (
        ("ixi_t2", "train_sr", "minet"),
        ("fastmri", "evaluate", "t2net"),
        ("ixi_pd", "train_self", "smore"),
        ("ixi_pd", "train_autoencoder", "autoencoder"),
    ):
        wildcards = {"dataset": dataset, "scale": "2", "method": method}
        outputs = ("results/paper/checkpoints/x/best.pt",)
        found = estimate.cost(paper, Job(rule, wildcards, (), outputs), Place("H200"), [])
        assert found["seconds"] > estimate.START
        assert found["origin"] == "assumed"


def test_the_command_needs_the_projects_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="project's root"):
        estimate.plan("all", None, ONE, False, False, Path("params.yaml"))
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
    assert f"on cpu: {jobs} jobs" in measured
    assert re.search("^measured +10 ", measured, re.MULTILINE)
    listed = json.loads((folder / "logs" / "plan.json").read_text())
    rules = {row["rule"] for row in listed}
    assert {"train_sr", "evaluate", "train_autoencoder", "train_vit_segmentation"} <= rules
    assert all(row["pace"] > 0 and row["image"] > 0 for row in listed)

    snakemake(folder, "all", *smoke)
    assert "nothing to do" in run(folder, *command).stdout
    again = run(folder, *command, "--fresh").stdout
    assert f": {jobs} jobs" in again
    assert "run smoke" in again

    refused = run(folder, "mrsr", "plan", "tabels", "--experiment", "smoke", check=False)
    assert refused.returncode == 2
    assert refused.stdout.strip().startswith("mrsr: error: nothing makes 'tabels'")
    assert len(refused.stdout.strip().splitlines()) == 1
