"""The phantom's second organ: a procedural coronal knee with k-space, in fastMRI's HDF5 layout.

Bones with cortex, trabeculae and growth-plate scars, cartilage, menisci, ligaments, joint fluid,
muscle with fascia, fat with septa, vessels and skin are drawn as soft shapes whose dimensions vary
between subjects. Each knee gives two registered files, proton density (CORPD_FBK) and
fat-suppressed (CORPDFS_FBK). The complex image has a smooth phase and complex noise; its k-space
is a centred orthonormal FFT. Unlike the real protocol there is no twofold readout oversampling:
the encoded matrix is 352x336 about the 320x320 that is reconstructed, to keep files small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsr.files import atomic
from mrsr.raw.fastmri_file import central, image_of, kspace_of
from mrsr.raw.smooth import edge, smooth_field

ACQUISITIONS = {"KNEE_PD": "CORPD_FBK", "KNEE_PDFS": "CORPDFS_FBK"}

_SLICES = 6
_ENCODED, _RECON = (352, 336), (320, 320)
_SPACING = (4.5, 0.4375, 0.4375)  # mm: slice, row, column; 140 mm across the reconstruction
_SCALE = 2.0**-12  # fastMRI's values are of the order of 1e-4
_FS_NOISE = 1.5  # noise factor with fat suppression, which costs signal

# brightness in (PD, fat-suppressed PD)
_TISSUES = {
    "skin": (0.45, 0.35),
    "fat": (0.90, 0.12),
    "septum": (0.55, 0.16),
    "muscle": (0.42, 0.36),
    "fascia": (0.70, 0.14),
    "vessel": (0.25, 0.85),
    "fluid": (0.85, 1.00),
    "ligament": (0.12, 0.10),
    "meniscus": (0.16, 0.14),
    "cartilage": (0.62, 0.58),
    "cortex": (0.06, 0.05),
    "marrow": (0.80, 0.11),
    "scar": (0.35, 0.20),
}


def write_pair(folder: Path, seed: int, noise: float, index: int) -> None:
    """Write the PD and the fat-suppressed file of knee number `index`.

    noise: standard deviation of the noise's real and imaginary part, in units of `_TISSUES`.
    """
    rng = np.random.default_rng([seed, 2, index])
    images = draw(rng)
    subject = f"SIMK{index + 1:03d}"
    for channel, acquisition in enumerate(ACQUISITIONS.values()):
        sigma = noise * (_FS_NOISE if channel else 1.0)
        phase = _phase(rng, images[channel].shape)
        image = images[channel] * np.exp(1j * phase).astype(np.complex64)
        image += (
            sigma * rng.standard_normal((*image.shape, 2), np.float32).view(np.complex64)[..., 0]
        )
        # a receiver's converter counts in steps: far below the noise, and the file compresses
        step = np.float32(2.0 ** np.floor(np.log2(max(sigma, 1e-6) / 8)))
        counts = np.rint(kspace_of(image).view(np.float32) / step)
        kspace = (counts * (step * np.float32(_SCALE))).view(np.complex64)
        _write(folder / f"{subject}-{acquisition}.h5", kspace, acquisition, subject)


def draw(rng: np.random.Generator) -> np.ndarray:
    """(2, slices, rows, columns) float32: PD and fat-suppressed PD of one random knee, 0 to 1.1."""
    shape = (_SLICES, *_ENCODED)
    y, z, x = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, _SPACING, strict=True)],
        indexing="ij",
    )
    size = 1 + 0.05 * rng.standard_normal()
    side = rng.choice((-1.0, 1.0))  # right or left knee
    x = side * x.astype(np.float32) / size + 1.5 * smooth_field(rng, shape, _SPACING, 30.0)
    z = -z.astype(np.float32) / size + 1.5 * smooth_field(rng, shape, _SPACING, 30.0)
    depth = y.astype(np.float32) / 13.5  # -1 front, 1 back
    images = np.zeros((2, *shape), np.float32)

    def paint(tissue: str, inside: np.ndarray, texture: np.ndarray | float = 1.0) -> None:
        """`inside`: mm from the shape's border, positive inside; soft edge of about a voxel."""
        mask = edge(inside, 0.7)
        for image, value in zip(images, _TISSUES[tissue], strict=True):
            image += mask * (np.float32(value) * texture - image)

    def texture(scale: float, amount: float, stretch: float = 1.0) -> np.ndarray:
        spacing = (_SPACING[0], _SPACING[1] / stretch, _SPACING[2])
        return 1 + np.float32(amount) * smooth_field(rng, shape, spacing, scale)

    # leg: skin, fat with septa, muscle with fascia
    width = 54 + 3 * smooth_field(rng, shape, _SPACING, 40.0) + 5 * np.square(z / 70)
    leg = width - np.abs(x)
    paint("skin", leg, texture(4.0, 0.05))
    paint("fat", leg - 1.8, texture(6.0, 0.04))
    septa = np.abs(smooth_field(rng, shape, _SPACING, 5.0))
    paint("septum", np.minimum(leg - 2.2, 0.5 - 4 * septa))
    layer = 9 + 2 * smooth_field(rng, shape, _SPACING, 25.0) + rng.normal(0, 1.5)
    muscle = leg - np.maximum(layer, 4)
    paint("muscle", muscle, texture(1.5, 0.06, stretch=5.0))
    fascia = np.abs(smooth_field(rng, shape, (_SPACING[0], _SPACING[1] / 3, _SPACING[2]), 9.0))
    paint("fascia", np.minimum(muscle - 1, 0.5 - 5 * fascia))
    vessels = np.full(shape, -1, np.float32)
    for _ in range(24):
        row, column = rng.integers(0, _ENCODED[0]), rng.integers(50, _ENCODED[1] - 50)
        box = np.s_[:, max(row - 12, 0) : row + 12, column - 12 : column + 12]  # 10 mm across
        at, radius = (x[3, row, column], z[3, row, column]), rng.uniform(0.7, 2.2)
        vessels[box] = np.maximum(vessels[box], _ellipse(x[box], z[box], *at, radius, radius * 1.6))
    paint("vessel", np.minimum(vessels, muscle))

    # bones, as distances from their borders
    flare = rng.uniform(36, 39)
    shaft = 15 + (flare - 15) / (1 + np.exp((z - 24) / 7))
    femur = np.minimum(shaft - np.abs(x), z - 13)
    radius = rng.uniform(17.5, 19.5) * (1 - 0.06 * depth**2)
    for centre in (-19.5, 19.5):
        femur = np.maximum(femur, _ellipse(x, z, centre, 17.0, radius, 18.0))
    femur = np.minimum(femur, -_ellipse(x, z, 0.0, 0.0, 7.0, 13 + 5 * depth))
    plateau = -6.5 + 4.5 * np.exp(-np.square(x / 5)) + 0.4 * depth
    shin = 14 + (flare - 15) / (1 + np.exp(-(z + 26) / 6))
    tibia = np.minimum(shin - np.abs(x), plateau - z)
    fibula = np.minimum(5.5 - np.abs(x - 37), -17 - z)

    # the joint between the bones
    joint = np.minimum(_ellipse(x, z, 0.0, -1.0, 40.0, 13.0), muscle - 2)
    paint("fluid", joint, texture(8.0, 0.03))
    thick = rng.uniform(1.9, 2.6)
    paint("cartilage", np.minimum(femur + thick, 11 - z), texture(2.0, 0.04))
    paint("cartilage", np.minimum(np.minimum(tibia + thick, 35 - np.abs(x)), z + 12))
    for wall in (-1.0, 1.0):
        outer = 38.5 - wall * x
        wedge = np.minimum(outer, 0.45 * (wall * x - 24) - np.abs(z + 3.6))
        paint("meniscus", np.minimum(np.minimum(wedge, 3.0 - np.abs(z + 3.6)), wall * x))
        paint("ligament", np.minimum(1.3 - np.abs(wall * x - flare - 2.5), 28 - np.abs(z)))
    slant = x - (z - 2) * rng.uniform(0.3, 0.5) * np.where(depth < 0, 1, -1)
    paint("ligament", np.minimum(3.2 - np.abs(slant), 10 - np.abs(z - 3)), texture(1.2, 0.25, 6.0))

    trabeculae = texture(1.3, 0.05, 2.0) * texture(9.0, 0.05)
    for bone, scar in ((femur, 31.0), (tibia, -23.0), (fibula, -26.0)):
        paint("cortex", bone)
        paint("marrow", bone - 1.4, trabeculae)
        line = np.abs(z - scar - 1.5 * np.sin(x / 7)) - 0.1
        paint("scar", np.minimum(0.5 - line, bone - 2))
    coil = np.exp(0.12 * smooth_field(rng, shape, _SPACING, 90.0))
    return np.clip(images, 0, None) * coil


