"""Files below a folder, and digests that change with them and cost little.

Run: pytest tests/test_listing.py
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsr import listing
from mrsr.errors import UserError

ENDS = (".nii", ".nii.gz")


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_what_counts_below_a_folder(tmp_path: Path) -> None:
    for name in ("a.nii", "b/C.NII.GZ", "b/readme.txt", ".h/a.nii", "b/.h/a.nii", ".a.nii",
                 "Derivatives/a.nii", "b/sourcedata/a.nii", "code/a.nii"):  # fmt: skip
        put(tmp_path / name)
    (tmp_path / "b/circle").symlink_to(tmp_path)
    (tmp_path / "gone.nii").symlink_to("nowhere")
    found = listing.below(tmp_path, ENDS)
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == [
        "a.nii",
        "b/C.NII.GZ",
    ]
    left_out = {path.relative_to(tmp_path).as_posix(): reason for path, reason in found.left_out}
    assert left_out == {
        "Derivatives": "a folder of derived data, sources or code",
        "b/sourcedata": "a folder of derived data, sources or code",
        "code": "a folder of derived data, sources or code",
        "b/circle": "a link to a folder that it is in",
        "gone.nii": listing.ABSENT,
    }


@pytest.mark.parametrize(
    "content",
    [b"/annex/objects/SHA256E-s3--f.nii\n", b"version https://git-lfs.github.com/spec/v1\noid"],
)
def test_a_pointer_is_no_scan(tmp_path: Path, content: bytes) -> None:
    pointer = put(tmp_path / "a.nii.gz", content)
    assert listing.below(tmp_path, ENDS).left_out == [(pointer, listing.ABSENT)]


names = st.sampled_from(["a.nii", "b.nii", "c/a.nii", "c/b.nii", "d/e/f.nii.gz"])


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(names, st.binary(max_size=4)), st.dictionaries(names, st.binary(max_size=4)))
def test_a_digest_tells_two_states_of_a_folder_apart(
    one: dict[str, bytes], two: dict[str, bytes]
) -> None:
    """Property: equal digests for equal names, sizes and times; else different ones."""

    def digest(state: dict[str, bytes]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.items():
                os.utime(put(Path(folder) / name, content), (1, sum(content)))
            return listing.digest(Path(folder), ENDS)

    def known(state: dict[str, bytes]) -> dict[str, tuple[int, int]]:
        return {name: (len(content), sum(content)) for name, content in state.items()}

    assert (digest(one) == digest(two)) == (known(one) == known(two))  # fmt: skip


def test_a_small_file_goes_by_content_a_large_one_by_size_and_time(tmp_path: Path) -> None:
    small, large = put(tmp_path / "a.csv", b"1"), put(tmp_path / "b.pt", b"1" * 2_000_000)
    before = [listing.digest(path) for path in (small, large)]
    for path in (small, large):
        os.utime(path, (1, 1))
    after = [listing.digest(path) for path in (small, large)]
    assert before[0] == after[0] and before[1] != after[1]
    assert listing.digest(put(small, b"2")) != after[0]
    assert listing.digest(tmp_path / "nothing") == "absent"


def test_gigabytes_are_not_read(tmp_path: Path) -> None:
    """Two thousand scans of 40 MB (sparse): hashing 80 GB would take a minute."""
    for number in range(2000):
        with open(tmp_path / f"{number}.nii", "wb") as file:
            file.truncate(40_000_000)
    began = time.monotonic()
    listing.digest(tmp_path, ENDS)
    assert time.monotonic() - began < 5


def test_a_folder_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"cannot read .*: Permission denied; check its"):
        listing.below(tmp_path, ENDS)
