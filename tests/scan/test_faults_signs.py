"""Issue 11, line 1: real, signed input keeps its sign through the whole chain.

Run: pytest tests/scan/test_faults_signs.py
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import preset as named
from builders import read
from mrsr import resampling
from mrsr.datasets import openms
from mrsr.errors import UserError
from mrsr.metrics import definitions
from mrsr.params import schema
from mrsr.params.jobs import Slicing
from mrsr.raw.volume import Volume
from mrsr.scan.degrade import degrade
from mrsr.scan.enhance import enhance
from mrsr.scan.score import score
from mrsr.slices import batches, guides, holding, slicing, store

fast = settings(max_examples=30, deadline=None)
SPLIT = {
    "kind": "subjects",
    "train": ["patient01", "patient03"],
    "validation": ["patient04"],
    "test": ["patient12"],
}


def anatomy(seed: int = 0, shape: tuple[int, int, int] = (4, 48, 56)) -> np.ndarray:
    """(slices, h, w) float64 of discs in air; 0 is the lowest value, a few hundred the highest."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    image = np.zeros(shape)
    for _ in range(8):
        cy, cx, r = rng.uniform(12, 36), rng.uniform(14, 42), rng.uniform(4, 12)
        image += rng.uniform(50, 200) / (1 + np.exp(2 * (np.hypot(y - cy, x - cx) - r + 0.3 * z)))
    return np.where(image < 5, 0, image)


def z_scored(image: np.ndarray) -> np.ndarray:
    return (image - image.mean()) / image.std()


def save(path: Path, array: np.ndarray) -> Path:
    """(slices, h, w) as NIfTI, thick slices last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1, 1, 4.0, 1])), path)
    return path


def values(path: Path) -> np.ndarray:
    return nibabel.load(path).get_fdata().transpose(2, 1, 0)


@fast
@given(
    scale=st.sampled_from(resampling.SCALES),
    kind=st.sampled_from(resampling.KINDS),
    gain=st.floats(-4, 4),
    offset=st.floats(-2000, 2000),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_1_degradation_of_real_images_is_linear(scale, kind, gain, offset, h, w, seed):
    """What was -1024 stays -1024: no magnitude is taken of a real image."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, h * scale, w * scale)))
    expected = gain * resampling.degrade(x, scale, kind) + offset
    found = resampling.degrade(gain * x + offset, scale, kind)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


@fast
@given(
    scale=st.sampled_from(resampling.SCALES),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_1_a_real_image_is_the_real_part_of_its_k_space_crop(scale, h, w, seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(h * scale, w * scale)))
    found = resampling.kspace_crop(x, scale)
    assert not found.is_complex()
    torch.testing.assert_close(found, resampling.kspace_crop(x.to(torch.complex128), scale).real)
    torch.testing.assert_close(found.mean(), x.mean())
    magnitude = resampling.degrade(x.to(torch.complex128), scale, "kspace")
    assert (magnitude >= 0).all()  # complex images alone give one


@fast
@given(acceleration=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_1_undersampling_is_linear_too(acceleration, seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 9, 33))).float()
    found = resampling.undersample(-2 * x - 1024, acceleration)
    torch.testing.assert_close(
        found, -2 * resampling.undersample(x, acceleration) - 1024, rtol=1e-5, atol=1e-2
    )


@pytest.mark.parametrize("kind", resampling.KINDS)
def test_1_degrade_keeps_the_mean_of_a_z_scored_scan_and_its_air(tmp_path, kind):
    for name, image in (("z", z_scored(anatomy())), ("ct", anatomy() * 4 - 1024)):
        source = save(tmp_path / f"{name}.nii", image.astype(np.float32))
        degrade(source, tmp_path / f"{name}_{kind}.nii", scale=2, kind=kind)
        found = values(tmp_path / f"{name}_{kind}.nii")
        assert found.mean() == pytest.approx(image.mean(), abs=1e-4 * np.ptp(image))
        assert found.min() == pytest.approx(image.min(), abs=0.05 * np.ptp(image))


