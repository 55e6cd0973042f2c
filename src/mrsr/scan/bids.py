"""Names and descriptions of BIDS derivatives: what `mrsr enhance --bids` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrsr import __version__
from mrsr.errors import UserError
from mrsr.files import write_json
from mrsr.raw.nifti import stem
from mrsr.raw.subjects import bids
from mrsr.scan import sidecar
from mrsr.scan.output import own_name
from mrsr.scan.tags import json_object, tags_beside

DESCRIPTION = "dataset_description.json"
LABEL = "mrsr"


def default(dataset: Path) -> Path:
    """The folder of the derivatives in a dataset."""
    return dataset / "derivatives" / LABEL


def derived(inside: str) -> str:
    """sub-01/anat/sub-01_T1w.nii.gz -> sub-01/anat/sub-01_desc-mrsr_T1w.nii.gz.

    Raises:
        UserError: it is no BIDS name.
    """
    path = Path(inside)
    *entities, suffix = stem(path).split("_")
    if bids(inside) is None or not entities:
        raise UserError(f"{inside} has no BIDS name (sub-..._T1w); rename it, or leave --bids out")
    kept = [entity for entity in entities if not entity.startswith("desc-")]
    return str(path.with_name("_".join([*kept, f"desc-{LABEL}", suffix]) + ".nii.gz"))


def check(dataset: Path, target: Path) -> None:
    """Check that a dataset is one, and that the folder of its derivatives is free or mrsr's.

    Raises:
        UserError: the dataset has no description, or the target has that of another program.
    """
    if json_object(dataset / DESCRIPTION) is None:
        raise UserError(
            f"{dataset} has no {DESCRIPTION} that can be read; give the root of a BIDS dataset, or "
            "leave --bids out"
        )
    there = target / DESCRIPTION
    made = (json_object(there) or {}).get("GeneratedBy")
    entries = made if isinstance(made, list) else []
    names = [one.get("Name") for one in entries if isinstance(one, dict)]
    if there.exists() and LABEL not in names:
        raise UserError(f"{there} is not of mrsr; give another folder for the derivatives")


def describe(dataset: Path, target: Path) -> None:
    """Write the derivatives' `dataset_description.json`; one that is there is kept."""
    there = target / DESCRIPTION
    if there.exists():
        return
    source = json_object(dataset / DESCRIPTION) or {}
    content: dict[str, Any] = {
        "Name": f"{source.get('Name') or own_name(dataset)}, super-resolved by mrsr",
        "BIDSVersion": str(source.get("BIDSVersion") or "1.10.0"),
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": LABEL, "Version": __version__, "Description": sidecar.NOTE}],
    }
    if "License" in source:
        content["License"] = source["License"]
    write_json(there, content)


def complete(dataset: Path, inside: str, output: Path) -> None:
    """Add to an output's JSON what BIDS asks for: its source, and the source's own tags."""
    path = sidecar.path_of(output)
    made = json.loads(path.read_text(encoding="utf-8"))
    tags = tags_beside(dataset / inside)
    write_json(path, {**tags, **made, "Sources": [f"bids::{inside}"]})
