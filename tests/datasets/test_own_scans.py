"""Whose scan is it: BIDS, folders, names, patterns and lists; what is left out is told.

Lines 3 and 4 of the faults found by using it, and several own datasets (line 23).
Run: .venv/bin/pytest tests/datasets/test_own_scans.py
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from test_folder import scan, settings
from typer.testing import CliRunner

from mrsr.cli import app
from mrsr.datasets import folder
from mrsr.errors import UserError
from mrsr.params.schema import SPLITS
from mrsr.raw.scan_formats import SUFFIXES
from mrsr.raw.subjects import may_be_one, subjects
from mrsr.slices import store
from project import ROOT


def tree(root: Path, *names: str) -> Path:
    """Scans of different content at these paths."""
    for name in names:
        scan(root / name)
    return root


def subject_of(root: Path, contrast: str = "any", **change: object) -> dict[str, str]:
    """Path in the root -> subject, of the scans that are used."""
    refs = folder.list_volumes(Path("unused"), settings(root, **change), contrast)
    return {ref.path.relative_to(root).as_posix(): ref.subject for ref in refs}


BIDS = (
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_acq-fast_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz",
)  # fmt: skip
NO_SCANS = (
    "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
    "sourcedata/sub-03/anat/sub-03_T1w.nii.gz", "code/example_T1w.nii.gz",
    "sub-01/ses-1/derivatives/sub-01_T1w.nii.gz", ".git/annex/objects/a/b/sub-04_T1w.nii.gz",
    "sub-02/.heudiconv/sub-02_T1w.nii.gz", ".hidden/sub-05_T1w.nii.gz",
)  # fmt: skip


def test_line_3_bids_is_read_as_bids(tmp_path: Path) -> None:
    """Sessions are one subject; derived, source and hidden files count as nobody."""
    root = tree(tmp_path / "bids", *BIDS, *NO_SCANS)
    assert subject_of(root) == {name: name[:6] for name in BIDS}
    by_contrast = [{n: n[:6] for n in BIDS if n.endswith(f"_{c}.nii.gz")} for c in ("T1w", "T2w")]
    assert [len(found) for found in by_contrast] == [4, 2]
    assert [subject_of(root, contrast) for contrast in ("T1w", "t2W")] == by_contrast


@pytest.mark.parametrize("inside", ["derivatives/bids", "code/bids", ".cache/bids"])
def test_line_3_the_root_itself_may_have_such_a_name(tmp_path: Path, inside: str) -> None:
    assert len(subject_of(tree(tmp_path / inside, *BIDS))) == len(BIDS)


def test_line_3_bids_keeps_functional_scans_masks_and_strangers_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_bold.nii.gz", "template/mni.nii.gz",
        "sub-02/anat/sub-02_label-lesion_mask.nii.gz",
    )  # fmt: skip
    root = tree(tmp_path, *BIDS, *more)
    assert set(subject_of(root)) == set(BIDS)
    said = capsys.readouterr().err
    assert "any: 9 scans found, 6 used, 3 left out" in said
    for name, reason in zip(more, ("in func", "no sub- in its path", "by its name"), strict=True):
        assert any(name in line and reason in line for line in said.splitlines()), said
    assert list(subject_of(root, "bold").values()) == ["sub-01"]


LAYOUTS = {  # paths -> subjects; the table of the rules
    "patient folders": {"patient1/T1.nii.gz": "patient1", "patient2/T1.nii.gz": "patient2"},
    "studies below": {"patient1/study1/T1.nii": "patient1", "patient1/study2/T1.nii": "patient1",
                      "patient2/study1/T1.nii": "patient2"},
    "numbers": {"1/T1.nii.gz": "1", "2/T1.nii.gz": "2", "10/T1.nii.gz": "10"},
    "one folder above all": {"nifti/a7/T1.nii": "a7", "nifti/a8/T1.nii": "a8"},
    "visits": {"visit1/anna.nii": "anna", "visit2/anna.nii": "anna", "visit1/ben.nii": "ben"},
    "contrasts": {"T1/anna.nii": "anna", "T2/anna.nii": "anna", "T1/ben.nii": "ben"},
    "splits": {"train/anna.nii": "anna", "test/ben.nii": "ben"},
    "contrast in the name": {"IXI002-Guys-0828-T1.nii.gz": "IXI002-Guys-0828",
                             "IXI002-Guys-0828-T2.nii.gz": "IXI002-Guys-0828",
                             "IXI012-HH-1211-T1.nii.gz": "IXI012-HH-1211"},
    "visit in the name": {"anna_visit1.nii": "anna", "anna_visit_2.nii": "anna", "ben.nii": "ben"},
    "date in the name": {"2023-01-05_anna.nii": "anna", "20240207_anna.nii": "anna",
                         "2023-01-05_ben.nii": "ben"},
    "numbered": {"case_001.nii.gz": "case_001", "case_002.nii.gz": "case_002"},
    "numbered scans": {"scan1.nii": "scan1", "scan2.nii": "scan2", "scan10.nii": "scan10"},
    "Decathlon": {"Task09/imagesTr/spleen_1.nii": "spleen_1",
                  "Task09/imagesTs/spleen_7.nii": "spleen_7"},
    "folders and files": {"anna/T1.nii": "anna", "anna_T2.nii": "anna", "ben.nii": "ben"},
    "flat BIDS": {"sub-01_ses-1_T1w.nii": "sub-01", "sub-01_ses-2_T1w.nii": "sub-01",
                  "sub-02_T1w.nii": "sub-02"},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_line_3_the_subject_of_common_layouts(tmp_path: Path, name: str) -> None:
    assert subject_of(tree(tmp_path, *LAYOUTS[name])) == LAYOUTS[name]


UNCLEAR = {
    "a name and a number": ("anna_1.nii", "anna_2.nii", "ben_1.nii"),
    "without a mark between": ("anna1.nii", "anna2.nii", "ben1.nii"),
    "repeats": ("OAS1_0001_MR1_mpr-1.nii", "OAS1_0001_MR1_mpr-2.nii", "OAS1_0002_MR1_mpr-1.nii"),
    "channels": ("BRATS_001_0000.nii", "BRATS_001_0001.nii", "BRATS_002_0000.nii"),
    "zeros in front": ("p-01.nii", "p-1_b.nii", "p-2.nii"),
    "folders": ("anna1/T1.nii", "anna2/T1.nii", "ben1/T1.nii"),
    "nothing but contrasts": ("T1.nii", "T2.nii", "FLAIR.nii"),
    "nothing but visits": ("visit1.nii", "visit2.nii", "visit3.nii"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_line_3_what_cannot_be_told_apart_is_refused(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, *UNCLEAR[name])
    told = r"may be of one person or of two|says whose scan it is"
    with pytest.raises(UserError, match=told) as no:
        subject_of(root)
    assert any(file in str(no.value) for file in UNCLEAR[name]) and "CSV" in str(no.value)
    kind = "folder" if "/" in UNCLEAR[name][0] else "file"
    assert f"'{kind}'" in str(no.value)
    assert len(set(subject_of(root, subject=kind).values())) == 3  # said: each is another person's


def test_line_3_a_pattern_says_who_it_is(tmp_path: Path) -> None:
    root = tree(tmp_path, *UNCLEAR["repeats"])
    assert set(subject_of(root, subject=r"(OAS1_\d+)").values()) == {"OAS1_0001", "OAS1_0002"}
    for pattern, told in (("(x", "no regular"), ("OAS1", "a group"), ("(0001)", "OAS1_0002")):
        with pytest.raises(UserError, match=told):
            subject_of(root, subject=pattern)
    with pytest.raises(UserError, match="is in no folder"):
        subject_of(root, subject="folder")


def test_line_3_one_label_in_two_bids_datasets_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/sub-01/anat/sub-01_T1w.nii", "b/sub-01/anat/sub-01_T1w.nii")
    with pytest.raises(UserError, match="sub-01 in two datasets"):
        subject_of(root)
    assert len(set(subject_of(root, subject=r"(.*)/anat").values())) == 2
    with pytest.raises(UserError, match=r"the folder is sub-01's, the file sub-02's"):
        subject_of(tree(tmp_path / "c", "sub-01/anat/sub-02_T1w.nii"))


def test_line_3_one_content_is_never_taken_twice(tmp_path: Path) -> None:
    root = tree(tmp_path / "scans", "anna.nii.gz", "ben.nii.gz", "carl.nii.gz")
    (root / "dora.nii.gz").write_bytes((root / "ben.nii.gz").read_bytes())
    for run in (subject_of, lambda root: folder.prepare(tmp_path / "raw", settings(root))):
        with pytest.raises(
            UserError, match=r"ben\.nii\.gz and dora\.nii\.gz have the same content"
        ):
            run(root)
    (root / "dora.nii.gz").unlink()
    (root / "dora.nii.gz").symlink_to("carl.nii.gz")
    with pytest.raises(UserError, match=r"carl\.nii\.gz and dora\.nii\.gz have the same"):
        subject_of(root)
    (root / "dora.nii.gz").unlink()
    scan(root / "carl.nii")
    with pytest.raises(UserError, match=r"carl\.nii and carl\.nii\.gz seem to be one scan"):
        subject_of(root)
    assert not (tmp_path / "raw").exists()


def test_line_3_copies_are_found_by_content_not_by_size(tmp_path: Path) -> None:
    """Uncompressed scans have one size; a voxel anywhere makes them two."""
    root = tree(tmp_path, "anna.nii", "ben.nii")
    big = np.zeros(300_000, np.uint8)
    for number, name in enumerate(("anna.nii", "ben.nii")):
        big[100_000] = number
        (root / name).write_bytes(big.tobytes())
    assert list(folder.listing.copies([root / "anna.nii", root / "ben.nii"])) == []
    (root / "ben.nii").write_bytes((root / "anna.nii").read_bytes())
    assert len(list(folder.listing.copies([root / "anna.nii", root / "ben.nii"]))) == 1


def datalad(root: Path, absent: tuple[str, ...] = ()) -> Path:
    """Scans as DataLad keeps them: links into .git/annex/objects, some without content."""
    for name in BIDS:
        key = root / ".git/annex/objects/Xx/yY" / f"MD5E-{abs(hash(name))}.nii.gz"
        link = root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(key, link.parent))
        if name not in absent:
            scan(key)
    return root


def test_line_3_datalad_has_each_scan_once(tmp_path: Path) -> None:
    assert subject_of(datalad(tmp_path)) == {name: name[:6] for name in BIDS}


def test_line_4_absent_content_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dangling links and the pointer files of unlocked annex and LFS repositories."""
    root = datalad(tmp_path / "ds", absent=BIDS[:2])
    pointer = root / "sub-03/anat/sub-03_T1w.nii.gz"
    pointer.parent.mkdir(parents=True)
    pointer.write_text("/annex/objects/MD5E-s12--abc.nii.gz\n")
    assert set(subject_of(root)) == set(BIDS[2:])
    said = capsys.readouterr().err
    assert "any: 7 scans found, 4 used, 3 left out" in said
    (line,) = [line for line in said.splitlines() if "datalad get" in line]
    assert all(name in line for name in (*BIDS[:2], "sub-03/anat/sub-03_T1w.nii.gz"))
    with pytest.raises(UserError, match=r"no \.nii.*sub-01.*datalad get"):
        subject_of(datalad(tmp_path / "none", absent=BIDS))