def test_1_complex_scans_give_magnitudes_of_their_own_k_space(tmp_path, capfd):
    """The phase takes part in the crop: the magnitude is taken after it, not before."""
    phase = np.exp(1j * np.linspace(0, 9, 56))
    wave = (anatomy() * phase).astype(np.complex64)
    source = save(tmp_path / "wave.nii", wave)
    degrade(source, tmp_path / "out.nii", scale=2, kind="kspace")
    expected = resampling.degrade(torch.from_numpy(wave), 2, "kspace").numpy()
    assert np.allclose(values(tmp_path / "out.nii"), expected, atol=1e-3)
    other = resampling.degrade(torch.from_numpy(np.abs(wave)), 2, "kspace").numpy()
    assert np.abs(expected - other).max() > 1
    capfd.readouterr()
    enhance(source, tmp_path / "fine.nii", "bicubic", scale=2)
    assert "wave.nii: complex values, their magnitude is used" in capfd.readouterr().err


def test_1_enhance_and_score_follow_z_scoring(tmp_path):
    """A scan and its z-scored copy: enhanced they differ by the same gain and offset, and they
    score the same."""
    image = anatomy()
    results = {}
    for name, one in (("raw", image), ("z", z_scored(image))):
        truth = save(tmp_path / f"{name}.nii", one.astype(np.float32))
        degrade(truth, tmp_path / f"{name}_lr.nii", scale=2, kind="kspace")
        enhance(tmp_path / f"{name}_lr.nii", tmp_path / f"{name}_sr.nii", "bicubic", scale=2)
        for preset in schema.PRESETS:
            results[name, preset] = score(tmp_path / f"{name}_sr.nii", truth, preset)
    back = values(tmp_path / "z_sr.nii") * image.std() + image.mean()
    assert np.allclose(back, values(tmp_path / "raw_sr.nii"), atol=0.01)
    for preset in schema.PRESETS:
        for metric in ("psnr", "ssim", "nmse"):
            raw, z = (results[name, preset][metric] for name in ("raw", "z"))
            assert z == pytest.approx(raw, rel=1e-3)


