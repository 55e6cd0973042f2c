"""What was run: data and split, trainings with their time, device and versions, evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mrsr.errors import UserError
from mrsr.files import read_log
from mrsr.params.jobs import Report
from mrsr.params.schema import SPLITS
from mrsr.slices import store

NAMED = 12  # so many subjects of a split are named, more are counted


def data(settings: Report, results: Path) -> list[dict[str, Any]]:
    """A row per dataset: source, contrast, and subjects, volumes and slices of each split.

    A store that is not there (slices may be deleted after a run) has None for its splits.
    """
    rows = []
    for dataset, source in settings.sources.items():
        row: dict[str, Any] = {"dataset": dataset, "source": source, "splits": {}}
        for split in SPLITS:
            path = results / "slices" / dataset / f"{split}.h5"
            row["splits"][split] = _split(path) if path.is_file() else None
            if path.is_file() and "contrast" not in row:
                about = store.attributes(path)
                row |= {key: about.get(key, "") for key in ("organ", "contrast", "digest")}
        rows.append(row)
    return rows


def _split(path: Path) -> dict[str, Any]:
    volumes = store.read_store(path)
    subjects = sorted({volume.subject for volume in volumes})
    return {
        "subjects": len(subjects),
        "named": ", ".join(subjects) if len(subjects) <= NAMED else "",
        "volumes": len(volumes),
        "slices": sum(volume.shape[0] for volume in volumes),
    }


def trainings(settings: Report, results: Path) -> list[dict[str, Any]]:
    """A row per training, from its log: steps, time, device, versions, digest, settings as JSON.

    Raises:
        UserError: a log is missing or damaged.
    """
    rows = []
    for name in settings.trainings:
        lines = read_log(results / "checkpoints" / name / "log.jsonl")
        start: Mapping[str, Any] = next((x for x in lines if x.get("event") == "start"), {})
        # a training that was interrupted has several ends; the last one counts
        end: Mapping[str, Any] = next((x for x in reversed(lines) if x.get("event") == "end"), {})
        given, origin = start.get("settings", {}), start.get("provenance", {})
        rows.append(
            {"name": name, "steps": given.get("steps"), "batch": given.get("batch")}
            | {"best_step": end.get("best_step"), "seconds": end.get("seconds")}
            | {key: origin.get(key) for key in ("device", "threads", "processes", "precision")}
            | {key: origin.get(key) for key in ("commit", "torch", "python")}
            | {"digest": start.get("digest", ""), "settings": json.dumps(given, indent=1)}
        )
    return rows


def duration(seconds: float | None) -> str:
    """'2 h 5 min', '12 min', '40 s'; 'not known' for None."""
    if seconds is None:
        return "not known"
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def hardware(rows: Iterable[Mapping[str, Any]]) -> str:
    """The devices that trainings recorded: 'cpu (1 thread)'."""
    found: dict[str, None] = {}
    for row in rows:
        if row["device"]:
            count = row["threads"]
            text = f"{count} thread{'s' if count != 1 else ''}" if row["device"] == "cpu" else ""
            more = row["processes"] or 1
            parts = [*([text] if text else []), *([f"{more} processes"] if more > 1 else [])]
            found[row["device"] + (f" ({', '.join(parts)})" if parts else "")] = None
    return ", ".join(found) or "not recorded"


def citation(file: Path) -> dict[str, str] | None:
    """Title, version, authors and message of CITATION.cff; None where it is not there.

    Raises:
        UserError: it is there and cannot be read.
    """
    import yaml

    if not file.is_file():
        return None
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        authors = [
            one.get("name") or f"{one.get('given-names', '')} {one['family-names']}".strip()
            for one in found["authors"]
        ]
        return {
            "title": str(found["title"]),
            "version": str(found.get("version", "")),
            "authors": ", ".join(authors),
            "message": str(found.get("message", "")),
        }
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{file} is not a CITATION.cff ({error}); mend it") from None
