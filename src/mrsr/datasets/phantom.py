"""The embedded default: simulated brains (and a procedural knee), available without a network.

Brains are spin-echo simulations from the MNI152 2009a tissue maps (Fonov et al., NeuroImage 2011)
included in nilearn. Each subject gets a random smooth deformation, its own T1, T2 and PD values,
skull and scalp shells, a coil's bias field and Rician noise. File names follow IXI's. All subjects
share one template, and table captions must say so: scores here show that the pipeline works, not
how well a method does on people. `phantom_knee` makes the knee.

    data/raw/phantom/T1/SIM001-Phantom-0001-T1.nii.gz       likewise T2/, PD/; int16, magnitudes
    data/raw/phantom/labels/SIM001-Phantom-0001-labels.nii.gz     uint8, see LABELS
    data/raw/phantom/knee/SIMK001-CORPD_FBK.h5              and -CORPDFS_FBK.h5

By hand: `mrsr raw phantom`.
"""

from __future__ import annotations

import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrsr.errors import UserError
from mrsr.raw import phantom_knee
from mrsr.raw.fastmri_file import read_fastmri_file
from mrsr.raw.lists import SPLITS
from mrsr.raw.nifti import read_nifti, write_nifti
from mrsr.raw.smooth import edge, smooth_field
from mrsr.raw.volume import Volume, VolumeRef

LABELLED = ("brain",)  # organs that have tissue labels, for the ViT's pre-training
# what params.yaml may say under data.sources.phantom, with the defaults
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "subjects": {"train": 6, "validation": 2, "test": 8},
    "slices": 32,  # axial, 2 mm apart
    "noise": 0.005,  # standard deviation, as a fraction of the 99.9th percentile
    "sharpness": 4.0,  # exponent of the tissue maps: higher is harder to super-resolve
    "knee": {"train": 4, "validation": 2, "test": 4},
}
CONTRASTS = ("T1", "T2", "PD")
LABELS = {0: "background", 1: "CSF", 2: "GM", 3: "WM", 4: "other head tissue"}

_SHAPE = (192, 224)  # (x, y) voxels of 1 mm: fits the deformed head with its scalp
_CENTRE = (98.0, 116.0, 86.0)  # template voxel in the middle of the stack
_SPACING = 2.0  # mm between axial slices
_MOST_SLICES = 60  # above and below, the template has no brain
_POINT_SPREAD = 0.6  # mm, standard deviation in plane: bicubic at 2x then scores about 33 dB on T1
_SHELL_EDGE = 2.0  # mm, width of the transition between shells of the head
_FULL_SCALE = 1000.0  # int16 value of the 99.9th percentile

# T1 in ms, T2 in ms, proton density at 1.5 T, within textbook ranges
_TISSUES = {
    "csf": (3800.0, 1500.0, 1.00),
    "gm": (1000.0, 95.0, 0.78),
    "wm": (550.0, 75.0, 0.72),
    "bone": (400.0, 12.0, 0.15),
    "marrow": (350.0, 60.0, 0.40),
    "fat": (300.0, 70.0, 0.55),
    "skin": (600.0, 50.0, 0.55),
}
_SEQUENCES = {"T1": (600.0, 10.0), "T2": (4000.0, 95.0), "PD": (2800.0, 20.0)}  # TR, TE in ms


class Template(NamedTuple):
    """MNI152 maps, (x, y, z) float32 at 1 mm; `distance` from the brain's surface at 2 mm."""

    gm: np.ndarray
    wm: np.ndarray
    distance: np.ndarray  # mm, negative inside
    affine: np.ndarray


def prepare(folder: Path, settings: Any) -> None:
    """Write all subjects and knees into `folder`; the same settings give the same bytes.

    settings: as in SETTINGS.

    Raises:
        UserError: a setting outside its valid range.
    """
    folder = Path(folder)
    brains, knees = len(_dealt(settings.subjects)), len(_dealt(settings.knee))
    if not 1 <= settings.slices <= _MOST_SLICES:
        raise UserError(
            f"data.sources.phantom.slices is {settings.slices}; give 1 to {_MOST_SLICES}"
        )
    if not 0 <= settings.noise < 0.1 or not 0 < settings.sharpness <= 16:
        raise UserError(
            "data.sources.phantom needs 0 <= noise < 0.1 and 0 < sharpness <= 16,"
            f" found {settings.noise} and {settings.sharpness}"
        )
    if brains:
        template()  # once, before the threads share it
    knee = (folder / "knee", settings.seed, settings.noise)
    # numpy, scipy.ndimage and zlib work outside the interpreter's lock, so threads are enough
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(_write_brain, folder, settings, index) for index in range(brains)]
        jobs += [pool.submit(phantom_knee.write_pair, *knee, index) for index in range(knees)]
        for job in jobs:
            job.result()


