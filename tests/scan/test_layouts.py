"""Random headers and layouts through `mrsr enhance`: nothing fails, nothing moves.

Run: pytest tests/scan/test_layouts.py -m "slow or not slow"
"""

from __future__ import annotations

import gzip
import itertools
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mrsr.scan.enhance import enhance

SCALES = (2, 3, 4, 8)
ORDERS = [  # of the axes, and their directions: 48
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
BACKGROUND = 200.0


def affine_of(
    order: tuple[int, ...], flips: tuple[int, ...], zooms: list[float], angles: list[float]
) -> np.ndarray:
    """File axis a lies along world axis order[a], flipped or not, with zooms[a] mm, then turned."""
    found = np.eye(4)
    found[:3, :3] = np.eye(3)[:, list(order)] * np.array(flips) * zooms
    for axis, angle in enumerate(angles):
        turn = Rotation.from_rotvec(angle * np.eye(3)[axis]).as_matrix()
        found[:3, :3] = turn @ found[:3, :3]
    found[:3, 3] = 31, -57, 12
    return found


def blob(shape: tuple[int, ...], middle: list[float]) -> np.ndarray:
    """A smooth ball of 900 on a background, its middle in fractions of a voxel off the centre."""
    total = np.zeros(shape)
    for axis, (size, shift) in enumerate(zip(shape, middle, strict=True)):
        steps = np.arange(size) - (size - 1) / 2 - (shift if size > 1 else 0)
        total += (np.square(steps) / (2 * 1.4**2)).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
    return BACKGROUND + 900 * np.exp(-total)


def centre(image: nibabel.Nifti1Image) -> np.ndarray:
    """World coordinates (3,) of the centre of mass above the background."""
    values = image.get_fdata().reshape((*image.shape, 1, 1)[:3] if image.ndim < 4 else image.shape)
    mass = (values if values.ndim == 3 else values[..., 0]) - np.median(values)
    grid = np.stack(np.meshgrid(*map(np.arange, mass.shape), indexing="ij"), -1)
    return nibabel.affines.apply_affine(
        image.affine, (grid * mass[..., None]).sum((0, 1, 2)) / mass.sum()
    )


def stays(
    before: nibabel.Nifti1Image, after: nibabel.Nifti1Image, *, rounded: bool = False
) -> None:
    """Centre of mass within 0.01 voxel, field of view, axis codes and mean intensity.

    rounded: to integers, which alone moves the centre of mass by hundredths of a voxel.
    """
    smallest = np.linalg.norm(before.affine[:3, :3], axis=0).min()
    moved = np.linalg.norm(centre(after) - centre(before)) / smallest
    assert moved < (0.05 if rounded else 0.01)
    ends = [
        nibabel.affines.apply_affine(
            image.affine, [[-0.5] * 3, np.array((*image.shape, 1)[:3]) - 0.5]
        )
        for image in (before, after)
    ]
    assert np.abs(ends[0] - ends[1]).max() < 0.01 * smallest
    assert nibabel.aff2axcodes(before.affine) == nibabel.aff2axcodes(after.affine)
    assert after.get_fdata().mean() == pytest.approx(before.get_fdata().mean(), rel=5e-3)


def through(order: tuple[int, ...], flips: tuple[int, ...], scale: int, thick: int) -> None:
    zooms = [0.8, 0.8, 0.8]
    zooms[thick] = 3.3
    shape = [21, 24, 23]
    shape[thick] = 5
    affine = affine_of(order, flips, zooms, [0.2, -0.35, 0.5])
    values = blob(tuple(shape), [0.3, -0.2, 0.4]).astype(np.float32)
    before = nibabel.Nifti1Image(values, affine)
    after = enhance(before, None, "bicubic", scale=scale)
    expected = [size * (1 if axis == thick else scale) for axis, size in enumerate(shape)]
    assert list(after.shape) == expected
    stays(before, after)


@pytest.mark.parametrize("scale", SCALES)
def test_some_axis_orders(scale):
    for number, (order, flips) in enumerate(ORDERS[::11]):
        through(order, flips, scale, number % 3)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
def test_all_48_axis_orders(scale):
    for number, (order, flips) in enumerate(ORDERS):
        through(order, flips, scale, (number + scale) % 3)


@st.composite
def scans(draw: st.DrawFn) -> dict[str, object]:
    """What a file may be like: layout, position, type, header."""
    order, flips = draw(st.sampled_from(ORDERS))
    plane = [draw(st.floats(0.2, 2.0)) for _ in range(2)]
    alike = draw(st.booleans())
    if alike:  # nearly isotropic
        zooms = [plane[0] * draw(st.floats(0.95, 1.05)) for _ in range(3)]
        shape = [draw(st.integers(18, 22)) for _ in range(3)]
    else:
        thick = draw(st.integers(0, 2))
        zooms = [*plane]
        zooms.insert(thick, max(plane) * draw(st.floats(1.3, 5.0)))
        shape = [draw(st.integers(18, 25)) for _ in range(2)]
        shape.insert(thick, draw(st.sampled_from([1, 2, 3, 5])))
    kind = draw(st.sampled_from([".nii", ".nii.gz", ".mgz", "nifti2"]))
    return {
        "affine": affine_of(order, flips, zooms, draw(st.tuples(*[st.floats(-0.7, 0.7)] * 3))),
        "shape": shape,
        "middle": draw(st.tuples(*[st.floats(-0.5, 0.5)] * 3)),
        "kind": kind,
        "dtype": draw(st.sampled_from(
            ["uint8", ">i2", "int32", "float32"] if kind == ".mgz" else
            ["uint8", "int16", ">i2", "uint16", "int32", "float32", ">f4", "float64"]
        )),
        "codes": draw(st.tuples(st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 1, 3]))),
        "volumes": draw(st.sampled_from([0, 0, 1, 2])),
        "slope": draw(st.sampled_from([1.0, 0.25, 7.5])),
        "unit": draw(st.sampled_from(["mm", "unknown", "micron", "meter"])),
        "descrip": draw(st.binary(max_size=79)),
        "intent": draw(st.sampled_from([0, 3, 1001, 1002])),
        "numbers": draw(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 4)),
        "dim_info": draw(st.integers(0, 63)),
        "extension": draw(st.booleans()),
        "scale": draw(st.sampled_from(SCALES)),
        "model": draw(st.sampled_from(["bicubic", "pseudo_inverse"])),
        "same": draw(st.booleans()),
        "packed": draw(st.booleans()),
    }  # fmt: skip


