"""Line 19 of issue 11: what files say of their settings is compared with the settings in force."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import builders
from mrsr.errors import UserError
from mrsr.ops import provenance
from mrsr.params import jobs, loading, settings_files
from mrsr.params.typed import plain

JOBS = settings_files.every_job(loading.load(builders.ROOT / "params.yaml", "demo"))
CELL = "phantom_t1/x2/proposed"


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, (list, tuple)):
        return [*value, *value] or ["x"]
    return "another"


@pytest.mark.parametrize(
    "name",
    [f"checkpoints/{CELL}", "checkpoints/vit/segmentation", "checkpoints/vit/organ",
     "checkpoints/phantom_t1/x2/autoencoder", "slices/phantom_t1"],
)  # fmt: skip
def test_line_19_every_setting_that_decides_is_compared_and_no_other(name: str) -> None:
    job = JOBS[name]
    recorded = json.loads(json.dumps(plain(job)))
    assert provenance.differences(recorded, job) == ""
    # the digest of given weights: a test of its own below
    leaves = [path for path, _ in provenance._flat(recorded) if path != "weights_sha256"]
    assert len(leaves) > 10
    for path in leaves:
        changed = json.loads(json.dumps(recorded))
        *parts, last = path.split(".")
        table = changed
        for part in parts:
            table = table[part]
        before = table[last]
        table[last] = other(before)
        told = provenance.differences(changed, job)
        if path.partition(".")[0] in jobs.FREE:
            assert told == "", path
        elif last == "code":
            assert told == "was made with another code of the network"
        else:
            assert told.startswith(f"was made with {path} "), (path, told)


def test_line_19_files_of_an_earlier_version_are_taken_for_their_defaults() -> None:
    job = JOBS[f"checkpoints/{CELL}"]
    recorded = plain(job)
    del recorded["model"]["code"], recorded["explode"], recorded["recipe"]
    assert provenance.differences(recorded, job) == ""
    later = dataclasses.replace(job, recipe="published")
    assert provenance.differences(recorded, later) == ("was made with recipe common, not published")


def test_line_19_own_weights_count_by_name_wherever_they_lie() -> None:
    """A checkpoint has no folder of the computer that wrote it, and a digest of its own."""
    job = dataclasses.replace(JOBS["checkpoints/vit/segmentation"], weights="/here/unetr.pt")
    recorded = plain(job) | {"weights": "unetr.pt", "weights_sha256": "ab" * 32}
    recorded |= {"dataset": "vit", "scale": 1, "method": "segmentation"}
    assert provenance.differences(recorded, job) == ""
    recorded["weights"] = "other.pt"
    assert provenance.differences(recorded, job).startswith("was made with weights other.pt, not")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with the log of one training, as a person may have copied it."""
    monkeypatch.chdir(tmp_path)
    place = Path("results/demo/checkpoints") / CELL
    place.mkdir(parents=True)
    (place / "best.pt").write_bytes(b"weights")
    start = {"event": "start", "settings": plain(JOBS[f"checkpoints/{CELL}"])}
    (place / "log.jsonl").write_text(json.dumps(start) + "\n")
    return place


def test_line_19_a_file_without_a_record_is_compared(folder: Path, tmp_path: Path) -> None:
    tables = builders.parameters("demo")
    provenance.check_unrecorded(builders.load(tmp_path / "params", tables))
    builders.put(tables["demo"], "set methods proposed losses texture", 0.8)
    changed = builders.load(tmp_path / "params", tables)
    with pytest.raises(UserError) as caught:
        provenance.check_unrecorded(changed)
    assert str(caught.value) == (
        f"{folder}/best.pt was made with losses.texture 0.9, not 0.8, and Snakemake has no record "
        "of it (a copied folder?); take the change of the settings back, or delete the file to "
        "make it anew"
    )


@pytest.mark.parametrize("kind", ["metadata", "incomplete"])
def test_line_19_what_snakemake_knows_is_left_to_it(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    from snakemake.persistence.file import FilePersistence

    tables = builders.parameters("demo")
    builders.put(tables["demo"], "set methods proposed losses texture", 0.8)
    changed = builders.load(tmp_path / "params", tables)
    store = FilePersistence()  # Snakemake's own way to write it
    path = f"{folder}/best.pt"
    if kind == "metadata":
        store._io_write(store._metadata_path, {}, path)
    else:
        store._mark_incomplete(path, None)
    assert provenance.is_recorded(Path(path))
    provenance.check_unrecorded(changed)
    assert not provenance.is_recorded(folder / "last.pt")
    long = Path("results") / ("a" * 150) / ("b" * 150) / "best.pt"
    assert not provenance.is_recorded(long)
    store._io_write(store._metadata_path, {}, str(long))
    assert provenance.is_recorded(long)