def list_volumes(folder: Path, settings: Any, contrast: str) -> list[VolumeRef]:
    """The volumes of one contrast: T1, T2, PD (brain), KNEE_PD, KNEE_PDFS (knee)."""
    folder = Path(folder)
    if contrast in phantom_knee.ACQUISITIONS:
        name = f"*-{phantom_knee.ACQUISITIONS[contrast]}.h5"
        paths, counts, organ = sorted((folder / "knee").glob(name)), settings.knee, "knee"
    elif contrast in CONTRASTS:
        paths = sorted((folder / contrast).glob(f"SIM*-{contrast}.nii.gz"))
        counts, organ = settings.subjects, "brain"
    else:
        known = ", ".join((*CONTRASTS, *phantom_knee.ACQUISITIONS))
        raise UserError(f"the phantom has no contrast '{contrast}'; known: {known}")
    splits = _dealt(counts)
    if len(paths) != len(splits):
        raise UserError(
            f"{folder} has {len(paths)} phantom {contrast} volumes, the settings ask for"
            f" {len(splits)}; remove the folder and run `mrsr raw phantom` again"
        )
    refs = []
    for path, split in zip(paths, splits, strict=True):
        scan, _, _ = path.name.rpartition("-")  # SIM001-Phantom-0001 or SIMK001
        labels = folder / "labels" / f"{scan}-labels.nii.gz"
        refs.append(
            VolumeRef(
                path=path,
                subject=scan.split("-")[0],
                contrast=contrast,
                organ=organ,
                split=split,
                labels=labels if organ == "brain" else None,
                pair=scan,
            )
        )
    return refs


def read_volume(ref: VolumeRef) -> Volume:
    """One brain (int16, axial slices) or one knee (complex64, coronal slices of 320x320)."""
    if ref.organ == "knee":
        return read_fastmri_file(ref.path, **ref.names)
    return read_nifti(ref.path, slice_axis=2, **ref.names)


@functools.lru_cache(maxsize=1)
def template() -> Template:
    """The maps inside the nilearn package; nothing is downloaded."""
    from nilearn import datasets
    from scipy import ndimage

    brain, gm, wm = (
        getattr(datasets, f"load_mni152_{name}template")(resolution=1)
        for name in ("", "gm_", "wm_")
    )
    # the skull follows the brain's hull, not its sulci; a 2 mm grid is enough for a smooth distance
    mask = np.asarray(brain.dataobj)[::2, ::2, ::2] > 0
    hull = ndimage.binary_closing(np.pad(mask, 8), iterations=6)[8:-8, 8:-8, 8:-8]
    outside = ndimage.distance_transform_edt(~hull)
    inside = ndimage.distance_transform_edt(hull)
    distance = ndimage.gaussian_filter((outside - inside).astype(np.float32) * 2, 1.5)
    return Template(
        gm.get_fdata(dtype=np.float32), wm.get_fdata(dtype=np.float32), distance, gm.affine
    )