def test_line_4_linked_folders_are_followed(tmp_path: Path) -> None:
    store_ = tree(tmp_path / "store", "x/T1.nii", "y/T1.nii")
    root = tree(tmp_path / "scans", "patient3/T1.nii")
    (root / "patient1").symlink_to(store_ / "x")
    (root / "patient2").symlink_to(store_ / "y")
    (root / "again").symlink_to(root)  # a circle
    found = subject_of(root)
    assert found == {f"patient{n}/T1.nii": f"patient{n}" for n in (1, 2, 3)}


def raw(root: Path, out: Path, **change: object) -> str:
    text = json.dumps(vars(settings(root, **change)))
    call = ["raw", "folder", "--settings", text, "--out", str(out / "manifest.csv")]
    return CliRunner().invoke(app, call, catch_exceptions=False).output


def test_line_4_raw_prints_the_true_count(tmp_path: Path) -> None:
    root = datalad(tmp_path / "ds", absent=BIDS[:1])
    scan(root / "derivatives/x.nii.gz")
    said = raw(root, tmp_path / "raw")
    assert f"{tmp_path / 'raw' / 'manifest.csv'}: 5 files" in said
    assert "folder: 7 files found, 5 used, 2 left out" in said
    assert BIDS[0] in said and "derivatives" in said


