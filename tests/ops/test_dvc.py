"""DVC as its users expect it, on a recorded run of the smoke experiment.

Run: pytest -m slow tests/ops/test_dvc.py
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from browser import opened
from mrsr.params import loading
from project import commit, edit_params, run, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.xdist_group("smoke")]

METHODS = ("bicubic", "srcnn", "srresnet", "proposed")
# the second one, because after two steps the first shows in the sixth decimal alone
CHANGES = ("methods.proposed.losses.vit=0.5", "methods.proposed.losses.l1=1")
# S3 as a company's own server is addressed: an endpoint, and keys in the environment
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def recorded(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose smoke experiment is recorded by DVC and committed."""
    folder = tmp_path_factory.mktemp("dvc") / "project"
    shutil.copytree(smoke, folder, symlinks=True)
    edit_params(folder, {"tracked": ["smoke"]})
    run(folder, "mrsr", "track")
    commit(folder)
    assert "Nothing to be done" in run(folder, "dvc", "repro").stdout
    commit(folder)
    return folder


def row(method: str) -> str:
    return f"results/smoke/summary/phantom_t1/x2/{method}.json"


def test_metrics_show_prints_a_row_for_each_dataset_scale_and_method(recorded: Path) -> None:
    lines = run(recorded, "dvc", "metrics", "show").stdout.splitlines()
    assert lines[0].split() == ["Path", "nmse", "psnr", "ssim"]
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(map(row, METHODS))
    assert max(map(len, lines)) <= 80
    for line in lines[1:]:
        method = Path(line.split()[0]).stem
        record = json.loads(
            (recorded / f"results/smoke/metrics/phantom_t1/x2/{method}.json").read_text()
        )
        assert float(line.split()[2]) == pytest.approx(record["psnr"]["mean"], abs=1e-5)


def test_plots_show_works_without_network(recorded: Path) -> None:
    printed = run(recorded, "dvc", "plots", "show").stdout
    page = recorded / "dvc_plots" / "index.html"
    assert page.as_uri() in printed
    with opened() as seen:
        seen.page.goto(page.as_uri())
        image = seen.page.locator("img")
        assert image.count() == 1
        assert image.evaluate("image => image.complete && image.naturalWidth") > 400
        seen.check()
    assert run(recorded, "git", "status", "--porcelain").stdout == ""


def test_an_experiment_with_a_changed_weight(recorded: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(recorded, tmp_path / "project", symlinks=True))
    before = loading.load(project / "params.yaml", "smoke")
    options = [part for change in CHANGES for part in ("--set-param", change)]
    printed = run(project, "dvc", "exp", "run", "--name", "lighter", *options).stdout
    # one training, one evaluation, and the tables
    assert re.findall(r"^(?:local)?rule (\w+):", printed, re.MULTILINE).count("train_sr") == 1
    assert "rule evaluate:" in printed and "Ran experiment(s): lighter" in printed

    # DVC writes params.yaml anew; its values are the same but for the one
    after = loading.load(project / "params.yaml", "smoke")
    changed = {"vit": 0.5, "l1": 1}
    assert changed.items() <= after.methods["proposed"].losses.items()
    for key, method in before.methods.items():
        if "proposed" not in key:  # others are `like` it
            assert after.methods[key] == method
    assert after.params.data == before.params.data and after.params.vit == before.params.vit

    moved = run(project, "dvc", "metrics", "diff").stdout
    assert row("proposed") in moved and "psnr" in moved
    assert not any(row(method) in moved for method in METHODS if method != "proposed")
    shown = run(project, "dvc", "exp", "show", "--only-changed", "--csv").stdout
    assert "lighter" in shown and "methods.proposed.losses.vit" in shown and "0.5" in shown
    assert "methods.srcnn" not in shown.splitlines()[0]
    images = run(project, "dvc", "plots", "diff", "HEAD", "workspace").stdout
    assert "index.html" in images

    # back: the same files, and nothing to train
    run(project, "git", "checkout", "--", ".")
    run(project, "dvc", "checkout")
    run(project, "mrsr", "adopt", "--experiment", "smoke")
    assert "Nothing to be done" in snakemake(project, "all", "--config", "experiment=smoke")
    # and forth
    run(project, "dvc", "exp", "apply", "lighter")
    again = loading.load(project / "params.yaml", "smoke")
    assert changed.items() <= again.methods["proposed"].losses.items()


def test_a_copy_of_dvc_is_refused_in_a_line(recorded: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(recorded, tmp_path / "project", symlinks=True))
    options = ("--temp", "--set-param", CHANGES[0])
    failed = run(project, "dvc", "exp", "run", *options, check=False)
    assert failed.returncode != 0
    assert "was made with losses.vit 1.0, not 0.5, and Snakemake has no record" in failed.stdout


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a local S3 server with the bucket `mrsr`."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        address = f"http://127.0.0.1:{port}"
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="mrsr")
        yield address
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_remote_carries_the_results_to_another_clone(
    recorded: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    project = Path(shutil.copytree(recorded, tmp_path / "project", symlinks=True))
    if kind == "folder":
        run(project, "dvc", "remote", "add", "--default", "store", str(tmp_path / "remote"))
    else:
        address = request.getfixturevalue("bucket")
        run(project, "dvc", "remote", "add", "--default", "store", "s3://mrsr/results")
        run(project, "dvc", "remote", "modify", "store", "endpointurl", address)
    run(project, "dvc", "push")
    commit(project)
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull")
    run(clone, "mrsr", "adopt", "--experiment", "smoke")
    assert "Nothing to be done" in snakemake(clone, "all", "--config", "experiment=smoke")
    shown = [run(each, "dvc", "metrics", "show").stdout for each in (project, clone)]
    assert shown[0] == shown[1]
    assert (clone / "results/smoke/tables/results.csv").read_bytes() == (
        project / "results/smoke/tables/results.csv"
    ).read_bytes()


def test_the_artifacts_are_the_trained_networks(recorded: Path) -> None:
    named = yaml.safe_load((recorded / "dvc.yaml").read_text())["artifacts"]
    assert {Path(what["path"]).parent.name for what in named.values()} == set(METHODS) - {"bicubic"}
    for what in named.values():
        assert (recorded / what["path"]).is_file()
        assert what["type"] == "model" and "for research only" in what["desc"]
    listed = run(recorded, "dvc", "ls", ".", named["smoke-phantom-t1-x2-proposed"]["path"]).stdout
    assert "best.pt" in listed