def header(slices: int) -> str:
    """An ISMRMRD header (XML) for the encoded and the reconstructed matrix."""
    from ismrmrd import xsd

    def space(x: int, y: int) -> Any:
        size = xsd.fieldOfViewMm(x=x * _SPACING[1], y=y * _SPACING[2], z=_SPACING[0])
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=x, y=y, z=1), fieldOfView_mm=size
        )

    def limit(count: int) -> Any:
        return xsd.limitType(minimum=0, maximum=count - 1, center=count // 2)

    limits = xsd.encodingLimitsType(kspace_encoding_step_1=limit(_ENCODED[1]), slice=limit(slices))
    encoding = xsd.encodingType(
        trajectory=xsd.trajectoryType("cartesian"),
        encodedSpace=space(*_ENCODED),
        reconSpace=space(*_RECON),
        encodingLimits=limits,
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_866_217)
    system = xsd.acquisitionSystemInformationType(systemModel="simulated", receiverChannels=1)
    header = xsd.ismrmrdHeader(
        experimentalConditions=conditions, acquisitionSystemInformation=system, encoding=[encoding]
    )
    return xsd.ToXML(header)


def _write(path: Path, kspace: np.ndarray, acquisition: str, subject: str) -> None:
    import h5py

    magnitude = np.abs(central(image_of(kspace), _RECON)).astype(np.float32)
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        for name, data in (("kspace", kspace), ("reconstruction_esc", magnitude)):
            file.create_dataset(name, data=data, chunks=(1, *data.shape[1:]), **packed)
        file["reconstruction_rss"] = file["reconstruction_esc"]  # the same with a single coil
        file["ismrmrd_header"] = header(len(kspace))
        file.attrs["acquisition"] = acquisition
        file.attrs["max"] = float(magnitude.max())
        file.attrs["norm"] = float(np.linalg.norm(magnitude))
        file.attrs["patient_id"] = subject


def _ellipse(x: np.ndarray, z: np.ndarray, cx: Any, cz: Any, rx: Any, rz: Any) -> np.ndarray:
    """Approximate depth of a point inside an ellipse in mm; negative outside."""
    return (1 - np.hypot((x - cx) / rx, (z - cz) / rz)) * np.minimum(rx, rz)


def _phase(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth phase in radians, as field and coil cause in real images."""
    offset, tilt = rng.uniform(-np.pi, np.pi), rng.normal(0, 1.0, 2)
    rows, columns = np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2])
    plane = offset + tilt[0] * rows[:, None] + tilt[1] * columns[None]
    return (plane + 0.4 * smooth_field(rng, shape, _SPACING, 60.0)).astype(np.float32)