def test_line_4_a_replaced_scan_changes_the_manifest(tmp_path: Path) -> None:
    """The names alone would not."""
    root = tree(tmp_path / "scans", "anna.nii", "ben.nii")
    table = tmp_path / "split.csv"
    texts = []
    for change in ("", "scan", "list"):
        if change == "scan":
            (root / "ben.nii").write_bytes((root / "ben.nii").read_bytes()[:-1] + b"\7")
        table.write_text(f"subject,split\nanna,train\nben,{'test' if change else 'train'}\n")
        raw(root, tmp_path / "raw", split=str(table))
        texts.append((tmp_path / "raw/manifest.csv").read_text())
    assert len(set(texts)) == 2 + (texts[1] != texts[2])
    assert texts[0].splitlines()[1] != texts[1].splitlines()[1]  # files.txt
    assert (tmp_path / "raw/split.csv").read_text() == table.read_text()


def sliced(root: Path, tmp_path: Path, **dataset: object) -> str:
    """Through `mrsr raw` and `mrsr slices`; what they print."""
    source = json.dumps(vars(settings(root)) | dataset.pop("source_settings", {}))
    given = {
        **{"dataset": "mine", "source": "folder", "contrast": "any", "organ": "brain"},
        **{"split": {"kind": "source"}},
        **dataset,
    }
    call = functools.partial(CliRunner().invoke, app, catch_exceptions=False)
    manifest = str(tmp_path / "raw/manifest.csv")
    call(["raw", str(given["source"]), "--settings", source, "--out", manifest])
    options = ["--settings", json.dumps(given), "--source-settings", source, "--workers", "1"]
    done = call(["slices", manifest, *options, "--out", str(tmp_path / "slices")])
    assert done.exit_code == 0
    return done.output


