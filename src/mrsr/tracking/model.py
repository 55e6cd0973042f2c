"""The best checkpoint as a model in MLflow: its card, its signature, and where its weights are.

The weights are in the training's own artifacts already. The logged model has the signature and
names them (`runs:/<run>/best.pt`): a second copy would double the store, and MLflow could not run
it without mrsr anyway.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

WARNING = "**For research only. A super-resolved image is an estimate: it is not for diagnosis.**"


def card(lines: list[dict[str, Any]]) -> str:
    """A training's model card (Markdown), from its log alone."""
    start = next(line for line in lines if line.get("event") == "start")
    end = next((line for line in lines if line.get("event") == "end"), {})
    settings, origin = start["settings"], start.get("provenance") or {}
    best: dict[str, float] = next(
        (
            line["metrics"]
            for line in lines
            if line.get("split") == "validation" and line.get("step") == end.get("best_step")
        ),
        {},
    )
    model = settings.get("model") or {}
    optimizer = settings.get("optimizer") or {}
    rows = {
        "network": model.get("name") or settings["method"],
        "options": json.dumps(model.get("options") or {}),
        "scale": f"{settings['scale']}x" if "degradation" in settings else None,
        "degradation": settings.get("degradation"),
        "trained on": f"`{settings['dataset']}`, experiment `{settings['experiment']}`",
        "steps x batch": f"{settings.get('steps')} x {settings.get('batch')}",
        "optimizer": f"{optimizer.get('name')}, lr {optimizer.get('lr')}" if optimizer else None,
        "losses": json.dumps(settings.get("losses") or settings.get("weights") or {}),
        "best validation": ", ".join(f"{key} {value:.6g}" for key, value in best.items() if value),
        "best step": end.get("best_step"),
        "seconds": round(end["seconds"], 1) if "seconds" in end else None,
        "commit": origin.get("commit"),
        "torch": origin.get("torch"),
        "precision": origin.get("precision"),
    }
    told = [f"# {settings['method']}, {settings['dataset']}, {settings['scale']}x", "", WARNING, ""]
    told += ["| | |", "|---|---|"]
    told += [f"| {key} | {value} |" for key, value in rows.items() if value not in (None, "", "{}")]
    warnings = [line["text"] for line in lines if line.get("event") == "warning"]
    told += ["", *(f"Warning: {text}" for text in warnings)] if warnings else []
    if model:
        told += ["", "    mrsr enhance scan.nii.gz enhanced.nii.gz --model best.pt"]
    return "\n".join(told) + "\n"


def log_model(client: Any, run: Any, settings: dict[str, Any], digest: str, step: int) -> None:
    """Make the logged model of a training's run, once; an upload that was killed is completed.

    digest: SHA-256 of best.pt. step: the best one.
    """
    from mlflow.entities import LoggedModelOutput

    if run.data.tags.get("mrsr.model") == digest:
        return
    name = f"{settings['method']}-{settings['dataset']}-{settings['scale']}x"
    experiment = run.info.experiment_id
    found = client.search_logged_models([experiment], f"name = '{name}'")
    own = [model for model in found if model.source_run_id == run.info.run_id]
    if not own:
        client.create_logged_model(
            experiment,
            name=name,
            source_run_id=run.info.run_id,
            model_type="super-resolution",
            params={"network": settings["model"]["name"], "scale": str(settings["scale"])},
            tags={
                "dataset": settings["dataset"],
                "checkpoint": f"runs:/{run.info.run_id}/best.pt",
                "checkpoint_sha256": digest,
            },
        )
        found = client.search_logged_models([experiment], f"name = '{name}'")
        own = [model for model in found if model.source_run_id == run.info.run_id]
    for spare in own[1:]:  # as for runs: a server that died made it twice
        client.delete_logged_model(spare.model_id)
    model = own[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "MLmodel"
        file.write_text(_description(model, run, settings), encoding="utf-8")
        client.log_model_artifact(model.model_id, str(file))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step)])
    client.set_tag(run.info.run_id, "mrsr.model", digest)


def _description(model: Any, run: Any, settings: dict[str, Any]) -> str:
    """MLflow's MLmodel file (JSON is YAML): slices (n, 1, rows, columns), intensities about 0-1."""

    def tensor(name: str) -> dict[str, Any]:
        spec = {"dtype": "float32", "shape": [-1, 1, -1, -1]}
        return {"name": name, "type": "tensor", "tensor-spec": spec}

    inputs = ["low_resolution", *(["guide"] if settings.get("type") == "guided" else [])]
    content = {
        "flavors": {"mrsr": {"checkpoint": f"runs:/{run.info.run_id}/best.pt"}},
        "model_id": model.model_id,
        "run_id": run.info.run_id,
        "signature": {
            "inputs": json.dumps([tensor(name) for name in inputs]),
            "outputs": json.dumps([tensor("super_resolved")]),
        },
    }
    return json.dumps(content, indent=2) + "\n"
