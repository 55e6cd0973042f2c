"""Take the pictures of MLflow's pages in docs/images, from the store of an experiment that has run.

By hand, in the project's root, with Chromium installed:

    PYTHONPATH=tests .venv/bin/python docs/screenshots_mlflow.py openms_ablation
"""

from __future__ import annotations

import sys
from pathlib import Path

from browser import opened
from mlflow_pages import served
from mrsr.tracking import store

ROOT = Path(__file__).resolve().parent.parent

KIND = "?workflowType=machine_learning"
IMAGES = ROOT / "docs" / "images"


def main(name: str, project: Path) -> None:
    """Write mlflow_runs.png, mlflow_charts.png and mlflow_compare.png."""
    client = store._client(f"sqlite:///{project.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name).experiment_id
    found = client.search_runs(
        [experiment], "tags.stage = 'training' and metrics.psnr > 0", order_by=["metrics.psnr DESC"]
    )
    chosen = "%2C".join(f"%22{run.info.run_id}%22" for run in found[:4])
    IMAGES.mkdir(exist_ok=True)
    with served(project) as address, opened(1400, 800) as seen:
        page, here = seen.page, f"{address}/#/experiments/{experiment}"
        page.set_default_timeout(180_000)
        page.goto(f"{here}/runs{KIND}")
        page.get_by_text(found[0].info.run_name, exact=True).first.wait_for()
        for close in page.get_by_role("button", name="Close").all():
            close.click()
        page.wait_for_timeout(2000)
        page.screenshot(path=IMAGES / "mlflow_runs.png")
        page.goto(f"{here}/runs{KIND}&compareRunsMode=CHART")
        page.locator(".js-plotly-plot .main-svg").nth(2).wait_for()
        page.wait_for_timeout(5000)
        page.screenshot(path=IMAGES / "mlflow_charts.png")
        query = f"runs=[{chosen}]&experiments=[%22{experiment}%22]"
        page.goto(f"{address}/#/compare-runs?{query}")
        page.get_by_text(f"Comparing {len(found[:4])} Runs").first.wait_for()
        page.wait_for_timeout(5000)
        page.screenshot(path=IMAGES / "mlflow_compare.png")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path())
