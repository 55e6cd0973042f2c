"""`mrsr enhance` does to a scan what the evaluation measures. Slow: a whole scan, twice.

Run: pytest tests/scan/test_evaluation_agrees.py -m slow
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

import builders
from mrsr import checkpoint
from mrsr.cli import app
from mrsr.metrics.evaluate import evaluate
from mrsr.params.jobs import Evaluation
from mrsr.raw.nifti import read_nifti
from mrsr.scan import boxed
from mrsr.slices import slicing, store


def run(*given: object) -> str:
    done = CliRunner().invoke(app, [str(one) for one in given])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_the_psnr_of_a_test_patient_is_the_evaluations(tmp_path, mirror):
    """Degraded 2x in plane, as float32 NIfTI, through `mrsr enhance` without options."""
    source = mirror / "open_ms_data/longitudinal/raw/patient12/study1_T1W.nii.gz"
    path = tmp_path / "test.h5"
    with store.new_store(path) as file:
        file.create_group("volumes")
        cut = slicing.cut(read_nifti(source, slice_axis=2), slicing.Cut())
        store.write_volume(file, 0, cut, subject="12", visit="1", path="12.nii")
        store.describe(file, dataset="openms_t1", split="test")
    saved = checkpoint.load(boxed.path(2))
    settings = builders.read(Evaluation, builders.evaluation(
        dataset="openms_t1", method=saved.settings["method"], batch=8,
        trained_on=saved.settings["dataset"], tracking={"enabled": False},
        model={"name": saved.model_name, "options": saved.options},
    ))  # fmt: skip
    measured = evaluate(settings, path, tmp_path / "found.json", boxed.path(2))["psnr"]["mean"]

    run("degrade", source, tmp_path / "low.nii.gz")
    assert nibabel.load(tmp_path / "low.nii.gz").get_data_dtype() == np.float32
    run("enhance", tmp_path / "low.nii.gz")
    out: Path = tmp_path / "low_mrsr.nii.gz"
    psnr = json.loads(run("score", out, source))["psnr"]
    assert psnr == pytest.approx(measured, abs=0.05)
    assert psnr > 36  # and is what the card has, not what two mistakes have in common
    before, after = nibabel.load(source), nibabel.load(out)
    assert after.shape == before.shape
    assert np.allclose(after.affine, before.affine, atol=1e-4)
    assert after.get_sform(coded=True)[1] == before.get_sform(coded=True)[1]
