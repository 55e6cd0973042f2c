# Functions and wildcard constraints; no rules here.
import json

SPLITS = ["train", "validation", "test"]
BEST = f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt"


wildcard_constraints:
    source="|".join(PARAMS.sources),
    dataset="|".join(PARAMS.datasets),
    scale="|".join(map(str, PARAMS.scales)),
    method="|".join(PARAMS.rows),


def as_json(settings):
    """A job's piece of the configuration, as it stands on its command line."""
    return json.dumps(settings, separators=(",", ":"), ensure_ascii=False)


def manifest_of(wildcards):
    source = PARAMS.params.data.datasets[wildcards.dataset].source
    return f"data/raw/{source}/manifest.csv"


def source_settings(wildcards):
    return as_json(PARAMS.source_settings(wildcards.source))


def slice_settings(wildcards):
    return as_json(PARAMS.slice_settings(wildcards.dataset))


def slice_source_settings(wildcards):
    source = PARAMS.params.data.datasets[wildcards.dataset].source
    return as_json(PARAMS.source_settings(source))


def train_settings(wildcards):
    return as_json(PARAMS.train_settings(wildcards.dataset, int(wildcards.scale), wildcards.method))


def train_threads(wildcards):
    return PARAMS.rows[wildcards.method].training.threads


def evaluate_settings(wildcards):
    return as_json(
        PARAMS.evaluate_settings(wildcards.dataset, int(wildcards.scale), wildcards.method)
    )


def evaluate_inputs(wildcards):
    """The test slices, and the weights of a method that is trained."""
    inputs = {"slices": f"{RESULTS}/slices/{wildcards.dataset}/test.h5"}
    if PARAMS.rows[wildcards.method].trained:
        inputs["checkpoint"] = BEST.format(**dict(wildcards))
    return inputs


def checkpoint_option(wildcards, input):
    return f"--checkpoint {input.checkpoint}" if hasattr(input, "checkpoint") else ""


def cell_paths(pattern, trained_only=False):
    """One path per cell of the experiment's grid."""
    return [
        pattern.format(dataset=cell.dataset, scale=cell.scale, method=cell.method)
        for cell in PARAMS.cells
        if PARAMS.rows[cell.method].trained or not trained_only
    ]