@fast
@given(
    preset=st.sampled_from(list(schema.PRESETS)),
    gain=st.floats(0.01, 100),
    offset=st.floats(-3000, -0.01),
    data_range=st.sampled_from(["volume_max", None]),
    clip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_1_metrics_measure_from_the_lowest_value(preset, gain, offset, data_range, clip, seed):
    """Any shift below zero of both volumes changes no metric; a blank slice stays blank."""
    changes = {"clip": clip} | ({"data_range": data_range} if data_range else {})
    rules = named(preset, **changes)
    rng = np.random.default_rng(seed)
    ref = np.concatenate([np.zeros((1, 24, 24)), rng.random((2, 24, 24))])
    ref[1, 0, 0] = 0
    pred = ref + 0.1 * rng.standard_normal(ref.shape)
    shifted = [gain * array + offset for array in (pred, ref)]
    assert definitions.score(*shifted, rules) == pytest.approx(
        definitions.score(pred, ref, rules), rel=1e-5
    )
    assert definitions.has_signal(shifted[1]).tolist() == [False, True, True]


def test_1_a_range_of_one_reaches_from_the_lowest_value_to_one():
    rules = named("volume", data_range="one", clip=True)
    ref = np.linspace(-1, 1, 16 * 16).reshape(1, 16, 16)
    value = definitions.score(ref + 0.2, ref, rules)
    clipped = np.clip(ref + 0.2, -1, 1) - ref
    assert value["psnr"] == pytest.approx(10 * np.log10(2**2 / np.square(clipped).mean()))


def test_1_the_reference_decides_and_positive_ones_are_measured_as_ever():
    ref, rng = anatomy(), np.random.default_rng(0)
    pred = ref + 3 * rng.standard_normal(ref.shape)  # reaches below zero
    value = definitions.score(pred, ref, named("volume"))
    error = np.square(pred - ref).mean()
    assert value["psnr"] == pytest.approx(10 * np.log10(ref.max() ** 2 / error))
    with pytest.raises(UserError, match="one value everywhere"):
        definitions.score(pred, np.full_like(ref, -3), named("volume"))


def wanted(**changes) -> Slicing:
    given = {"dataset": "openms_t1", "source": "openms", "contrast": "T1", "organ": "brain"}
    return read(Slicing, given | {"split": SPLIT} | changes)


def sliced(folder: Path, change) -> Path:
    """The test store of four small patients whose intensities `change` has changed."""
    for number, name in enumerate(sorted(openms.SCANS)):
        save(folder / "raw" / name, change(anatomy(number)).astype(np.float32))
    slicing.slice_dataset(folder / "raw", wanted(), folder / "out", SimpleNamespace())
    return folder / "out" / "test.h5"


def bicubic_psnr(path: Path, kind: str) -> float:
    """Of upsampled LR slices, in the chain: store, batches, metrics."""
    pairs = holding.load(path, scale=2, degradation=kind, device="cpu")
    found = []
    for volume in range(len(pairs.volumes)):
        pieces = list(batches.whole(pairs, only=volume))
        hr = torch.cat([piece[2] for piece in pieces])[:, 0].numpy()
        sr = torch.cat([resampling.upsample(piece[1], 2) for piece in pieces])[:, 0].numpy()
        found.append(definitions.score(sr, hr, named("slice"))["psnr"])
    return float(np.mean(found))


@pytest.mark.parametrize(
    "change",
    [z_scored, lambda image: 8 * image - 1024, lambda image: image],
    ids=["z", "ct", "raw"],
)
def test_1_a_signed_store_scores_alike_under_both_degradations(tmp_path, change):
    path = sliced(tmp_path, change)
    (first, *_) = store.read_store(path)
    normal = store.normalised(store.read_slices(path, first), first)
    stored = store.read_slices(path, first)
    assert np.allclose(normal * first.scale, stored, atol=1e-3)  # scaled, not shifted or clipped
    psnr = {kind: bicubic_psnr(path, kind) for kind in resampling.KINDS}
    assert psnr["kspace"] == pytest.approx(psnr["bicubic"], abs=3)


def test_1_a_real_z_scored_scan_in_the_chain(tmp_path, mirror):
    """Issue 11: 40.8 dB under bicubic and 11.8 under kspace."""
    source = mirror / "open_ms_data/longitudinal/raw/patient12/study1_T1W.nii.gz"
    image = nibabel.load(source)
    data = image.get_fdata()[..., 20:26]
    volume = Volume(
        stored=z_scored(data).transpose(2, 1, 0).astype(np.float32),
        affine=np.diag([3.0, 1, 1, 1]),
        voxel_size=(3.0, 1.0, 1.0),
    )
    path = tmp_path / "test.h5"
    with store.new_store(path) as file:
        file.create_group("volumes")
        cut = slicing.cut(volume, slicing.Cut())
        store.write_volume(file, 0, cut, subject="12", visit="", path="12.nii")
        store.describe(file, dataset="z", split="test")
    psnr = {kind: bicubic_psnr(path, kind) for kind in resampling.KINDS}
    assert psnr["bicubic"] > 30
    assert psnr["kspace"] == pytest.approx(psnr["bicubic"], abs=3)


def test_1_validation_ranges_count_from_the_lowest_value():
    hr = torch.tensor([[[[0.0, 2.0]]], [[[-0.7, 2.0]]], [[[-3.0, -1.0]]], [[[-0.7, -0.7]]]])
    assert batches.reach(hr).tolist() == pytest.approx([2.0, 2.7, 2.0, 0.0])


def test_1_guides_end_in_air():
    """Outside of a guide with negative values is its air; of others it is zero, as ever."""
    image = anatomy()[:, :20, :20].astype(np.float32)
    shift = np.eye(4)
    shift[1, 3] = -8
    for offset in (0, -1024):
        found = guides.resample(image + offset, shift, (0, 1), (20, 20))
        assert (found[:, :7] == (image + offset).min()).all()


@pytest.mark.parametrize("below", [0, 4000])
def test_16_scans_without_a_value_above_zero_say_so(tmp_path, below):
    image = (anatomy() - anatomy().max() - below).astype(np.float32)
    source = save(tmp_path / "dark.nii", image)
    with pytest.raises(UserError, match=r"above zero .*add an offset"):
        enhance(source, tmp_path / "out.nii", "bicubic", scale=2)
    volume = Volume(stored=image, affine=np.eye(4), voxel_size=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match="above zero: add an offset"):
        slicing.cut(volume, slicing.Cut(), "dark.nii")
    truth = save(tmp_path / "truth.nii", image)  # metrics need no positive value
    assert score(source, truth)["psnr"] == definitions.PSNR_CAP