PEOPLE = tuple(f"patient{n}/{c}.nii" for n in range(1, 5) for c in ("T1", "T2"))


def test_line_3_the_table_is_printed_before_slicing(tmp_path: Path) -> None:
    split = {"kind": "subjects", "train": ["patient1"], "validation": ["patient2"],
             "test": ["patient3"]}  # fmt: skip
    said = sliced(tree(tmp_path / "scans", *PEOPLE), tmp_path, split=split)
    assert "dataset mine: 8 volumes found, 6 used, 2 left out" in said
    assert "2 left out, its subject is in no split: patient4/T1.nii, patient4/T2.nii" in said
    for number, name in enumerate(SPLITS, 1):
        assert f"  {name}: 1 subjects, 2 volumes" in said
        assert f"patient{number}: patient{number}/T1.nii, patient{number}/T2.nii" in said
    for number, name in enumerate(SPLITS, 1):
        volumes = store.read_store(tmp_path / "slices" / f"{name}.h5")
        assert {volume.subject for volume in volumes} == {f"patient{number}"}


def test_line_4_volumes_beyond_max_volumes_are_told(tmp_path: Path) -> None:
    split = {"kind": "subjects", "train": ["patient1", "patient4"], "validation": ["patient2"],
             "test": ["patient3"]}  # fmt: skip
    root = tree(tmp_path / "scans", *PEOPLE)
    said = sliced(root, tmp_path, split=split, contrast="T1", max_volumes=1)
    assert "folder, contrast T1: 8 scans found, 4 used, 4 left out" in said
    assert "dataset mine: 4 volumes found, 3 used, 1 left out" in said
    assert "1 left out, beyond max_volumes: patient4/T1.nii" in said


def test_line_3_the_csv_names_people_and_files(tmp_path: Path) -> None:
    """A list that puts what may be one person into two splits must say who it is."""
    root = tree(tmp_path / "scans", *UNCLEAR["a name and a number"])
    table = tmp_path / "list.csv"
    table.write_text("file,split\nanna_1,train\nanna_2,test\nben_1,test\n")
    with pytest.raises(UserError, match=r"anna_1\.nii and anna_2\.nii may be of one person"):
        subject_of(root, split=str(table))
    table.write_text("file,split\nanna_1,train\nanna_2,train\nben_1,test\n")
    assert set(subject_of(root, split=str(table)).values()) == {"anna_1", "anna_2", "ben_1"}
    table.write_text("file,subject,split\nanna_1,a,train\nanna_2,b,test\nben_1,c,test\n")
    assert list(subject_of(root, split=str(table)).values()) == ["a", "b", "c"]
    bids = tree(tmp_path / "bids", *BIDS)
    table.write_text("subject,split\n01,train\nsub-02,test\n")
    refs = folder.list_volumes(tmp_path, settings(bids, split=str(table)), "T1w")
    assert {ref.path.name[:6]: ref.split for ref in refs} == {"sub-01": "train", "sub-02": "test"}


