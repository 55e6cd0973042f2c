"""The embedded phantom: difficulty, determinism, file layouts, splits; and fastMRI's file format.

Run: .venv/bin/pytest tests/datasets/test_phantom.py
"""

from __future__ import annotations

import ast
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel
import numpy as np
import pytest
import torch

from mrsr import resampling
from mrsr.datasets import phantom
from mrsr.errors import UserError
from mrsr.files import sha256
from mrsr.raw import fastmri_file, phantom_knee, smooth

SETTINGS = SimpleNamespace(
    **phantom.SETTINGS
    | {
        "slices": 10,
        "subjects": {"train": 1, "validation": 1, "test": 1},
        "knee": SimpleNamespace(train=1, validation=0, test=1),
    }
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    phantom.prepare(folder, SETTINGS)
    return folder


def bicubic_psnr(image: np.ndarray, scale: int) -> float:
    """Mean over slices of (slices, h, w), slice maximum as data range."""
    hr = torch.from_numpy(image)[:, None]
    sr = resampling.upsample(resampling.degrade(hr, scale, "bicubic"), scale)
    error = (sr - hr).square().mean((1, 2, 3))
    return float((10 * torch.log10(hr.amax((1, 2, 3)).square() / error)).mean())


def test_t1_is_as_hard_as_real_scans(made):
    refs = phantom.list_volumes(made, SETTINGS, "T1")
    scores = [bicubic_psnr(phantom.read_volume(ref).image, 2) for ref in refs]
    assert all(31 < score < 35 for score in scores), scores


def test_settings_stand_once():
    """A second table further down would win in silence over the one that a reader edits."""
    for path in sorted(Path(phantom.__file__).parent.glob("*.py")):
        names = [
            ast.unparse(target)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        ]
        assert [name for name, times in Counter(names).items() if times > 1] == [], path.name


def test_files_lie_as_ixi_names_them(made):
    assert sorted(path.relative_to(made).as_posix() for path in made.rglob("SIM001*")) == [
        "PD/SIM001-Phantom-0001-PD.nii.gz",
        "T1/SIM001-Phantom-0001-T1.nii.gz",
        "T2/SIM001-Phantom-0001-T2.nii.gz",
        "labels/SIM001-Phantom-0001-labels.nii.gz",
    ]


def test_contrasts_and_labels_share_one_grid(made):
    refs = [phantom.list_volumes(made, SETTINGS, contrast)[0] for contrast in phantom.CONTRASTS]
    volumes = [phantom.read_volume(ref) for ref in refs]
    assert {(ref.subject, ref.pair) for ref in refs} == {("SIM001", "SIM001-Phantom-0001")}
    labels = nibabel.load(refs[0].labels)
    for volume in volumes:
        assert volume.stored.dtype == np.int16
        assert volume.stored.shape == (10, 224, 192) == labels.shape[::-1]
        assert volume.voxel_size == (2.0, 1.0, 1.0)
        assert np.array_equal(volume.affine[:, [2, 1, 0, 3]], labels.affine)
    tissue = np.asarray(labels.dataobj).transpose(2, 1, 0)
    assert set(np.unique(tissue)) == set(phantom.LABELS)
    t1, t2 = volumes[0].image, volumes[1].image
    mean = {name: [image[tissue == key].mean() for image in (t1, t2)] for key, name in
            phantom.LABELS.items()}  # fmt: skip
    assert mean["WM"][0] > mean["GM"][0] > mean["CSF"][0] > mean["background"][0]
    assert mean["CSF"][1] > mean["GM"][1] > mean["WM"][1] > mean["background"][1]


@pytest.mark.parametrize("contrast", phantom.CONTRASTS)
def test_magnitudes_have_no_negative_value(made: Path, contrast: str) -> None:
    """As a scanner stores them: percentile, ranges and degradation meet no sign."""
    for ref in phantom.list_volumes(made, SETTINGS, contrast):
        assert phantom.read_volume(ref).stored.min() >= 0


def test_noise_is_as_asked(made):
    """Rayleigh noise in air has a second moment of 2 sigma squared."""
    ref = phantom.list_volumes(made, SETTINGS, "T1")[0]
    image = phantom.read_volume(ref).image
    sigma = np.sqrt(np.square(image[:, :8, :8]).mean() / 2)
    assert sigma / np.percentile(image, 99.9) == pytest.approx(SETTINGS.noise, rel=0.15)


def test_same_seed_same_bytes(made, tmp_path):
    again = SimpleNamespace(**vars(SETTINGS) | {
        "subjects": {"train": 1, "validation": 0, "test": 0},
        "knee": {"train": 1, "validation": 0, "test": 0},
    })  # fmt: skip
    phantom.prepare(tmp_path, again)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 4 + 2
    for path in files:
        assert sha256(path) == sha256(made / path.relative_to(tmp_path)), path.name


def test_subjects_differ(made):
    one, two = (phantom.read_volume(ref).image
                for ref in phantom.list_volumes(made, SETTINGS, "T1")[:2])  # fmt: skip
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] < 0.95


@pytest.mark.parametrize(
    ("contrast", "splits"),
    [("PD", ["train", "validation", "test"]), ("KNEE_PD", ["train", "test"])],
)
def test_splits_follow_the_settings(made, contrast, splits):
    refs = phantom.list_volumes(made, SETTINGS, contrast)
    assert [ref.split for ref in refs] == splits
    assert len({ref.subject for ref in refs}) == len(refs)


