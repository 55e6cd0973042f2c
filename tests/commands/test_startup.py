"""What each command leaves alone when it starts: imports are most of a short job's time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from mrsr import resampling

HEAVY = {
    *("torch", "numpy", "scipy", "h5py", "nibabel", "pandas", "statsmodels", "skimage", "nilearn"),
    *("pydantic", "yaml", "requests", "snakemake", "mlflow", "sqlalchemy", "matplotlib", "PIL"),
    *("monai", "einops", "dvc", "tqdm", "jinja2", "tabulate", "sympy", "torch._dynamo"),
}
SMALL = {"numpy", "h5py", "tqdm"}
NETWORK = SMALL | {"torch"}
JOBS = ["train_sr", "train_vit", "train_autoencoder", "train_self"]


def heavy(program: str, *arguments: str) -> set[str]:
    """The modules of HEAVY that a program has imported when it ends."""
    told = "\nimport json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", program + told, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & {*json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    program = "from mrsr.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    assert not heavy(program, *arguments)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("mrsr", set()),
        ("mrsr.cli", set()),
        ("mrsr.training.launch", set()),
        ("mrsr.params.jobs", set()),
        ("mrsr.tracking.delivery", set()),
        ("mrsr.drawing", set()),
        ("mrsr.slices.slicing", SMALL),
        ("mrsr.params.loading", {"pydantic", "yaml"}),
        ("mrsr.tables.tables", {"numpy", "pandas"}),
        ("mrsr.tables.comparison", {"numpy", "pandas"}),
    ],
)
def test_modules_that_need_no_network_import_none(module, allowed):
    assert heavy(f"import {module}") <= allowed


def test_trainings_import_torch_and_little_else():
    program = "\n".join(f"import mrsr.training.{name}" for name in JOBS)
    assert heavy(program) <= NETWORK


def test_evaluations_import_torch_and_little_else():
    program = "import mrsr.metrics.evaluate, mrsr.metrics.probe"
    assert heavy(program) <= NETWORK | {"scipy"}


def test_counting_a_full_network_leaves_torch_s_compiler_alone():
    program = (
        "from types import SimpleNamespace as S\n"
        "from torch import nn\n"
        "from mrsr.metrics.record import full_count\n"
        "model = S(name='srcnn', options={'features': [4, 4]})\n"
        "wanted = S(model=model, scale=2, full_options={})\n"
        "assert full_count(wanted, nn.Identity()) > 1000"
    )
    assert heavy(program) <= NETWORK | {"scipy"}


def test_the_resize_matrix_is_marked_as_torch_would_mark_it():
    def other() -> None: ...

    marked = vars(torch.compiler.assume_constant_result(other))
    assert marked and marked.items() <= vars(resampling._matrix).items()
