# Functions and wildcard constraints; no rules here.
import json
import os
from pathlib import Path

SPLITS = ["train", "validation", "test"]
BEST = f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt"


VIT = f"{RESULTS}/checkpoints/vit"


wildcard_constraints:
    pretext="organ|masked|contrastive",
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


def guide_settings(wildcards):
    return as_json(PARAMS.guide_settings(wildcards.dataset))


def vit_stores(datasets):
    """The stores of several datasets, by split."""
    return {
        split: expand(
            "{results}/slices/{dataset}/{split}.h5",
            results=RESULTS,
            dataset=datasets,
            split=split,
        )
        for split in SPLITS
    }


def segmentation_inputs(wildcards):
    return vit_stores(PARAMS.labelled)


def pretext_inputs(wildcards):
    return vit_stores(PARAMS.pool) | {"start": f"{VIT}/segmentation/best.pt"}


def pretext_settings(wildcards):
    return as_json(PARAMS.vit_settings("pretext", wildcards.pretext))


def autoencoder_settings(wildcards):
    return as_json(PARAMS.autoencoder_settings(wildcards.dataset, int(wildcards.scale)))


def train_inputs(wildcards):
    """The stores of a dataset, and the frozen networks that the method's losses look through."""
    inputs = {split: f"{RESULTS}/slices/{wildcards.dataset}/{split}.h5" for split in SPLITS}
    if PARAMS.rows[wildcards.method].type == "guided":
        guide = f"{RESULTS}/slices/{wildcards.dataset}/guide"
        inputs |= {f"guide_{split}": f"{guide}/{split}.h5" for split in SPLITS}
    frozen = PARAMS.rows[wildcards.method].frozen
    if "vit" in frozen:
        inputs["vit"] = f"{VIT}/{PARAMS.params.vit.pretext}/best.pt"
    if "autoencoder" in frozen:
        cell = {"dataset": wildcards.dataset, "scale": wildcards.scale}
        inputs["autoencoder"] = BEST.format(**cell, method="autoencoder")
    return inputs


def further_inputs(wildcards, input):
    """The options that hand a training its frozen networks and the folder of its guides."""
    names = ("vit", "autoencoder")
    options = [f"--{name} {input[name]}" for name in names if hasattr(input, name)]
    if hasattr(input, "guide_train"):
        options.append(f"--guide {Path(input.guide_train).parent}")
    return " ".join(options)


# seconds per step of a training at the paper's size on a current GPU, guessed generously: where a
# limit is too short, the training writes its state, queues again and goes on
SECONDS = {"segmentation": 2.0, "pretext": 1.0, "autoencoder": 3.0, "sr": 2.5}
# a job that asks for more than its partition allows would wait for ever
LONGEST = int(os.environ.get("MRSR_SLURM_MINUTES", 24 * 60))


def minutes(training, steps, attempt):
    """Run time to ask for: half an hour to load and measure, then the steps; more each attempt."""
    return min(LONGEST, attempt * (30 + round(steps * SECONDS[training] / 60)))


def segmentation_minutes(wildcards, attempt):
    return minutes("segmentation", PARAMS.params.vit.segmentation.steps, attempt)


def pretext_minutes(wildcards, attempt):
    return minutes("pretext", PARAMS.params.vit.finetuning.steps, attempt)


def autoencoder_minutes(wildcards, attempt):
    return minutes("autoencoder", PARAMS.params.autoencoder.steps, attempt)


def sr_minutes(wildcards, attempt):
    return minutes("sr", PARAMS.rows[wildcards.method].training.steps, attempt)


def self_minutes(wildcards, attempt):
    return LONGEST  # how many volumes there are is not known yet


def trainings():
    """The folders of all trainings under checkpoints/."""
    folders = [f"{cell.dataset}/x{cell.scale}/{cell.method}" for cell in trained_cells()]
    folders += [f"{dataset}/x{scale}/autoencoder" for dataset, scale in PARAMS.autoencoders()]
    folders += [f"vit/{phase}" for phase in ("segmentation", *PARAMS.pretexts) if PARAMS.pool]
    return folders


def methods_of(*types):
    """A pattern of the methods of these types, as a rule's wildcard constraint."""
    names = [key for key, row in PARAMS.rows.items() if row.type in types]
    return "|".join(names) or "none of them"


def trained_cells():
    return [cell for cell in PARAMS.cells if PARAMS.rows[cell.method].trained]


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
    if PARAMS.rows[wildcards.method].type == "guided":
        inputs["guide"] = f"{RESULTS}/slices/{wildcards.dataset}/guide/test.h5"
    return inputs


def evaluate_options(wildcards, input):
    names = ("checkpoint", "guide")
    return " ".join(f"--{name} {input[name]}" for name in names if hasattr(input, name))


def metrics_paths():
    """The metrics file of every cell of the grid."""
    return [
        f"{RESULTS}/metrics/{cell.dataset}/x{cell.scale}/{cell.method}.json"
        for cell in PARAMS.cells
    ]


def probe_paths():
    """The probe of every auto-encoder."""
    return [
        f"{RESULTS}/metrics/{dataset}/x{scale}/autoencoder.probe"
        for dataset, scale in PARAMS.autoencoders()
    ]


def frozen_inputs(wildcards):
    """The trainings of the vision transformer, and the probes of the auto-encoders."""
    phases = ("segmentation", *PARAMS.pretexts) if PARAMS.pool else ()
    return {"vit": [f"{VIT}/{phase}/best.pt" for phase in phases], "probes": probe_paths()}


def frozen_sources(wildcards, input):
    return [*(str(Path(path).parent) for path in input.vit), *input.probes]


def frozen_paths():
    """The table of the frozen networks, where there are any."""
    return [f"{RESULTS}/tables/frozen.csv"] if PARAMS.autoencoders() or PARAMS.pool else []


def flat(folder):
    return "_".join(Path(folder).parts)


def figure_paths():
    """The loss curves of every training."""
    return [f"{RESULTS}/figures/{flat(folder)}.png" for folder in trainings()]


def figure_input(wildcards):
    folder = {flat(name): name for name in trainings()}[wildcards.training]
    return f"{RESULTS}/checkpoints/{folder}/best.pt"
