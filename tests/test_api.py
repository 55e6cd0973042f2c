"""What `from mrsr import ...` offers: `pytest tests/test_api.py`."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import nibabel
import numpy as np
import pytest

import mrsr
from mrsr import degrade, enhance, score


def loaded(code: str) -> set[str]:
    """The modules of a fresh Python after it ran `code`."""
    code = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_mrsr_costs_nothing_until_a_function_is_used() -> None:
    assert loaded("import mrsr").isdisjoint({"torch", "numpy", "nibabel", "mrsr.scan"})
    assert "torch" in loaded("from mrsr import enhance")


def test_a_scan_goes_through_all_three(tmp_path: Path) -> None:
    y, x, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in (24, 20, 3)], indexing="ij")
    scan = 1000 * np.exp(-4 * (x**2 + y**2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(scan, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "scan.nii")
    names = [str(tmp_path / name) for name in ("scan.nii", "coarse.nii", "fine.nii")]
    degrade(names[0], names[1])
    enhance(names[1], names[2], "bicubic", scale=2)
    found = score(names[2], names[0])
    assert found["preset"] == "slice" and found["n_slices"] == 3 and found["psnr"] > 30
    assert score(names[0], names[0], "volume")["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("name", mrsr.__all__)
def test_each_function_says_what_it_takes(name: str) -> None:
    function = getattr(mrsr, name)
    assert function.__name__ == name
    assert set(typing.get_type_hints(function)) == {
        *inspect.signature(function).parameters,
        "return",
    }
    described = inspect.getdoc(function) or ""
    for word in (*inspect.signature(function).parameters, "Args:", "Raises:", f"import {name}"):
        assert word in described, word


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mrsr' has no attribute 'sharpen'"):
        _ = mrsr.sharpen
    from mrsr import models  # a submodule, as ever

    assert models.__name__ == "mrsr.models"
