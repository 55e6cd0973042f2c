"""`mrsr export`: what can be taken away, and that it gives what `mrsr enhance` gives.

pytest tests/scan/test_export.py; the round trips with `-m slow`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mrsr import checkpoint, models
from mrsr.errors import UserError, one_line
from mrsr.resampling import SCALES, upsample, upsample_by_taps
from mrsr.scan.enhance import enhance
from mrsr.scan.export import card, choosing, exporting, network, registry

TRAINED = {
    "dataset": "toy_t1",
    "experiment": "toy",
    "degradation": "bicubic",
    "normalise": {"level": "volume", "percentile": 99.0},
    "losses": {"l1": 1.0},
    "steps": 12,
    "type": "single",
}


def made(folder: Path, name: str, scale: int = 2, **options: Any) -> Path:
    """A checkpoint of an untrained network whose every layer counts in the output."""
    torch.manual_seed(3)
    built = models.build(name, scale, options)
    with torch.no_grad():
        for weights in built.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    path = folder / f"{name}.pt"
    checkpoint.save(
        path,
        model_name=name,
        options=options,
        scale=scale,
        weights=built.state_dict(),
        settings=TRAINED | {"type": "self" if name == "smore" else "single"},
        provenance={"commit": "0123456789abcdef", "metrics": {"validation": {"psnr": 31.25}}},
    )
    return path


def scan(folder: Path, shape: tuple[int, ...] = (20, 4, 17)) -> Path:
    """A scan of slices along its second axis, with negative values, on an oblique grid."""
    random = np.random.default_rng(1)
    voxels = random.gamma(2, 150, shape).astype(np.float32) - 40
    affine = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.1, 0.2, -0.1) @ np.diag([1.0, 4.0, -1.1]), [5, -30, 12]
    )
    path = folder / "scan.nii.gz"
    nibabel.Nifti1Image(voxels, affine).to_filename(path)
    return path


@given(
    height=st.integers(2, 9), width=st.integers(2, 9), scale=st.sampled_from(SCALES),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_upsampling_by_taps_is_upsampling(height: int, width: int, scale: int, seed: int) -> None:
    image = torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed)) - 0.3
    assert torch.allclose(upsample_by_taps(image, scale), upsample(image, scale), atol=2e-6, rtol=0)


# --- which networks -------------------------------------------------------------------------------


def test_the_packages_network_is_found_by_its_name_or_without_one() -> None:
    usual, named, other = choosing.choose(), choosing.choose("x2"), choosing.choose("x4")
    assert usual.digest == named.digest != other.digest
    assert (usual.scale, other.scale) == (2, 4) and usual.boxed
    assert usual.percentile == 99.9 and other.name == f"{other.saved.model_name}_x4"
    with pytest.raises(UserError, match="the package has no network for 8x"):
        choosing.choose("x8")


def test_networks_that_cannot_be_exported_say_so_in_one_line(tmp_path: Path) -> None:
    expected = {
        "swinir": "works in windows of 4 pixels, so one graph does not fit every image size",
        "minet": "needs a second contrast beside the scan, which no export takes",
        "smore": "is trained on each scan anew, so there is no network to export",
    }
    options: dict[str, dict[str, Any]] = {
        "swinir": {"embed": 12, "depths": [1], "heads": 2, "window": 4, "features": 8},
    }
    for name, words in expected.items():
        path = made(tmp_path, name, **options.get(name, {}))
        with pytest.raises(UserError, match=words) as caught:
            choosing.choose(str(path))
        assert one_line(str(caught.value)) == str(caught.value)
        assert str(path) in str(caught.value) and choosing.GIVE in str(caught.value)
    for name in ("bicubic", "pseudo_inverse"):
        with pytest.raises(UserError, match=f"{name} is no trained network"):
            choosing.choose(name)
    with pytest.raises(UserError, match="no such file; train first"):
        choosing.choose("nothing.pt")


class RowByRow(nn.Module):
    """Its code goes through the rows, so that a graph has as many as the image it was made of."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        rows = torch.stack([lr[:, :, row] for row in range(lr.shape[2])], 2)
        return nn.functional.interpolate(rows, scale_factor=2)


