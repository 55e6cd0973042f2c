"""The model card of the package's networks, written from the files of results."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from mrsr import datasets
from mrsr.checkpoint import Checkpoint
from mrsr.files import read_log, sha256
from mrsr.params.experiment import Cell, Resolved
from mrsr.tables.formats import pipes

HEAD = """# The networks of the package

`mrsr enhance scan.nii.gz finer.nii.gz` uses them: `--scale` chooses one, 2 without it.

**For research only. What they add is an estimate: it is not for diagnosis.**

This page is made by `mrsr pack` from the files of results; `make weights` trains the networks anew
and writes it again.

"""
LIMITS = """## Limits

- They work on single slices, in the plane; nothing is gained between slices.
- They learned heads of few people with multiple sclerosis, from one publisher, in three contrasts.
  On other anatomy, scanners and contrasts the figures above do not hold: degrade a scan of that
  kind, enhance it and score it before you rely on them (docs/howto/enhance-your-scan.md).
- They learned to undo {degradation}. Do not use them where a figure above is
  below that of bicubic or of the pseudo-inverse. A scan that the scanner has interpolated or
  filtered is another degradation too.
- They learned from LR images with {noise}; more noise may be sharpened with the image.
- They may invent or remove small structures. Never use an enhanced image for a diagnosis, to count
  lesions, or as ground truth.
"""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A network of the package. rounding: dB; others: scores by scan and method."""

    path: Path
    cell: Cell
    saved: Checkpoint
    log: Path
    rounding: float
    others: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def text(resolved: Resolved, packed: Sequence[Packed], root: Path) -> str:
    """The card in Markdown. root: the experiment's folder of results."""
    given = packed[0].saved.settings
    degradation = {
        "bicubic": "bicubic reduction alone",
        "kspace": "truncation of k-space alone",
        "mixed": "bicubic reduction and truncation of k-space",
    }[given["degradation"]]
    noise = given.get("noise", 0)
    added = (
        f"added noise of at most {noise:g} of the intensity scale" if noise else "no added noise"
    )
    parts = [
        HEAD + _files(packed),
        _data(resolved, packed[0].cell.dataset),
        _training(packed),
        _measured(resolved, packed, root),
        _others(packed),
        LIMITS.format(degradation=degradation, noise=added),
    ]
    return "\n".join(part for part in parts if part)


def _files(packed: Sequence[Packed]) -> str:
    rows = [
        {
            "File": each.path.name,
            "Scale": f"{each.cell.scale}x",
            "Parameters": f"{sum(w.numel() for w in each.saved.weights.values()):,}",
            "Bytes": f"{each.path.stat().st_size:,}",
            "SHA-256": f"`{sha256(each.path)}`",
        }
        for each in packed
    ]
    return pipes(pandas.DataFrame(rows), "llrrl")


def _data(resolved: Resolved, home: str) -> str:
    entry = resolved.params.data.datasets[home]
    split: Any = entry.split
    source = datasets.source(entry.source)
    attribution = getattr(source, "ATTRIBUTION", f"Source: {entry.source}")
    lines = [
        "## Data",
        "",
        textwrap.fill(f"{entry.label}. {attribution}.", 100),
        "",
    ]
    if split.kind == "subjects":
        tested = {
            name: getattr(resolved.params.data.datasets[name].split, "test", ())
            for name in resolved.measured
        }
        lines += [f"- trained on: {', '.join(split.train)}"]
        lines += [f"- best step chosen on: {', '.join(split.validation)}"]
        lines += [
            f"- measured on: {', '.join(names)} ({resolved.params.data.datasets[name].label})"
            for name, names in tested.items()
        ]
    return "\n".join(lines) + "\n"


