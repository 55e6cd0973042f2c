# Functions and wildcard constraints; no rules here.
import os
from pathlib import Path

from mrsr.params import figures
from mrsr.params.repeats import frozen_home, origin
from mrsr.params.schema import ANATOMY, SPLITS

BEST = f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt"
VIT = f"{RESULTS}/checkpoints/vit"


wildcard_constraints:
    pretext="organ|masked|contrastive",
    source="|".join(PARAMS.sources),
    dataset="|".join(PARAMS.datasets),
    scale="|".join(map(str, PARAMS.scales)),
    method="|".join(PARAMS.methods),


def settings(name):
    """A param of a rule: the settings file of what the job makes, and a digest of its content.

    name: with wildcards, such as "checkpoints/{dataset}/x{scale}/{method}".
    """

    def argument(wildcards):
        return SETTINGS.argument(name.format(**dict(wildcards)))

    return argument


def source_of(dataset):
    return PARAMS.params.data.datasets[dataset].source


def manifest_of(wildcards):
    return f"data/raw/{source_of(wildcards.dataset)}/manifest.csv"


def source_settings_of(wildcards):
    return SETTINGS.argument(f"raw/{source_of(wildcards.dataset)}")


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


def train_inputs(wildcards):
    """The stores of a dataset, and the frozen networks that the method's losses use."""
    inputs = {split: f"{RESULTS}/slices/{wildcards.dataset}/{split}.h5" for split in SPLITS}
    method = PARAMS.methods[wildcards.method]
    if method.type == "guided":
        guide = f"{RESULTS}/slices/{wildcards.dataset}/guide"
        inputs |= {f"guide_{split}": f"{guide}/{split}.h5" for split in SPLITS}
    if "vit" in method.frozen:
        inputs["vit"] = f"{VIT}/{PARAMS.params.vit.pretext}/best.pt"
    if "autoencoder" in method.frozen:
        cell = {"dataset": frozen_home(wildcards.dataset), "scale": wildcards.scale}
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
    return minutes("sr", PARAMS.methods[wildcards.method].training.steps, attempt)


def self_minutes(wildcards, attempt):
    return LONGEST  # how many volumes there are is not known yet


def trainings():
    """The folders of all trainings under checkpoints/."""
    return figures.trainings(PARAMS)


def methods_of(*types):
    """A pattern of the methods of these types, as a rule's wildcard constraint."""
    names = [key for key, method in PARAMS.methods.items() if method.type in types]
    return "|".join(names) or "none of them"


def train_threads(wildcards):
    return PARAMS.methods[wildcards.method].training.threads


def evaluate_inputs(wildcards):
    """The test slices, and the weights of a method that is trained."""
    inputs = {"slices": f"{RESULTS}/slices/{wildcards.dataset}/test.h5"}
    method = PARAMS.methods[wildcards.method]
    if method.trained:
        dataset, key = method.home(wildcards.dataset)
        cell = {"dataset": dataset, "scale": wildcards.scale, "method": key}
        inputs["checkpoint"] = BEST.format(**cell)
    if method.type == "guided":
        inputs["guide"] = f"{RESULTS}/slices/{wildcards.dataset}/guide/test.h5"
    name = f"metrics/{wildcards.dataset}/x{wildcards.scale}/{wildcards.method}"
    if set(SETTINGS.jobs[name].more) & set(ANATOMY):
        inputs["segmentation"] = f"{VIT}/segmentation/best.pt"
    return inputs


def evaluate_options(wildcards, input):
    names = ("checkpoint", "guide", "segmentation")
    return " ".join(f"--{name} {input[name]}" for name in names if hasattr(input, name))


def metrics_paths():
    """The metrics file of every cell of the grid."""
    return [
        f"{RESULTS}/metrics/{cell.dataset}/x{cell.scale}/{cell.method}.json"
        for cell in PARAMS.cells
    ]


def summary_paths():
    """The means of every row of the tables: folds and seeds of a cell share one."""
    rows = [(origin(cell.dataset).dataset, cell.scale, cell.method) for cell in PARAMS.cells]
    return [f"{RESULTS}/summary/{d}/x{s}/{m}.json" for d, s, m in dict.fromkeys(rows)]


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


def drawn_paths(suffix):
    """The figures of the paper and those beside them."""
    return [f"{RESULTS}/figures/{name}.{suffix}" for name in figures.names(PARAMS)]


def example_paths():
    """The example images of every dataset and scale."""
    return [
        f"{RESULTS}/figures/examples/{column.name}_x{column.scale}.npz"
        for column in figures.columns(PARAMS)
    ]


def loss_paths():
    """The trainings whose losses Fig. 7 shows."""
    return [f"{RESULTS}/checkpoints/{name}/best.pt" for name in figures.losses(PARAMS)]


def example_inputs(wildcards):
    """The test store of a dataset and scale, its metrics and the weights of its methods."""
    job = SETTINGS.jobs[f"examples/{wildcards.column}"]
    folder = f"{RESULTS}/metrics/{job.dataset}/x{job.scale}"
    inputs = {
        "slices": f"{RESULTS}/slices/{job.dataset}/test.h5",
        "metrics": [f"{folder}/{cell.method}.json" for cell in job.cells],
        "weights": [f"{RESULTS}/checkpoints/{name}/best.pt" for name in job.trainings.values()],
    }
    if any(cell.type == "guided" for cell in job.cells):
        inputs["guide"] = f"{RESULTS}/slices/{job.dataset}/guide/test.h5"
    return inputs


def example_options(wildcards, input):
    return f"--guide {input.guide}" if hasattr(input, "guide") else ""


def report_inputs(wildcards):
    """What the page shows: metrics, figures, example images, logs, and who is in which split."""
    return {
        "metrics": metrics_paths(),
        "figures": drawn_paths("png"),
        "examples": example_paths(),
        "trainings": [f"{RESULTS}/checkpoints/{name}/best.pt" for name in trainings()],
        "stores": [path for paths in vit_stores(PARAMS.datasets).values() for path in paths],
        "frozen": frozen_paths(),
    }