def written(folder: Path, of: dict) -> Path:
    """The file that is meant; uint8 holds 255 at most."""
    small = 255 / 1100 if of["dtype"] == "uint8" else 1.0
    values = blob(tuple(of["shape"]), of["middle"]) * small
    if of["dtype"][-2:] not in ("f4", "f8") and not of["dtype"].startswith("float"):
        values = np.rint(values)
    # nibabel cannot write an .mgz with a fourth axis of 1
    if of["volumes"] > (of["kind"] == ".mgz"):
        values = np.stack([values] * of["volumes"], -1)
    values = values.astype(of["dtype"])
    if of["kind"] == ".mgz":
        path = folder / "in.mgz"
        nibabel.save(nibabel.MGHImage(values, of["affine"]), path)
        return path
    image_of = nibabel.Nifti2Image if of["kind"] == "nifti2" else nibabel.Nifti1Image
    header = image_of.header_class(endianness=">" if ">" in of["dtype"] else "<")
    header.set_data_dtype(values.dtype)
    # millimetres in whatever unit the header says
    size = {"micron": 1e3, "meter": 1e-3}.get(of["unit"], 1.0)
    affine = of["affine"].copy()
    affine[:3] *= size
    image = image_of(values, affine, header)
    image.set_sform(affine, of["codes"][0])
    image.set_qform(affine, of["codes"][1])
    found = image.header
    found.set_xyzt_units(of["unit"], "sec")
    found["descrip"] = of["descrip"]
    found["intent_code"] = of["intent"]
    found["dim_info"] = of["dim_info"]
    for name, number in zip(("cal_max", "cal_min", "toffset", "slice_duration"), of["numbers"],
                            strict=True):  # fmt: skip
        found[name] = number
    if of["extension"]:
        found.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment"))
    content = bytearray(image.to_bytes())
    if values.dtype.kind in "iu":  # nibabel would choose its own
        order = ">" if ">" in of["dtype"] else "<"
        place, form = (176, "dd") if of["kind"] == "nifti2" else (112, "ff")
        struct.pack_into(f"{order}{form}", content, place, of["slope"], 3.0)
    path = folder / ("in.nii.gz" if of["kind"] == ".nii.gz" else "in.nii")
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(of=scans())
def test_200_random_headers_and_layouts(tmp_path_factory, of):
    folder = tmp_path_factory.mktemp("scan")
    source = written(folder, of)
    before = nibabel.load(source)
    out = folder / f"out.nii{'.gz' if of['packed'] else ''}"
    after = enhance(
        source, out, of["model"], scale=of["scale"], dtype="same" if of["same"] else "float32"
    )
    assert after.get_data_dtype().newbyteorder("=") == (
        before.get_data_dtype().newbyteorder("=") if of["same"] else np.float32
    )
    stays(before, after, rounded=of["same"] and before.get_data_dtype().kind in "iu")
