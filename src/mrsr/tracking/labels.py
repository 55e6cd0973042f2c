"""What MLflow's columns show of a run: its name, tags, description, source and data.

Standard library alone; `mlflow.*` are tags that its pages know.
"""

from __future__ import annotations

import json
from typing import Any

from mrsr.params.repeats import origin
from mrsr.params.schema import SPLITS

# MLflow's own words for model training. The pages of 3.17 go by their address and by what the
# browser chose last instead (docs/howto/track-with-mlflow.md); others go by this tag
KIND = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "psnr",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}
CONTEXTS = {"train": "training", "validation": "validation", "test": "testing"}


def run_name(stage: str, labels: dict[str, str]) -> str:
    """The method first: the column of names is narrow. 'srresnet 2x phantom_t1', '... test'."""
    if labels["dataset"] == "vit":  # one for all datasets and scales
        return f"{labels['method']} vit"
    name = f"{labels['method']} {labels['scale']}x {labels['dataset']}"
    return f"{name} test" if stage == "evaluation" else name


def experiment_tags(name: str) -> dict[str, str]:
    """Tags of MLflow's experiment of an experiment's name."""
    told = (
        f"Experiment `{name}` of mrsr. A row is a training; below it are its evaluations. `psnr` "
        f"is that of the test slices everywhere.\n\nReport: `results/{name}/report.html`. "
        f"Tables: `results/{name}/tables`. Group by the tag `cell` for a dataset and scale."
    )
    return KIND | {"mlflow.note.content": told}


def run_tags(stage: str, labels: dict[str, str], commit: str | None) -> dict[str, str]:
    """The tags that fill MLflow's columns, and those to group and filter by.

    commit: as in a file's provenance, `+dirty` where tracked files differed.
    """
    experiment = labels["experiment"]
    cell = f"{labels['dataset']} {labels['scale']}x"
    of = "the vision transformer" if labels["dataset"] == "vit" else cell
    told = (
        f"{stage.capitalize()} of `{labels['method']}`, {of}, experiment `{experiment}`.\n\n"
        f"Report: `results/{experiment}/report.html`. Tables: `results/{experiment}/tables`."
    )
    tags = {
        "cell": cell,
        "mlflow.note.content": told,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": _module(stage, labels),
    }
    if commit:
        sha, _, dirty = commit.partition("+")
        tags |= {"mlflow.source.git.commit": sha, "mlflow.source.git.dirty": str(bool(dirty))}
    return tags | _repeat(labels)


def _module(stage: str, labels: dict[str, str]) -> str:
    """The program that a rule runs."""
    if stage == "evaluation":
        return "mrsr.metrics.evaluate"
    if "phase" in labels:
        return "mrsr.training.train_vit"
    if labels["method"] == "autoencoder":
        return "mrsr.training.train_autoencoder"
    own = labels.get("type") == "self"
    return f"mrsr.training.{'train_self' if own else 'train_sr'}"


def _repeat(labels: dict[str, str]) -> dict[str, str]:
    """Tags of a run that is one of several: the dataset that it repeats, its fold and seed."""
    of = origin(labels.get("dataset", ""))
    numbers = {"fold": of.fold, "seed": of.seed}
    found = {key: str(number) for key, number in numbers.items() if number is not None}
    return {"repeats": of.dataset, **found} if found else {}


def stores_of_training(settings: dict[str, Any], data: Any) -> list[tuple[str, str, str]]:
    """(name, digest, split) of the slice stores that a training's log names.

    data: digests as the log has them: a list in the order of the splits, or lists by split for the
    vision transformer, which reads several datasets.
    """
    if isinstance(data, dict):
        names = [*settings.get("degradations", ())]
        return [
            (names[at] if at < len(names) else f"labelled {at + 1}", digest, split)
            for split, digests in data.items()
            for at, digest in enumerate(digests)
        ]
    splits = SPLITS if settings.get("type") != "self" else ("test",)
    found = list(zip([settings["dataset"]] * len(splits), data or (), splits, strict=False))
    guides = enumerate((data or ())[len(splits) :])
    return found + [(f"{settings['dataset']} guide", each, splits[at]) for at, each in guides]


def dataset_inputs(experiment: str, stores: list[tuple[str, str, str]]) -> list[Any]:
    """Slice stores as MLflow's inputs; their place is told from the project's root."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for name, digest, split in stores:
        folder = name.replace(" guide", "/guide")
        where = json.dumps({"uri": f"results/{experiment}/slices/{folder}/{split}.h5"})
        context = InputTag("mlflow.data.context", CONTEXTS.get(split, split))
        inputs.append(DatasetInput(Dataset(name, digest[:36], "local", where), [context]))
    return inputs