def _training(packed: Sequence[Packed]) -> str:
    rows = []
    for each in packed:
        given, made = each.saved.settings, each.saved.provenance
        optimizer = given["optimizer"]
        rates = {"lr": optimizer["lr"]}
        if optimizer["name"] == "muon":
            rates |= {"muon_lr": optimizer["muon_lr"]}
        steps = [line for line in read_log(each.log) if "cpu" in line]
        options = ", ".join(f"{key} {value}" for key, value in each.saved.options.items())
        rows.append(
            {
                "Scale": f"{each.cell.scale}x",
                "Network": f"{each.saved.model_name} ({options})",
                "Losses": ", ".join(f"{name} {value:g}" for name, value in given["losses"].items()),
                "Steps": f"{given['steps']:,}",
                "A step": f"{given['batch']} patches of {given['patch']} pixels",
                "Optimizer": f"{optimizer['name']}, "
                + ", ".join(f"{name} {value:g}" for name, value in rates.items()),
                "Computed in": str(made.get("precision", "fp32")),
                "Processor hours": f"{steps[-1]['cpu'] / 3600:.2f} ({made.get('device')})",
                "Commit": f"`{str(made.get('commit', ''))[:12]}`",
                "float16": f"changes PSNR by at most {each.rounding:.4f} dB",
            }
        )
    frame = pandas.DataFrame(rows).set_index("Scale").T.reset_index(names="")
    return "## Training\n\n" + pipes(frame, "l" * len(frame.columns))


def _measured(resolved: Resolved, packed: Sequence[Packed], root: Path) -> str:
    """All methods of the experiment on its test subjects, with the gain over bicubic."""
    scales = {each.cell.scale for each in packed}
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((root / "metrics").rglob("*.json"))
    ]
    by_cell = {(r["dataset"], r["scale"], r["method"]): r for r in records}
    rows = []
    for cell in resolved.cells:
        found = by_cell.get((cell.dataset, cell.scale, cell.method))
        base = by_cell.get((cell.dataset, cell.scale, "bicubic"))
        if found is None or cell.scale not in scales:
            continue
        rows.append(
            {
                "Test scans": resolved.params.data.datasets[cell.dataset].label,
                "Scale": f"{cell.scale}x",
                "Method": found["label"],
                "PSNR (dB)": _mean(found["psnr"]),
                "SSIM": f"{found['ssim']['mean']:.4f}",
                "Gain over bicubic (dB)": _gain(found, base),
            }
        )
    if not rows:
        return ""
    about = (
        "All slices of the test scans, degraded and enhanced: means over subjects, in brackets the "
        "gain of each subject. The interval of a mean PSNR, over subjects: "
    )
    intervals = sorted({record["interval"] for record in by_cell.values()})
    about = textwrap.fill(f"{about}{', '.join(intervals)}.", 100) + "\n\n"
    return "## Measured\n\n" + about + pipes(pandas.DataFrame(rows), "lllrrl")


def _mean(psnr: dict[str, Any]) -> str:
    if psnr["low"] is None:
        return f"{psnr['mean']:.2f}"
    return f"{psnr['mean']:.2f} [{psnr['low']:.2f}, {psnr['high']:.2f}]"


def _gain(found: dict[str, Any], base: dict[str, Any] | None) -> str:
    if base is None or found is base:
        return ""
    mean = found["psnr"]["mean"] - base["psnr"]["mean"]
    before = base["per_subject"]
    each = [
        f"{subject} {values['psnr'] - before[subject]['psnr']:+.2f}"
        for subject, values in found["per_subject"].items()
    ]
    return f"{mean:+.2f} ({', '.join(each)})"


def _others(packed: Sequence[Packed]) -> str:
    names = {"bicubic": "Bicubic", "pseudo_inverse": "Pseudo-inverse", "network": "Network"}
    rows = [
        {
            "Scan": scan,
            "Scale": f"{each.cell.scale}x",
            "Method": names[method],
            "PSNR (dB)": f"{values['psnr']:.2f}",
            "SSIM": f"{values['ssim']:.4f}",
        }
        for each in packed
        for scan, methods in each.others.items()
        for method, values in methods.items()
    ]
    if not rows:
        return ""
    about = "Degraded by `mrsr degrade`, enhanced, and scored against the scan itself.\n\n"
    return "## On other scans\n\n" + about + pipes(pandas.DataFrame(rows), "lllrr")
