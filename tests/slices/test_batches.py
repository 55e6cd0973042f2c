"""Batches: pairs, the same wherever the slices lie, the same for every number of processes.

Run: pytest tests/slices/test_batches.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import builders
from builders import noise, write_store
from mrsr import resampling
from mrsr.compute import Machine
from mrsr.errors import UserError
from mrsr.params.jobs import SuperResolution
from mrsr.slices import batches, holding, store

SHAPES = ((5, 22, 31), (3, 24, 24), (4, 17, 40))


def make_store(path: Path, shapes=SHAPES, dtype="int16", seed: int = 0) -> Path:
    """A store of random volumes."""
    each = [
        {"slope": 0.5, "scale": 400.0 + number, "slice_index": np.arange(shape[0]) + 7}
        for number, shape in enumerate(shapes)
    ]
    return write_store(path, noise(seed, *shapes, dtype=dtype), each=each)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "train.h5")


def load(path: Path, scale: int = 2, degradation: str = "bicubic", place: str = "device", **more):
    return holding.load(
        path, scale=scale, degradation=degradation, device="cpu", place=place, **more
    )


def slice_pair(path: Path, number: int, position: int, scale: int, kind: str):
    """A normalised whole slice and its LR, straight from the store."""
    volume = store.read_store(path)[number]
    image = torch.from_numpy(store.normalised(store.read_slices(path, volume), volume))[position]
    hr, _ = resampling.pad_to(image, scale)
    return hr, resampling.degrade(hr, scale, kind)


@pytest.mark.parametrize(
    "scale,kind", [(2, "bicubic"), (2, "kspace"), (3, "bicubic"), (4, "kspace")]
)
@pytest.mark.parametrize("patch", [12, 0])
def test_places_give_the_same_bits(tmp_path: Path, scale: int, kind: str, patch: int) -> None:
    shapes = SHAPES if patch else ((3, 25, 18), (4, 25, 18))
    for dtype in ("int16", "complex64") if kind == "kspace" else ("int16", "float32"):
        path = make_store(tmp_path / f"{dtype}.h5", shapes, dtype)
        placed = [load(path, scale, kind, place) for place in ("device", "host", "stream")]
        for step in (0, 1, 5):
            found = [
                batches.batch(s, step, batch=6, patch=patch, seed=3, augment=True) for s in placed
            ]
            for lr, hr in found[1:]:
                assert torch.equal(lr, found[0][0])
                assert torch.equal(hr, found[0][1])
            lr, hr = found[0]
            assert lr.dtype == hr.dtype == torch.float32
            size = (patch, patch) if patch else (25 + -25 % scale, 18 + -18 % scale)
            assert hr.shape == (6, 1, *size)
            assert lr.shape == (6, 1, size[0] // scale, size[1] // scale)


@pytest.mark.parametrize("scale,kind", [(2, "bicubic"), (4, "bicubic"), (2, "kspace")])
def test_patches_are_crops_of_whole_slices(path: Path, scale: int, kind: str) -> None:
    """Every pair is found in some slice: HR at (s*i, s*j), LR at (i, j), nothing of the padding."""
    slices = load(path, scale, kind)
    lr, hr = batches.batch(slices, 2, batch=8, patch=12, seed=1, augment=False)
    for one_lr, one_hr in zip(lr[:, 0], hr[:, 0], strict=True):
        hits = 0
        for number, shape in enumerate(SHAPES):
            for position in range(shape[0]):
                whole_hr, whole_lr = slice_pair(path, number, position, scale, kind)
                for i in range((shape[1] - 12) // scale + 1):
                    for j in range((shape[2] - 12) // scale + 1):
                        y, x = i * scale, j * scale
                        if torch.equal(whole_hr[y : y + 12, x : x + 12], one_hr):
                            n = 12 // scale
                            assert torch.equal(whole_lr[i : i + n, j : j + n], one_lr)
                            hits += 1
        assert hits == 1


def test_an_epoch_sees_every_slice_once(path: Path) -> None:
    """Batches that straddle epochs, larger and smaller than the store of 12 slices."""
    slices = load(path)
    means = {}
    for index in range(slices.count):
        (hr, _), where = holding._fetch(slices, np.array([index]))
        means[index] = set(hr[where[0]].flatten().tolist()) - {0.0}
    for size, steps in ((4, 6), (8, 3), (24, 1), (5, 12)):
        seen = []
        for step in range(steps):
            _, hr = batches.batch(slices, step, batch=size, patch=16, seed=0, augment=True)
            for one in hr:
                pixels = set(one.flatten().tolist())
                seen.append(max(means, key=lambda index: len(pixels & means[index])))
        for epoch in range(len(seen) // 12):
            assert sorted(seen[epoch * 12 : epoch * 12 + 12]) == list(range(12))


def test_stateless(path: Path) -> None:
    """Any order of steps, any history: the same batch; other seeds and steps: another."""
    options = {"batch": 4, "patch": 8, "augment": True, "rotate": True}
    one, other = load(path), load(path)
    forward = [batches.batch(one, step, seed=0, **options) for step in range(8)]
    for step in (7, 3, 3, 0):
        for a, b in zip(batches.batch(other, step, seed=0, **options), forward[step], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(batches.batch(one, 0, seed=1, **options)[1], forward[0][1])
    assert not torch.equal(forward[0][1], forward[3][1])  # 12 slices: step 3 is the next epoch


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_share_the_global_batch(path: Path, world: int) -> None:
    options = {"batch": 6, "patch": 8, "seed": 4, "augment": True, "rotate": True}
    slices, streamed = load(path), load(path, place="stream")
    for step in range(3):
        whole = batches.batch(slices, step, **options)
        parts = [
            batches.batch(streamed, step, rank=rank, world=world, **options)
            for rank in range(world)
        ]
        for i in (0, 1):
            assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_augmentation_turns_both(path: Path) -> None:
    """All eight orientations appear, and LR stays the pair of HR."""
    slices = load(path)
    base = batches.batch(slices, 0, batch=96, patch=16, seed=0, augment=False)
    turned = batches.batch(slices, 0, batch=96, patch=16, seed=0, augment=True, rotate=True)
    seen = set()
    for lr, hr, new_lr, new_hr in zip(*base, *turned, strict=True):
        for flip in ((), (-1,), (-2,), (-2, -1)):
            for turn in (False, True):
                expected = [x.flip(flip).mT if turn else x.flip(flip) for x in (lr, hr)]
                if torch.equal(expected[1], new_hr):
                    assert torch.equal(expected[0], new_lr)
                    seen.add((flip, turn))
    assert len(seen) == 8


@pytest.mark.parametrize("place", ["device", "stream"])
@pytest.mark.parametrize("kind", ["bicubic", "kspace"])
def test_whole_slices(path: Path, place: str, kind: str) -> None:
    slices = load(path, 3, kind, place)
    count = 0
    for piece, lr, hr in batches.whole(slices, batch=2):
        number = int(piece.volume.key)
        assert piece.size == SHAPES[number][1:]
        assert len(lr) == len(hr) == len(piece.positions) <= 2
        for row, position in enumerate(piece.positions):
            expected_hr, expected_lr = slice_pair(path, number, position, 3, kind)
            assert torch.equal(hr[row, 0], expected_hr)
            assert torch.equal(lr[row, 0], expected_lr)
        count += len(lr)
    assert count == slices.count == 12


def test_a_few_whole_slices_are_spread(path: Path) -> None:
    slices = load(path)
    found = [
        (piece.volume.subject, position)
        for piece, _, _ in batches.whole(slices, limit=4)
        for position in piece.positions
    ]
    assert len(found) == 4
    assert {subject for subject, _ in found} == {"s0", "s1", "s2"}


def test_small_slices_are_left_out_and_said(path: Path, capsys) -> None:
    slices = load(path)
    for step in range(3):
        batches.batch(slices, step, batch=4, patch=22, seed=0, augment=True)
    assert "4 of 12 slices are smaller than the patch of 22" in capsys.readouterr().err


def test_wrong_wishes_are_named(path: Path) -> None:
    slices = load(path)
    options = {"seed": 0, "augment": False}
    with pytest.raises(UserError, match=r"patch 40 is larger than every slice of .*24x40"):
        batches.batch(slices, 0, batch=2, patch=40, **options)
    with pytest.raises(UserError, match="patch 9 must be 0 or a positive multiple of the scale 2"):
        batches.batch(slices, 0, batch=2, patch=9, **options)
    with pytest.raises(UserError, match="several sizes"):
        batches.batch(slices, 0, batch=2, patch=0, **options)
    with pytest.raises(UserError, match="batch 3 does not divide evenly over 2"):
        batches.batch(slices, 0, batch=3, patch=8, world=2, **options)
    with pytest.raises(UserError, match="degradation 'blur'"):
        load(path, degradation="blur", place="stream")


def test_auto_takes_what_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = holding.memory_needed(path, 2)
    assert needed == 12 * (24 * 40 + 12 * 20) * 4
    assert holding.memory_needed(path, 2, torch.float16) == needed // 2
    assert load(path, place="auto").place == "device"
    monkeypatch.setattr(holding, "memory_available", lambda device: needed)
    assert load(path, place="auto").place == "stream"
    free = {"cuda": needed, "cpu": 3 * needed}
    monkeypatch.setattr(holding, "memory_available", lambda device: free[device.type])
    assert holding._place(needed, torch.device("cuda")) == "host"


def test_half_precision_storage(path: Path) -> None:
    options = {"batch": 4, "patch": 8, "seed": 0, "augment": True}
    full = batches.batch(load(path), 0, **options)
    halves = [
        batches.batch(load(path, place=place, dtype=torch.float16), 0, **options)
        for place in ("device", "stream")
    ]
    for i in (0, 1):
        assert halves[0][i].dtype == torch.float32
        assert torch.equal(halves[0][i], halves[1][i])
        torch.testing.assert_close(halves[0][i], full[i], atol=2e-3, rtol=0)


def guide_store(path: Path, target: Path, shapes=SHAPES, dtype="int16", without=()) -> Path:
    """A second contrast of the slices of `target`, without the volumes in `without`."""
    make_store(path, shapes, dtype, seed=9)
    with h5py.File(path, "r+") as file:
        for number in without:
            del file[f"volumes/{number:04d}"]
    return path


def second_of(slices: holding.Slices, number: int, position: int) -> torch.Tensor:
    """The second image of one whole slice, straight from the store."""
    volume = slices.volumes[number]
    if slices.guide is None:
        return slice_pair(slices.path, number, position, slices.scale, slices.degradation)[1]
    other = next(v for v in store.read_store(slices.guide) if v.key == volume.key)
    stored = store.normalised(store.read_slices(slices.guide, other), other)[position]
    image = resampling.pad_to(torch.from_numpy(stored), slices.scale)[0]
    return image.abs() if image.is_complex() else image


SECOND = [
    ("guide", 2, "bicubic", "int16"),
    ("guide", 3, "kspace", "complex64"),
    ("clean", 2, "bicubic", "float32"),
    ("clean", 2, "kspace", "complex64"),
]


@pytest.mark.parametrize("place", ["device", "stream"])
def test_mixed_degradations_take_turns_within_a_volume(path: Path, place: str) -> None:
    slices = load(path, degradation="mixed", place=place)
    for piece, lr, _ in batches.whole(slices, batch=2):
        number = slices.volumes.index(piece.volume)
        height, width = piece.size
        for image, position in zip(lr, piece.positions, strict=True):
            kind = resampling.KINDS[position % 2]
            alone = slice_pair(path, number, position, 2, kind)[1]
            assert torch.equal(image[0, : -(-height // 2), : -(-width // 2)], alone), (kind, number)


def test_noise_is_a_function_of_the_step_and_on_lr_alone(path: Path) -> None:
    settings = builders.read(
        SuperResolution, builders.sr(batch=4, patch=8, noise=0.5, steps=9, seed=3)
    )
    clean = replace(settings, noise=0.0)
    slices = load(path)
    one = Machine(torch.device("cpu"))
    halves = [replace(one, rank=rank, world=2) for rank in (0, 1)]
    lr, hr = batches.draw(slices, settings, 1, one)
    before, truth = batches.draw(slices, clean, 1, one)
    assert torch.equal(hr, truth)
    levels = (lr - before).std(dim=(1, 2, 3))
    assert len(set(levels.tolist())) == 4 and levels.min() > 0 and levels.max() < 0.7
    assert torch.equal(batches.draw(slices, settings, 1, one)[0], lr)
    again = [batches.draw(slices, settings, 1, machine)[0] for machine in halves]
    assert torch.equal(torch.cat(again), lr)
    other = batches.draw(slices, settings, 2, one)[0] - batches.draw(slices, clean, 2, one)[0]
    assert not torch.equal(other, lr - before)


@pytest.mark.parametrize("patch", [12, 0])
@pytest.mark.parametrize(("role", "scale", "kind", "dtype"), SECOND)
def test_a_second_image_has_the_same_bits_in_every_place(
    tmp_path: Path, role: str, scale: int, kind: str, dtype: str, patch: int
) -> None:
    shapes = SHAPES if patch else ((3, 25, 18), (4, 25, 18))
    path = make_store(tmp_path / "train.h5", shapes, dtype)
    more = {"acceleration": 4}
    if role == "guide":
        more = {"guide": guide_store(tmp_path / "guide.h5", path, shapes, dtype)}
    placed = [load(path, scale, kind, place, **more) for place in ("device", "host", "stream")]
    options = {"batch": 6, "patch": patch, "seed": 3, "augment": True, "rotate": True}
    for step in (0, 1, 5):
        found = [batches.batch(s, step, **options) for s in placed]
        for images in found:
            assert len(images) == 3
            assert all(torch.equal(a, b) for a, b in zip(images, found[0], strict=True))
        lr, hr, second = found[0]
        assert second.dtype == torch.float32
        assert second.shape == (hr.shape if role == "guide" else lr.shape)
        for rank in range(2):  # every process gets its share of all three
            part = batches.batch(placed[2], step, rank=rank, world=2, **options)
            mine = slice(3 * rank, 3 * rank + 3)
            assert all(torch.equal(a, b[mine]) for a, b in zip(part, found[0], strict=True))
    for slices in placed:
        for piece, lr, hr, second in batches.whole(slices, batch=2):
            for row, position in enumerate(piece.positions):
                expected = second_of(slices, int(piece.volume.key), position)
                assert torch.equal(second[row, 0], expected)
                if role == "clean":
                    assert torch.equal(lr[row, 0], resampling.undersample(second[row, 0], 4))
            assert batches.seen(slices, lr, [second])[1:] == ((second,) if role == "guide" else ())
            assert hr.shape[-2:] == (lr.shape[-2] * scale, lr.shape[-1] * scale)


TURNS = {"batch": 24, "patch": 12, "seed": 1, "augment": True, "rotate": True}


@pytest.mark.parametrize(("kind", "dtype"), [("bicubic", "int16"), ("kspace", "complex64")])
def test_a_guide_follows_the_pair(tmp_path: Path, kind: str, dtype: str) -> None:
    """The store as its own guide: wherever it is cut, however turned, it is the HR patch."""
    path = make_store(tmp_path / "train.h5", dtype=dtype)
    guided, plain = load(path, 2, kind, guide=path), load(path, 2, kind)
    for step in range(3):
        lr, hr, second = batches.batch(guided, step, **TURNS)
        assert torch.equal(second, hr)
        pair = batches.batch(plain, step, **TURNS)
        assert torch.equal(lr, pair[0]) and torch.equal(hr, pair[1])


def test_a_clean_image_follows_the_pair(path: Path) -> None:
    """It is what a method without acceleration gets; the undersampled one is turned with it."""
    less, whole = load(path, acceleration=4), load(path)
    for step in range(3):
        aliased, hr, clean = batches.batch(less, step, **TURNS)
        lr, hr_of_whole = batches.batch(whole, step, **TURNS)
        assert torch.equal(clean, lr) and torch.equal(hr, hr_of_whole)
        assert 0 < (aliased - clean).abs().max() < 2
    plain = batches.batch(less, 0, **TURNS | {"augment": False, "rotate": False})
    turned = batches.batch(less, 0, **TURNS)
    seen = set()
    for before, after in zip(zip(*plain, strict=True), zip(*turned, strict=True), strict=True):
        for flip in ((), (-1,), (-2,), (-2, -1)):
            for turn in (False, True):
                expected = [x.flip(flip).mT if turn else x.flip(flip) for x in before]
                if torch.equal(expected[1], after[1]):
                    assert torch.equal(expected[0], after[0])
                    assert torch.equal(expected[2], after[2])
                    seen.add((flip, turn))
    assert len(seen) > 4


@pytest.mark.parametrize("place", ["device", "stream"])
def test_volumes_without_a_guide_are_left_out(tmp_path: Path, path: Path, place: str) -> None:
    guide = guide_store(tmp_path / "guide.h5", path, without=(1,))
    slices = load(path, place=place, guide=guide)
    assert [volume.subject for volume in slices.volumes] == ["s0", "s2"]
    assert slices.count == 9
    seen = {piece.volume.subject for piece, *_ in batches.whole(slices)}
    assert seen == {"s0", "s2"}


def test_a_guide_of_other_slices_is_refused(tmp_path: Path, path: Path) -> None:
    def other(name: str, **changes: object) -> Path:
        made = guide_store(tmp_path / f"{name}.h5", path)
        with h5py.File(made, "r+") as file:
            file["volumes/0001"].attrs.update(changes)
        return made

    moved = np.eye(4)
    moved[2, 3] = 1
    wrong = [
        other("subject", subject="s9"),
        other("visit", visit="2"),
        other("index", slice_index=[1, 2, 3]),
        other("place", affine=moved),
        make_store(tmp_path / "shape.h5", ((5, 22, 31), (3, 24, 22), (4, 17, 40))),
        make_store(tmp_path / "more.h5", (*SHAPES, (2, 20, 20))),
    ]
    for guide in wrong:
        with pytest.raises(UserError, match="does not hold the slices of"):
            load(path, guide=guide)
    with pytest.raises(UserError, match="no slice store"):
        load(path, guide=tmp_path / "none.h5")
    with pytest.raises(UserError, match="takes no undersampled input"):
        load(path, guide=guide_store(tmp_path / "good.h5", path), acceleration=4)


def test_memory_of_a_second_image_counts(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = guide_store(tmp_path / "guide.h5", path)
    monkeypatch.setattr(holding, "memory_available", lambda _: 3 * holding.memory_needed(path, 2))
    assert load(path, place="auto").place == "device"
    assert load(path, place="auto", guide=guide).place == "stream"


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "no slice store"),
        (b"", "not a readable HDF5 file"),
        (b"not HDF5 at all" * 99, "not a readable HDF5 file"),
    ],
)
def test_no_store(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "train.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(path)


def test_damaged_stores(path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="slice again"):
        load(cut)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = 99
        file.create_group("volumes")
    with pytest.raises(UserError, match=r"format 1 \(found 99\)"):
        load(tmp_path / "other.h5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.attrs["format"] = 1
        file.create_group("volumes")
    with pytest.raises(UserError, match="has no volume"):
        load(tmp_path / "empty.h5")
    lacking = make_store(tmp_path / "lacking.h5")
    with h5py.File(lacking, "r+") as file:
        del file["volumes/0001"].attrs["scale"]
    with pytest.raises(UserError, match="damaged"):
        load(lacking)