def test_line_3_a_row_for_several_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path / "scans", *LAYOUTS["patient folders"])
    table = tmp_path / "list.csv"
    table.write_text("file,split\nT1.nii.gz,train\n")
    with pytest.raises(UserError, match=r"T1.nii.gz fits patient1/T1.nii.gz and patient2/T1"):
        subject_of(root, split=str(table))
    table.write_text("subject,split\npatient1,train\npatient2,test\npatient9,test\n")
    assert len(subject_of(root, split=str(table))) == 2
    assert "1 rows fit no scan of any: patient9" in capsys.readouterr().err


def test_line_23_several_datasets_of_one_folder_and_of_two(tmp_path: Path) -> None:
    root = tree(tmp_path / "scans", *PEOPLE)
    split = {"kind": "subjects", "train": ["patient1"], "validation": ["patient2"],
             "test": ["patient3", "patient4"]}  # fmt: skip
    for contrast in ("T1", "T2"):
        sliced(root, tmp_path / contrast, contrast=contrast, split=split)
        found = store.read_store(tmp_path / contrast / "slices" / "test.h5")
        assert [volume.path for volume in found] == [f"{contrast}.nii"] * 2
    said = sliced(
        root, tmp_path / "clinic", source="clinic", contrast="T2", split=split,
        source_settings={"like": "folder", "organ": "brain"},
    )  # fmt: skip
    assert "clinic, contrast T2: 8 scans found, 4 used" in said


names = st.lists(
    st.from_regex(r"[a-z]{2,5}[0-9]{0,3}", fullmatch=True), min_size=3, max_size=8, unique=True
)


@examples(deadline=None)
@given(names, st.sampled_from(["visit", "ses-", "tp", "session"]), st.integers(1, 30))
def test_line_3_a_visit_never_makes_another_person(
    people: list[str], word: str, number: int
) -> None:
    """Property: whatever else the rules say, visits of one name are one subject or refused."""
    paths = [f"{name}/{word}{n}/T1.nii" for name in people for n in (number, number + 1)]
    flat = [f"{name}_{word}{n}_T1.nii" for name in people for n in (number, number + 1)]
    for given_paths in (paths, flat):
        try:
            found = subjects(given_paths)
        except UserError:
            continue
        for one, two in zip(given_paths[::2], given_paths[1::2], strict=True):
            assert found[one] == found[two]


@examples(deadline=None)
@given(st.lists(st.integers(0, 9999), min_size=2, max_size=9, unique=True), st.sampled_from("_- "))
def test_line_3_numbered_names_are_different_people(numbers: list[int], mark: str) -> None:
    assert list(may_be_one(f"case{mark}{number:03}" for number in numbers)) == []
    twice = [f"case{mark}{number:03}{mark}{part}" for number in numbers for part in "ab"]
    assert len(list(may_be_one(twice))) == len(numbers)


def test_what_decides_has_the_suffixes_that_are_read() -> None:
    assert set(folder.FILES["path"]) == set(SUFFIXES)
    assert SimpleNamespace(**folder.SETTINGS).subject == ""


HOWTO = (ROOT / "docs/howto/add-a-dataset.md").read_text()


@pytest.mark.parametrize("number", [0, 1])
def test_line_3_the_lists_of_the_howto_work(tmp_path: Path, number: int) -> None:
    text = re.findall(r"^```csv\n(.*?)^```", HOWTO, re.MULTILINE | re.DOTALL)[number]
    table = tmp_path / "people.csv"
    table.write_text(text)
    rows = [line.split(",") for line in text.splitlines()[1:]]
    files = [row[0] if row[0].endswith(".gz") else f"{row[0]}/T1.nii.gz" for row in rows]
    root = tree(tmp_path / "scans", *files)
    refs = folder.list_volumes(tmp_path, settings(root, split=str(table)), "any")
    assert {(ref.subject, ref.split) for ref in refs} == {tuple(row[-2:]) for row in rows}
    assert {ref.split for ref in refs} == set(SPLITS)


def test_line_3_the_layouts_of_the_howto_are_true(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (.*`) \| (.*) \|$", HOWTO, re.MULTILINE)
    checked = 0
    for layouts, told in rows:
        for number, layout in enumerate(layouts.split(", or ")):
            files = re.findall(r"`([^`]+\.nii\.gz)`", layout)
            first = files[0].rpartition("/")[0]
            files = [file.replace("...", first) for file in files]
            root = tree(tmp_path / f"{checked}{number}", *files)
            if told.startswith("refused"):
                with pytest.raises(UserError, match="may be of one person"):
                    subject_of(root)
            else:
                assert sorted(set(subject_of(root).values())) == told.split(", ")
            checked += 1
    assert checked == 7
