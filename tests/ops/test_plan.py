"""What `mrsr plan` says a target costs: `pytest tests/ops/test_plan.py`; `-m slow` runs one."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mrsr import cli
from mrsr.errors import UserError
from mrsr.ops.plan import costs, estimate, measure, networks, rates, report, sizes, work
from mrsr.ops.plan import jobs as plan_jobs
from mrsr.ops.plan.costs import Cost
from mrsr.ops.plan.jobs import Job, Place, wall
from mrsr.ops.plan.rates import Rate, Seconds, choose
from mrsr.ops.plan.report import stages
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from project import copy_project, planned_jobs, run, snakemake

ONE = Place("cpu", cores=1)


@pytest.fixture(scope="module")
def demo(root: Path) -> Resolved:
    return loading.load(root / "params.yaml", "demo")


def train(method: str = "srcnn", scale: str = "2") -> Job:
    cell = {"dataset": "phantom_t1", "scale": scale, "method": method}
    path = f"results/demo/checkpoints/phantom_t1/x{scale}/{method}/best.pt"
    return Job("train_sr", cell, outputs=(path,))


def test_nothing_to_do_costs_nothing(demo: Resolved) -> None:
    assert stages("all", demo, [], [], ONE).endswith("nothing to do\n")


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


def image(of: Resolved, method: str, scale: str = "2") -> float:
    return work.image(work.load(of, train(method, scale)).parts)


def test_work_counts_the_networks_of_a_step(demo: Resolved) -> None:
    """By hand: SRCNN is three convolutions on HR pixels, 9x9, 1x1 and 5x5; forward and backward
    are three passes over 64x64 pixels."""
    features = demo.methods["srcnn"].options["features"]
    each = 81 * features[0] + features[0] * features[1] + 25 * features[1]
    assert each < image(demo, "srcnn") / (3 * 64**2) < 1.1 * each  # and the enlargement


def test_frozen_networks_and_the_discriminator_count(demo: Resolved) -> None:
    parts = {
        method: [(part.network[0], part.passes) for part in work.load(demo, train(method)).parts]
        for method in ("srresnet", "no_vit", "proposed")
    }
    assert parts["srresnet"] == [("srresnet", 3)]
    assert parts["no_vit"] == [*parts["srresnet"], ("discriminator", 8), ("autoencoder", 3)]
    assert [name for name, _ in parts["proposed"]][2] == "unetr"
    assert image(demo, "srresnet") < image(demo, "no_vit") < image(demo, "proposed")
    # which codes are compared does not change what a step takes
    assert image(demo, "no_structure") == image(demo, "no_texture")
    assert image(demo, "srresnet", "4") != image(demo, "srresnet")


def test_pixels_and_calls_of_a_job(demo: Resolved) -> None:
    settings, frozen = work.settings_of(demo, train("srresnet")), work.frozen_options(demo)
    size = sizes.geometry(demo, "phantom_t1", Path("absent"))
    assert size is not None and work.pixels(size) == 224 * 192
    steps, checks = work.total("train_sr", settings, frozen, size)
    # 300 steps of 8 images in one call each; 3 validations of 8 slices of two splits, forward only
    assert (steps.pixels, steps.calls) == (3 * 300 * 8 * 64**2, 3 * 300)
    assert (checks.pixels, checks.calls) == (3 * 2 * 8 * 224 * 192, 3 * 2 * 8)
    parts = work.total("train_sr", {**settings, "micro_batch": 3}, frozen, size)
    assert (parts[0].pixels, parts[0].calls) == (steps.pixels, 3 * steps.calls)
    (itself,) = work.total("train_self", {**settings, "steps": 2, "batch": 1}, frozen, size)
    assert itself.pixels == 2 * 8 * 3 * 64**2  # volumes
    (slices,) = work.total("evaluate", {**settings, "batch": 8}, frozen, size)
    assert (slices.pixels, slices.calls) == (256 * 224 * 192, 32)
    for unsliced in ("evaluate", "train_self"):
        assert math.isnan(work.total(unsliced, settings, frozen, None)[0].pixels)


def test_the_nearest_rate_is_chosen_and_scaling_is_said() -> None:
    measured = Rate("train_sr", "cpu", 100.0, 0.2, "measured")
    other = Rate("train_sr", "cpu", 1000.0, 0.3, "run demo")
    ran = Rate("train_sr", "cpu", 100.0, 0.4, "run demo")
    vit = Rate("train_vit_pretext", "cpu", 100.0, 0.5, "run demo")
    gpu = Rate("train_sr", "NVIDIA H100", 100.0, 0.1, "run demo")
    rated = Rate("evaluate", "cpu", 100.0, 0.6, "run demo")
    everything = [rated, gpu, vit, ran, measured, other]
    assert choose(everything, "train_sr", "cpu", 101.0).fraction == 0.4  # of equals the first
    assert choose(everything, "train_sr", "cpu", 101.0).origin == "run demo"
    assert choose([gpu, measured], "train_sr", "cpu", 100.0).origin == "measured"
    far = choose(everything, "train_sr", "cpu", 900.0)
    assert (far.fraction, far.origin) == (0.3, "scaled from run demo on cpu")
    assert (
        choose(everything, "train_autoencoder", "cpu", 100.0).fraction == 0.5
    )  # nearest of others
    assert choose(everything, "evaluate", "cpu", 7.0).fraction == 0.6
    scaled = choose([gpu], "train_sr", "V100", 100.0)
    assert (scaled.fraction, scaled.origin) == (0.1, "scaled from run demo on NVIDIA H100")
    # a CPU tells nothing of a GPU, nor an evaluation of a training: an answer all the same
    assert choose([measured, rated], "train_sr", "H200", 100.0).origin == "assumed"
    assert choose([rated], "train_sr", "cpu", 100.0).origin == "assumed"


@pytest.fixture
def simple(monkeypatch: pytest.MonkeyPatch) -> work.Use:
    """A network of round numbers, at work on 1000 images of 10x10 pixels in 50 calls."""
    network = networks.named("simple", {}, 1, (10, 10))
    found = networks.Counts(7, multiply_adds=10**9, moved=10**6, moved_else=10**7, calls=20)
    monkeypatch.setattr(rates, "counts", {network: found}.__getitem__)
    return work.Use(network, 1000 * 100, 50)


def test_the_least_time_by_hand(simple: work.Use) -> None:
    """H200: 989 TFLOP/s and 4.8 TB/s at two bytes an element; a V100 computes in fp32."""
    products, rest = 1000 * 2e9 / 989e12, 1000 * 1e7 * 2 / 4.8e12
    assert rates.least([simple], "NVIDIA H200") == pytest.approx(products + rest)
    slow = 1000 * 2e9 / 989e12 / 1e-3 + rest  # bytes of the products are never the larger ones here
    assert rates.least([simple], "H200", (1e-3, 1.0)) == pytest.approx(slow)
    moved = 1000 * (1e6 + 1e7) * 2 / 4.8e12
    assert rates.least([simple], "H200", (1e9, 1.0)) == pytest.approx(moved)  # then they are
    assert rates.least([simple], "V100") == pytest.approx(1000 * (2e9 / 15.7e12 + 4e7 / 900e9))
    assert rates.least([simple, simple], "H100") == 2 * rates.least([simple], "H100")


def test_what_is_assumed_has_a_range_and_kernels_are_started(simple: work.Use) -> None:
    assumed = choose([], "train_sr", "H200", 100.0)
    found = rates.seconds([simple], "H200", assumed)
    products, rest = 1000 * 2e9 / 989e12, 1000 * 1e7 * 2 / 4.8e12
    assert found.likely == products / 0.25 + rest / 0.7 > 50 * 20 * 10e-6
    often = rates.seconds([simple._replace(calls=5000)], "H200", assumed)
    assert often == pytest.approx((5000 * 20 * 10e-6, 5000 * 20 * 5e-6, 5000 * 20 * 15e-6))
    free = rates.seconds([simple._replace(calls=5000)], "H200", assumed, waits=False)
    assert free.likely == pytest.approx(products / 0.25 + rest / 0.7)
    assert free.low == pytest.approx(products / 0.45 + rest)
    assert free.high == pytest.approx(products / 0.15 + rest / 0.5)
    assert free.low < free.likely < free.high
    told = Rate("train_sr", "H200", 100.0, 0.5, "measured")
    exact = rates.seconds([simple], "H200", told)
    assert exact.likely == exact.low == exact.high == pytest.approx((products + rest) / 0.5)
    scaled = replace(told, origin="scaled from measured on H100")
    low = rates.seconds([simple], "H200", scaled).low
    assert low == pytest.approx(exact.likely / rates.SCALED)


def test_devices() -> None:
    assert rates.specification("NVIDIA A100-SXM4-80GB") == (312, 2039, 2)
    assert rates.specification("V100") == (15.7, 900, 4)
    assert rates.device_for("NVIDIA V100") == "NVIDIA V100"
    assert rates.device_for("cpu") == "cpu"
    with pytest.raises(UserError, match="device 'abacus' is not known; choose auto"):
        rates.device_for("abacus")


@pytest.fixture
def log(tmp_path: Path, demo: Resolved) -> Path:
    """A finished training's log: 16 images a second; the benchmark file says that it ran here."""
    settings = work.settings_of(demo, train())
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
    assert rate.image == pytest.approx(image(demo, "srcnn"))
    ((network, passes, pixels),) = work.load(demo, train()).parts
    least = rates.least([work.Use(network, passes * pixels, 0)], "cpu")
    assert least / rate.fraction == pytest.approx(1 / 16)