def memberships(
    rng: np.random.Generator, slices: int, sharpness: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tissue fractions of one random subject, {tissue: (x, y, slices)}, and its (4, 4) affine.

    The fractions sum to 1 inside the head and fall to 0 in air.
    """
    from scipy import ndimage

    maps = template()
    shape = (*_SHAPE, slices)
    spacing = (1.0, 1.0, _SPACING)
    size = 1 + 0.02 * rng.standard_normal(3)
    axes = [
        centre + (np.arange(n) - (n - 1) / 2) * step * scale
        for centre, n, step, scale in zip(_CENTRE, shape, spacing, size, strict=True)
    ]
    where = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    for axis, amount in enumerate((2.5, 2.5, 2.0)):  # mm, over structures of some 35 mm
        where[axis] += amount * smooth_field(rng, shape, spacing, 35.0)
        where[axis] += 0.5 * smooth_field(rng, shape, spacing, 14.0)

    def sample(volume: np.ndarray, step: float) -> np.ndarray:
        return ndimage.map_coordinates(volume, where / step, order=1, mode="nearest")

    gm, wm = sample(maps.gm, 1.0), sample(maps.wm, 1.0)
    csf = np.clip(1 - gm - wm, 0, 1)
    # averaging has blurred the template's sulci and borders; a power sharpens them again
    powers = [np.power(np.clip(part, 0, 1), np.float32(sharpness)) for part in (csf, gm, wm)]
    total = sum(powers) + np.float32(1e-6)

    distance = sample(maps.distance, 2.0)
    edges = [2.5 + 0.7 * smooth_field(rng, shape, spacing, 40.0)]  # inner table of the skull
    for thickness, change in ((2.0, 0.2), (3.0, 0.8), (2.0, 0.2), (4.0, 1.2), (2.0, 0.2)):
        drawn = thickness + change * smooth_field(rng, shape, spacing, 30.0)
        edges.append(edges[-1] + np.maximum(drawn, 0.8))
    steps = [edge(distance - at, _SHELL_EDGE) for at in edges]
    inner = (power / total * (1 - steps[0]) for power in powers)
    parts = dict(zip(("csf", "gm", "wm"), inner, strict=True))
    shells = [inner - outer for inner, outer in itertools.pairwise(steps)]
    parts |= {"bone": shells[0] + shells[2], "marrow": shells[1]}
    parts |= {"fat": shells[3], "skin": shells[4]}

    affine = maps.affine.copy()
    first = np.asarray(_CENTRE) - (np.asarray(shape) - 1) / 2 * spacing
    affine[:3, 3] = maps.affine[:3, :3] @ first + maps.affine[:3, 3]
    affine[:3, :3] = maps.affine[:3, :3] * spacing
    return parts, affine


def spin_echo(t1: float, t2: float, density: float, tr: float, te: float) -> float:
    """Signal of a spin-echo sequence: density (1 - exp(-TR/T1)) exp(-TE/T2); times in ms."""
    return float(density * (1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def simulate(
    rng: np.random.Generator, slices: int, noise: float, sharpness: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """One subject: {contrast: (x, y, slices) int16}, labels uint8 on the same grid, affine."""
    from scipy import ndimage

    parts, affine = memberships(rng, slices, sharpness)
    shape, spacing = next(iter(parts.values())).shape, (1.0, 1.0, _SPACING)
    jitter = {name: 1 + 0.04 * rng.standard_normal(3) for name in _TISSUES}
    bias = np.exp(0.10 * smooth_field(rng, shape, spacing, 90.0))
    variation = 1 + 0.02 * smooth_field(rng, shape, spacing, 12.0)

    images = {}
    for contrast, (tr, te) in _SEQUENCES.items():
        signal = np.zeros(shape, np.float32)
        for name, part in parts.items():
            t1, t2, density = (a * b for a, b in zip(_TISSUES[name], jitter[name], strict=True))
            signal += part * np.float32(spin_echo(t1, t2, density, tr, te))
        spread = (_POINT_SPREAD, _POINT_SPREAD, 0)
        signal = ndimage.gaussian_filter(signal * bias * variation, spread)
        full = np.float32(np.percentile(signal[::2, ::2], 99.9))
        sigma = np.float32(noise) * full
        real = signal + sigma * rng.standard_normal(shape, np.float32)
        imaginary = sigma * rng.standard_normal(shape, np.float32)
        counts = np.rint(np.hypot(real, imaginary) * (_FULL_SCALE / full))
        images[contrast] = counts.astype(np.int16)

    inner = np.stack([parts["csf"], parts["gm"], parts["wm"]])
    head = sum(parts[name] for name in ("bone", "marrow", "fat", "skin"))
    air = 1 - inner.sum(axis=0) - head
    labels = np.argmax(np.stack([air, *inner, head]), axis=0).astype(np.uint8)
    return images, labels, affine


def _write_brain(folder: Path, settings: Any, index: int) -> None:
    rng = np.random.default_rng([settings.seed, 1, index])
    images, labels, affine = simulate(rng, settings.slices, settings.noise, settings.sharpness)
    scan = f"SIM{index + 1:03d}-Phantom-{index + 1:04d}"
    for contrast, image in images.items():
        write_nifti(folder / contrast / f"{scan}-{contrast}.nii.gz", image, affine)
    write_nifti(folder / "labels" / f"{scan}-labels.nii.gz", labels, affine)


def _dealt(counts: Any) -> list[str]:
    """The split of each subject in turn, from {split: count} or a namespace of them."""
    table = counts if isinstance(counts, dict) else vars(counts)
    return [split for split in SPLITS for _ in range(int(table.get(split, 0)))]