def test_mistakes(made, tmp_path):
    with pytest.raises(UserError, match="no contrast 'FLAIR'; known: T1, T2, PD, KNEE_PD"):
        phantom.list_volumes(made, SETTINGS, "FLAIR")
    more = SimpleNamespace(**vars(SETTINGS) | {"subjects": {"train": 9}})
    with pytest.raises(UserError, match="has 3 phantom T1 volumes, the settings ask for 9"):
        phantom.list_volumes(made, more, "T1")
    for change in ({"slices": 0}, {"slices": 500}, {"noise": -1}, {"sharpness": 0}):
        with pytest.raises(UserError, match=r"data\.sources\.phantom"):
            phantom.prepare(tmp_path, SimpleNamespace(**vars(SETTINGS) | change))


def test_spin_echo_by_hand():
    assert phantom.spin_echo(1000, 100, 0.8, 1000, 100) == pytest.approx(
        0.8 * (1 - 1 / np.e) / np.e
    )


def test_smooth_fields_are_smooth_and_of_unit_size():
    rng = np.random.default_rng(0)
    field = smooth.smooth_field(rng, (60, 80, 40), (1, 1, 2), 4.0)
    assert field.shape == (60, 80, 40)
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(field, axis=0)).max() < 1.5


# --- the knee and fastMRI's layout


def knee(made: Path, contrast: str = "KNEE_PD") -> Path:
    return phantom.list_volumes(made, SETTINGS, contrast)[0].path


def test_knee_volume_is_the_reconstruction(made):
    for contrast, acquisition in phantom_knee.ACQUISITIONS.items():
        ref = phantom.list_volumes(made, SETTINGS, contrast)[0]
        volume = phantom.read_volume(ref)
        assert volume.stored.dtype == np.complex64
        assert volume.stored.shape[1:] == (320, 320)
        assert volume.voxel_size == pytest.approx((4.5, 140 / 320, 140 / 320))
        slices = len(volume.stored)
        assert fastmri_file.describe(ref.path) == (acquisition, ref.subject, slices)
        assert (volume.attributes["acquisition"], volume.subject) == (acquisition, ref.subject)
        with h5py.File(ref.path) as file:
            assert file["kspace"].dtype == np.complex64
            assert file["kspace"].shape[1:] == (352, 336)
            for name in ("reconstruction_esc", "reconstruction_rss"):
                np.testing.assert_allclose(volume.image, file[name][:], rtol=1e-6)
            assert file.attrs["max"] == pytest.approx(volume.image.max())
            assert file.attrs["norm"] == pytest.approx(np.linalg.norm(volume.image), rel=1e-5)


def test_knee_contrasts_are_registered(made):
    """Same borders: the strongest edges of one contrast lie where the other has edges too."""
    refs = [phantom.list_volumes(made, SETTINGS, c)[0] for c in phantom_knee.ACQUISITIONS]
    assert refs[0].pair == refs[1].pair
    images = [phantom.read_volume(ref).image[2] for ref in refs]
    edges = [np.hypot(*np.gradient(image / image.max())) for image in images]
    strong = edges[0] > np.percentile(edges[0], 97)
    shifted = np.roll(strong, 12, axis=(0, 1))
    assert edges[1][strong].mean() > 2 * edges[1][shifted].mean()


def test_header_is_ismrmrd():
    import ismrmrd.xsd

    text = phantom_knee.header(6)
    encoding = ismrmrd.xsd.CreateFromDocument(text).encoding[0]
    assert (encoding.reconSpace.matrixSize.x, encoding.reconSpace.matrixSize.y) == (320, 320)
    assert encoding.reconSpace.fieldOfView_mm.x == 140
    assert encoding.encodingLimits.slice.maximum == 5


def test_fourier_pair_is_orthonormal_and_centred():
    image = np.zeros((8, 6), np.complex64)
    image[4, 3] = 1
    kspace = fastmri_file.kspace_of(image)
    np.testing.assert_allclose(kspace, np.full((8, 6), 1 / np.sqrt(48)), atol=1e-7)
    np.testing.assert_allclose(fastmri_file.image_of(kspace), image, atol=1e-7)
    assert fastmri_file.central(image, (4, 4))[2, 2] == 1
    assert fastmri_file.central(image, (5, 3))[2, 1] == 1


def changed(source: Path, target: Path, key: str, value: object) -> Path:
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        del file[key]
        if value is not None:
            file[key] = value
    return target


def test_broken_files_are_refused_in_one_line(made, tmp_path):
    path, bad = knee(made), tmp_path / "file7.h5"
    with h5py.File(path) as file:
        kspace = file["kspace"][:1]
    huge = b'<!DOCTYPE x [<!ENTITY a "b">]><ismrmrdHeader>&a;</ismrmrdHeader>'
    for key, value, message in (
        ("kspace", None, "no dataset 'kspace'"),
        ("kspace", kspace[:, None], "give single-coil"),
        ("kspace", np.abs(kspace), "complex"),
        ("kspace", kspace * np.nan, "NaN"),
        ("kspace", kspace * 0, "empty"),
        ("ismrmrd_header", None, "ismrmrd_header"),
        ("ismrmrd_header", b"<ismrmrdHeader/>", "cannot be parsed"),
        ("ismrmrd_header", b"not XML", "cannot be parsed"),
        ("ismrmrd_header", huge, "not a plain ISMRMRD header"),
    ):
        changed(path, bad, key, value)
        with pytest.raises(UserError, match=message) as raised:
            fastmri_file.read_fastmri_file(bad, subject="a", contrast="PD")
        assert "file7.h5" in str(raised.value)
        assert "\n" not in str(raised.value)
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"no HDF5", b""):
        bad.write_bytes(broken)
        with pytest.raises(UserError, match=r"file7\.h5 is not HDF5, truncated or corrupt"):
            fastmri_file.read_fastmri_file(bad, subject="a", contrast="PD")
    bad.unlink()
    with pytest.raises(UserError, match="no file"):
        fastmri_file.describe(bad)
