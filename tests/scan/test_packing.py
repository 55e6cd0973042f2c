"""The networks of the package: packing, checking, using. Run: pytest tests/scan/test_packing.py"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import builders
from mrsr import checkpoint, models
from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.params.experiment import Resolved
from mrsr.resampling import degrade
from mrsr.scan import boxed, packing
from mrsr.scan.enhance import enhance
from project import ROOT

SMALL = {"features": [4, 2]}


@pytest.fixture
def best() -> Resolved:
    return loading.load(ROOT / "params.yaml", "best")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What experiment=best leaves at 2x, with a tiny network."""
    root = tmp_path / "results" / "best"
    torch.manual_seed(0)
    network = models.build("srcnn", 2, SMALL)
    where = root / "checkpoints/openms_all/x2/seran_all"
    where.mkdir(parents=True)
    checkpoint.save(
        where / "best.pt",
        model_name="srcnn",
        options=SMALL,
        scale=2,
        weights=network.state_dict(),
        settings={
            "degradation": "bicubic", "losses": {"l1": 1.0}, "steps": 7, "batch": 3, "patch": 16,
            "optimizer": {"name": "muon", "lr": 1e-3, "muon_lr": 3e-3},
        },
        provenance={"precision": "bf16", "device": "cpu", "commit": "c0ffee"},
    )  # fmt: skip
    (where / "log.jsonl").write_text('{"step": 7, "cpu": 7200.0, "metrics": {}}\n')
    builders.write_store(
        root / "slices/openms_t1/test.h5", builders.discs(0, (3, 20, 24)), dataset="openms_t1"
    )
    for method, psnr in (("bicubic", 30.0), ("seran_all", 34.5)):
        found = {
            "dataset": "openms_t1", "scale": 2, "method": method, "label": f"The {method}",
            "psnr": {"mean": psnr, "low": None, "high": None}, "ssim": {"mean": 0.9},
            "interval": "n too small",
            "per_subject": {"one": {"psnr": psnr - 1}, "two": {"psnr": psnr + 1.25}},
        }  # fmt: skip
        file = root / f"metrics/openms_t1/x2/{method}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
    return root.parent


def scan(path: Path, height: int = 20, width: int = 24) -> Path:
    """A scan of discs, three slices."""
    (volume,) = builders.discs(1, (3, height, width))
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(volume.transpose(1, 2, 0) * 900, affine), path)
    return path


def test_a_packed_network_is_half_as_large_and_the_same(
    best: Resolved, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weights"
    other = scan(tmp_path / "other.nii.gz")
    made = packing.pack(best, results, out, [other])
    assert [path.name for path in made] == ["x2.pt", "SHA256SUMS", "README.md"]
    assert "4x is left out" in capsys.readouterr().err
    saved = checkpoint.load(out / "x2.pt")
    assert {tensor.dtype for tensor in saved.weights.values()} == {torch.float16}
    assert saved.provenance["weights"] == "float16"
    first = checkpoint.network(results / "best/checkpoints/openms_all/x2/seran_all/best.pt")
    lr = torch.rand(1, 1, 8, 8)
    second = checkpoint.network(boxed.path(2, out))
    torch.testing.assert_close(second(lr), first(lr), rtol=0, atol=2e-3)
    digest = hashlib.sha256((out / "x2.pt").read_bytes()).hexdigest()
    assert (out / "SHA256SUMS").read_text() == f"{digest}  x2.pt\n"

    card = (out / "README.md").read_text()
    for text in (
        digest, "not for diagnosis", "CC BY", "Lesjak", "patient01, patient03", "patient04",
        "patient12, patient19, patient20", "2.00 (cpu)", "3 patches of 16 pixels", "n too small",
        "bf16",
        "muon_lr 0.003", "+4.50 (one +4.50, two +4.50)", "other.nii.gz", "Pseudo-inverse", "c0ffee",
    ):  # fmt: skip
        assert text in card, text


def test_what_cannot_be_packed_is_said(best: Resolved, results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint to pack; run `snakemake all"):
        packing.pack(best, tmp_path / "none", tmp_path / "out")
    demo = loading.load(ROOT / "params.yaml", "demo")
    with pytest.raises(UserError, match="'demo' must have one method with `trained_on`"):
        packing.pack(demo, results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_large_network_is_refused(
    best: Resolved, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "LARGEST", 1000)
    with pytest.raises(UserError, match=r"x2.pt has \d+ bytes, over 1000"):
        packing.pack(best, results, tmp_path / "out")
    assert not (tmp_path / "out" / "x2.pt").exists()


def test_a_damaged_or_missing_network_is_refused(
    best: Resolved, results: Path, tmp_path: Path
) -> None:
    packing.pack(best, results, tmp_path)
    with pytest.raises(UserError, match=r"no network for 3x \(it has 2x\)"):
        boxed.path(3, tmp_path)
    with open(tmp_path / "x2.pt", "ab") as file:
        file.write(b"!")
    with pytest.raises(UserError, match="damaged; install mrsr again"):
        boxed.path(0, tmp_path)
    with pytest.raises(UserError, match="it has none"):
        boxed.path(2, tmp_path / "nothing")


@pytest.mark.parametrize("scale", [0, 2, 4])
def test_enhance_needs_no_model(
    tmp_path: Path, scale: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The package's own networks: what they add is nearer to the truth than the pseudo-inverse."""
    image = nibabel.load(scan(tmp_path / "scan.nii.gz", 96, 96)).get_fdata().transpose(2, 0, 1)
    factor = scale or 2
    coarse = degrade(torch.from_numpy(image), factor, "bicubic").numpy().transpose(1, 2, 0)
    affine = np.diag([1.0 * factor, 1.0 * factor, 4.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(coarse, affine), tmp_path / "coarse.nii.gz")
    errors = []
    for model in ("", "pseudo_inverse"):
        out = tmp_path / f"{model}.nii.gz"
        enhance(tmp_path / "coarse.nii.gz", out, model, scale=scale if not model else factor)
        fine = nibabel.load(out).get_fdata().transpose(2, 0, 1)
        assert fine.shape == image.shape
        errors.append(np.square(fine - image).mean())
    assert "for research only" in capsys.readouterr().err
    assert errors[0] < errors[1]
