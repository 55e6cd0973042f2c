"""MLflow's pages in a real browser, on the store of a run of the smoke experiment.

Run: pytest -m slow tests/tracking/test_pages.py
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from browser import opened
from mlflow_pages import served
from mrsr.tracking import store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
KIND = "?workflowType=machine_learning"  # what pressing "Model training" does
PATIENCE = 120_000  # milliseconds; seconds are enough on an idle machine


def test_the_table_an_artifact_the_charts_and_a_comparison(smoke: Path, tmp_path: Path) -> None:
    # another folder than the one that the run was in: artifacts must be found there too
    project = tmp_path / "moved"
    project.mkdir()
    shutil.copy(smoke / "mlflow.db", project)
    shutil.copytree(smoke / "mlartifacts", project / "mlartifacts")
    client = store._client(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    trained = runs["proposed 2x phantom_t1"]

    with served(project) as address, opened(1500, 900) as seen:
        page, here = seen.page, f"{address}/#/experiments/{experiment}"
        page.set_default_timeout(PATIENCE)
        page.goto(f"{here}/runs{KIND}")
        page.get_by_text("proposed 2x phantom_t1", exact=True).first.wait_for()
        shown = page.content()
        for name in ("bicubic 2x phantom_t1 test", "organ vit", "srcnn 2x phantom_t1"):
            assert name in shown, name
        assert "mrsr.training.train_sr" in shown and "phantom_t1 (" in shown

        page.goto(f"{here}/runs/{trained.info.run_id}/artifacts{KIND}")
        page.get_by_text("card.md", exact=True).first.click()
        page.get_by_text(re.compile("not for diagnosis")).first.wait_for()

        page.goto(f"{here}/runs{KIND}&compareRunsMode=CHART")
        page.get_by_text("psnr", exact=True).first.wait_for()
        page.locator(".js-plotly-plot .main-svg").first.wait_for()

        other = runs["srcnn 2x phantom_t1"]
        chosen = "%2C".join(f"%22{run.info.run_id}%22" for run in (trained, other))
        page.goto(f"{address}/#/compare-runs?runs=[{chosen}]&experiments=[%22{experiment}%22]")
        page.get_by_text("Comparing 2 Runs").first.wait_for()
        for run in (trained, other):  # each with its final PSNR
            page.get_by_text(run.info.run_name).first.wait_for()
            page.get_by_text(f"{run.data.metrics['psnr']:.4g}", exact=True).first.wait_for()
        assert not seen.outside