def test_evaluations_on_disk_give_rates(tmp_path: Path, demo: Resolved) -> None:
    job = Job("evaluate", train().wildcards)
    settings = work.settings_of(demo, job)
    record = {**settings, "device": "NVIDIA H100", "seconds_per_slice": 0.25}
    for name, text in (
        ("results/demo/metrics/phantom_t1/x2/srcnn.json", json.dumps(record)),
        ("logs/demo/benchmarks/metrics/phantom_t1/x2/srcnn.tsv", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    (rate,) = rates.from_runs(tmp_path)
    assert (rate.rule, rate.device) == ("evaluate", "NVIDIA H100")
    assert 0 < rate.fraction < 1e-3  # a quarter of a second is long for such a card


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
    for part in work.load(demo, train(method)).parts:
        assert 1e-13 < measure.pace(part.network, "cpu") < 1e-5


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
    assert costs.cost(demo, train(), ONE, []).disk == 8 * count


def test_the_report_adds_up(demo: Resolved) -> None:
    jobs = [train("srcnn"), train("srresnet"), Job("write_tables", outputs=("x/tables/t",))]
    costs = [
        Cost(Seconds(3600, 3600, 3600), "run demo", 1e6),
        Cost(Seconds(1800, 900, 3600), "run demo", 2e6),
        Cost(Seconds(36, 36, 36)),
    ]
    text = stages("all", demo, jobs, costs, ONE)
    assert re.search(r"^checkpoints +2 +1\.500 +3.0 MB *$", text, re.MULTILINE)
    assert re.search(r"^SRCNN +1 +1\.000 +1.0 MB *$", text, re.MULTILINE)
    assert re.search(r"^run demo +2 +1\.500 +3.0 MB *$", text, re.MULTILINE)
    assert len(re.findall(r"^total +3 +1\.510 +3.0 MB *$", text, re.MULTILINE)) == 3
    assert "wall time: 0 days 01:30:45 on 1 cores" in text
    assert "may be off" not in text
    gpu = stages("all", demo, jobs, costs, Place("H100", cores=4))
    assert re.search(r"^total +3 +1\.500 +0\.010 +3.0 MB *$", gpu, re.MULTILINE)
    guessed = [replace(costs[0], seconds=Seconds(*[math.nan] * 3), origin="assumed"), *costs[1:]]
    unknown = stages("all", demo, jobs, guessed, ONE)
    assert "0.510" in unknown
    assert "on 1 cores, and 1 jobs of a size that only slicing can tell" in unknown
    assert "may be off several times" in unknown
    brief = stages("all", demo, jobs, costs, ONE, brief=True)
    assert "checkpoints" in brief and "SRCNN" not in brief and "run demo" not in brief


def test_rows_and_cards_add_up(demo: Resolved) -> None:
    """Each row's hours are its jobs'; the cards' sums are the rows'; ranges hold the likely."""
    place, jobs = Place("H200", cores=2), plan_jobs.every(demo)
    text = report.tables([report.Recipe("common budget", demo, jobs)], place, [], brief=False)
    on_card = [job for job in jobs if place.on_gpu(job) and job.rule != "tracking_store"]
    hours = {
        job.outputs[0]: costs.cost(demo, job, place, []).seconds.likely / 3600 for job in on_card
    }
    own = sum(value for path, value in hours.items() if "/x2/srcnn" in path and "_t1/" in path)
    row = next(line for line in text.splitlines() if line.startswith("SRCNN"))
    assert float(row.split()[2]) == pytest.approx(own, abs=0.006)
    table_sum = next(line for line in text.splitlines() if line.startswith("sum "))
    assert float(table_sum.split()[-1]) == pytest.approx(sum(hours.values()), abs=0.006)
    cards = next(line for line in text.splitlines() if line.startswith("common budget  "))
    numbers = [
        tuple(map(float, n)) for n in re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", cards)
    ]
    assert len(numbers) == 4
    assert all(low <= likely <= high for likely, low, high in numbers)
    assert numbers[-1][0] == pytest.approx(sum(hours.values()), rel=0.01)
    assert "common budget on one H200" in text and "it fits in 24 hours" in text
    assert "assumed to reach 15% to 45% of its peak" in text


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
        found = costs.cost(paper, Job(rule, wildcards, (), outputs), Place("H200"), [])
        assert costs.START < found.seconds.low < found.seconds.likely < found.seconds.high
        assert found.origin == "assumed"


def test_the_command_needs_the_projects_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="project's root"):
        estimate.plan("all", None, ONE, False, False, Path("params.yaml"))
    assert callable(cli.plan)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(2400)  # every network is timed, then the experiment runs
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
    assert all(row["fraction"] > 0 and row["image"] > 0 for row in listed)

    snakemake(folder, "all", *smoke)
    assert "nothing to do" in run(folder, *command).stdout
    again = run(folder, *command, "--fresh").stdout
    assert f": {jobs} jobs" in again
    assert "run smoke" in again

    refused = run(folder, "mrsr", "plan", "tabels", "--experiment", "smoke", check=False)
    assert refused.returncode == 2
    assert refused.stdout.strip().startswith("mrsr: error: nothing makes 'tabels'")
    assert len(refused.stdout.strip().splitlines()) == 1
