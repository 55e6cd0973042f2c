"""The model card of an exported network, in Markdown, from what its checkpoint says of itself."""

from __future__ import annotations

from typing import Any

import pandas

from mrsr import __version__
from mrsr.scan import boxed
from mrsr.scan.export.choosing import Source
from mrsr.tables.formats import pipes

HEAD = """# {title}

**For research only. What it adds to a scan is an estimate: it is not for diagnosis.**

{use}
"""
LIMITS = """## Limits

- It works on single slices, in the plane; nothing is gained between slices.
- It knows what it was trained on: {data}, to undo {degradation}, with {noise}. On other contrasts,
  organs, scanners and voxel sizes it may invent detail. Degrade a scan of that kind, enhance it and
  score it before you rely on it: `mrsr degrade`, `mrsr enhance`, `mrsr score`.
- A scan that the scanner has interpolated or filtered is another degradation too.
- It may invent or remove small structures. Never use its output for a diagnosis, to count lesions,
  or as ground truth.
- Slices need 8 pixels a side or more. A scan goes in as real intensities without NaN; the
  {percentile:g} % percentile of the whole scan, which must be above zero, becomes 1.
{undersampled}"""
DEGRADATIONS = {
    "bicubic": "bicubic reduction",
    "kspace": "truncation of k-space",
    "mixed": "bicubic reduction and truncation of k-space",
}


def text(source: Source, apart: float, use: str) -> str:
    """The card. apart: largest difference from torch; use: how it is run, in Markdown."""
    parts = [HEAD.format(title=source.title, use=use.strip()), _about(source), _checked(apart)]
    if source.boxed:  # its figures, and where not to use it, as the package has them
        known = (boxed.FOLDER / boxed.CARD).read_text(encoding="utf-8")
        parts.append("The rest is the card of mrsr's own networks; this is the one for "
                     f"{source.scale}x.\n")  # fmt: skip
        parts.append("## Data" + known.partition("\n## Data")[2])
    else:
        parts.append(
            "## Measured\n\nA checkpoint has no figures on test scans; the experiment that trained "
            "it has them, in its tables.\n"
        )
        parts.append(_limits(source))
    return "\n".join(parts)


def _about(source: Source) -> str:
    saved, given = source.saved, source.saved.settings
    made = saved.provenance
    options = ", ".join(f"{key} {value}" for key, value in saved.options.items())
    losses: dict[str, float] = given.get("losses") or {}
    facts = {
        "Network": f"{saved.model_name} ({options})" if options else saved.model_name,
        "Scale": f"{saved.scale}x in the plane",
        "Parameters": f"{sum(w.numel() for w in saved.weights.values()):,}",
        "Trained on": _data(given),
        "Degradation": DEGRADATIONS.get(str(given.get("degradation")), "not recorded"),
        "Losses": ", ".join(f"{name} {value:g}" for name, value in losses.items()),
        "Steps": f"{given['steps']:,}" if "steps" in given else "",
        "Validation PSNR": _validation(made),
        "Commit": f"`{str(made['commit'])[:12]}`" if made.get("commit") else "",
        "SHA-256 of the checkpoint": f"`{source.digest}`",
        "Exported by": f"mrsr {__version__}",
    }
    rows = [{"": name, "Value": value} for name, value in facts.items() if value]
    return "## Network\n\n" + pipes(pandas.DataFrame(rows), "ll")


def _data(given: dict[str, Any]) -> str:
    named = str(given.get("dataset") or "")
    of = f" (experiment {given['experiment']})" if given.get("experiment") else ""
    return f"{named}{of}" if named else "not recorded"


def _validation(made: dict[str, Any]) -> str:
    found = ((made.get("metrics") or {}).get("validation") or {}).get("psnr")
    return f"{found:.2f} dB" if isinstance(found, int | float) else ""


def _checked(apart: float) -> str:
    return (
        "## Checked\n\nWhen it was exported, onnxruntime and torch gave the same images of two "
        f"sizes to {apart:.1g} of normalised intensities.\n"
    )


def _limits(source: Source) -> str:
    given = source.saved.settings
    noise, times = given.get("noise", 0), given.get("acceleration", 1)
    return LIMITS.format(
        data=_data(given),
        degradation=DEGRADATIONS.get(str(given.get("degradation")), "a degradation not recorded"),
        noise=f"noise of at most {noise:g} of the intensity scale" if noise else "no added noise",
        percentile=source.percentile,
        undersampled=f"- It expects scans undersampled {times}x in k-space.\n" if times > 1 else "",
    )