class FewRows(nn.Module):
    """It has weights for so many rows."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        weights = torch.linspace(0, 1, 24)[: lr.shape[2], None]
        return nn.functional.interpolate(lr * weights, scale_factor=2)


class Other(nn.Module):
    """Traced, it computes something else than it does in torch."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        more = 1.001 if torch.compiler.is_exporting() else 1.0
        return nn.functional.interpolate(lr * more, scale_factor=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("built", "words"),
    [
        (RowByRow(), "cannot be traced for images of any size"),
        (FewRows(), "does not run on images of another size"),
        (Other(), r"differs from torch by 0\.001.*, over 0\.0001; nothing is written"),
    ],
)
def test_a_graph_that_is_not_the_network_is_refused(
    built: nn.Module, words: str, tmp_path: Path
) -> None:
    path = made(tmp_path, "srcnn", features=[4, 2])
    source = choosing.Source(**{**vars(choosing.choose(str(path))), "network": built.eval()})
    with pytest.raises(UserError, match=words):
        network.write(source, tmp_path / "a.onnx")
    assert not list(tmp_path.glob("*.onnx*"))


def test_what_is_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(made(tmp_path, "srcnn", features=[4, 2]))
    with pytest.raises(UserError, match=r"a\.bin must be named \.onnx"):
        exporting.export(path, "onnx", tmp_path / "a.bin")
    (tmp_path / "b.md").touch()
    with pytest.raises(UserError, match=r"b\.md exists; give another name, or --overwrite"):
        exporting.export(path, "onnx", tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"b\.md exists"):
        exporting.export(path, "bundle", tmp_path / "b.md")
    with pytest.raises(UserError, match=r"b\.md is a file; give the name of a folder"):
        exporting.export(path, "bundle", tmp_path / "b.md", overwrite=True)
    with pytest.raises(UserError, match="use it with --to mlflow and no folder"):
        exporting.export(path, "bundle", name="finer")
    with pytest.raises(UserError, match="holds something else than an export"):  # never removed
        exporting.export(path, "bundle", tmp_path, overwrite=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="holds something else than an export"):
        exporting.export(path, "bundle", Path(), overwrite=True)
    with pytest.raises(UserError, match=r"cannot write .*b\.md/c: "):
        exporting.export(path, "bundle", tmp_path / "b.md" / "c")
    (tmp_path / "d.onnx").mkdir()
    with pytest.raises(UserError, match=r"d\.onnx is a folder; give the name of a file"):
        exporting.export(path, "onnx", tmp_path / "d.onnx", overwrite=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime; install .* 'mrsr\[export\]'"):
        exporting.export(path, "onnx", tmp_path / "c.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.md", "d.onnx", "srcnn.pt"]


# --- the card -------------------------------------------------------------------------------------


def test_the_card_says_what_the_checkpoint_knows(tmp_path: Path) -> None:
    source = choosing.choose(str(made(tmp_path, "srcnn", features=[4, 2])))
    text = card.text(source, 3.2e-7, "Use it so.")
    parameters = sum(weights.numel() for weights in source.network.parameters())
    for words in (
        "# mrsr's srcnn at 2x", "not for diagnosis", "Use it so.", f"{parameters:,}", "3e-07",
        "toy_t1 (experiment toy)", "l1 1", "12", "31.25 dB", "`0123456789ab`", source.digest,
        "bicubic reduction", "no added noise", "99 % percentile", "## Limits",
    ):  # fmt: skip
        assert words in text, words
    assert str(tmp_path) not in text


def test_the_card_of_the_packages_network_has_its_figures_and_limits() -> None:
    text = card.text(choosing.choose("x2"), 1e-6, "")
    for heading in ("## Network", "## Checked", "## Data", "## Measured", "## Limits"):
        assert text.count(f"\n{heading}\n") == 1, heading
    assert "CC BY" in text and "Gain over bicubic" in text


# --- round trips ----------------------------------------------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "edsr": {"features": 8, "blocks": 1},
    "seran": {"features": 8, "blocks": 1, "descriptors": 4, "width": 4},
    "srcnn": {},
    "srresnet": {"features": 8, "blocks": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scale"), [("srcnn", 2), ("seran", 3), ("edsr", 4), ("srresnet", 2)]
)
def test_onnx_of_any_size_is_the_network(name: str, scale: int, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    path = made(tmp_path, name, scale, **SMALL[name])
    out, apart = exporting.export(str(path), "onnx", tmp_path / "n.onnx")
    assert apart < network.TOLERANCE
    known = {each.key: each.value for each in onnx.load(out).metadata_props}
    assert known["scale"] == str(scale) and known["percentile"] == "99"
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    built = checkpoint.network(path)
    for shape in ((1, 1, 8, 8), (2, 1, 31, 50), (5, 1, 64, 9)):
        lr = torch.rand(shape) - 0.2
        with torch.inference_mode():
            expected = built(lr).numpy()
        (found,) = session.run(None, {"lr": lr.numpy()})
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4
    assert (tmp_path / "n.md").read_text().startswith(f"# mrsr's {name} at {scale}x")


def near(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal to 1e-4 of the range."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)
    assert np.ptp(expected) > 100  # it is an image


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srresnet", ""], ids=["tiny", "of the package"])
def test_a_bundle_enhances_a_scan_as_enhance_does(name: str, tmp_path: Path) -> None:
    image = scan(tmp_path)
    path = str(made(tmp_path, name, **SMALL[name])) if name else ""
    enhance(image, tmp_path / "expected.nii.gz", path)
    exporting.export(path, "bundle", tmp_path / "bundle")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run"),
            *("--meta_file", "configs/metadata.json"),
            *("--config_file", "configs/inference.json"),
            *("--image", str(image), "--output_dir", str(tmp_path / "out")),
        ],
        cwd=tmp_path / "bundle",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = nibabel.load(tmp_path / "out" / "scan_sr.nii.gz")
    expected = nibabel.load(tmp_path / "expected.nii.gz")
    assert found.shape == (40, 4, 34)
    near(found.get_fdata(), expected.get_fdata())
    assert np.allclose(found.affine, expected.affine, atol=1e-4)
    assert "monai.bundle run" in (tmp_path / "bundle" / "docs" / "README.md").read_text()
    code = "\n".join(file.read_text() for file in (tmp_path / "bundle" / "scripts").glob("*.py"))
    assert "import mrsr" not in code and "from mrsr" not in code


@pytest.mark.slow
def test_mlflow_serves_a_registered_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    path, image = made(tmp_path, "srresnet", **SMALL["srresnet"]), scan(tmp_path)
    address, _ = exporting.export(str(path), "mlflow", name="finer")
    assert address == "models:/finer/1"
    slices = nibabel.load(image).get_fdata(dtype=np.float32).transpose(1, 2, 0)
    (tmp_path / "slices.json").write_text(json.dumps({"inputs": slices.tolist()}))
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("mlflow")), "models", "predict", "-m", address),
            *("--env-manager", "local", "--content-type", "json"),
            *("-i", "slices.json", "-o", "finer.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.array(json.loads((tmp_path / "finer.json").read_text())["predictions"])
    enhance(image, tmp_path / "expected.nii.gz", path)
    near(found, nibabel.load(tmp_path / "expected.nii.gz").get_fdata().transpose(1, 2, 0))

    from mlflow.tracking import MlflowClient

    version = MlflowClient().get_model_version("finer", "1")
    assert "# mrsr's srresnet at 2x" in version.description
    # the same, saved into a folder
    exporting.export(str(path), "mlflow", tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").read_text().startswith("# mrsr's srresnet")
    assert (tmp_path / "saved" / "MLmodel").is_file()


def test_a_store_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    source = choosing.choose(str(made(tmp_path, "srcnn", features=[4, 2])))
    monkeypatch.setattr(network, "write", lambda source, path: path.touch() or 0.0)
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 did not take the model"):
        registry.register(source)
