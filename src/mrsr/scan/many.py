"""Enhance a folder of scans, or a BIDS dataset: a bad scan is told, and the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrsr import compute
from mrsr.console import account, clock, say
from mrsr.errors import UserError, one_line
from mrsr.raw.nifti import is_nifti, is_scan, stem
from mrsr.raw.scan_formats import format_of, is_folder
from mrsr.raw.subjects import why_not
from mrsr.scan import applying
from mrsr.scan import bids as layout
from mrsr.scan import enhance as single
from mrsr.scan.choosing import choose
from mrsr.scan.input import files_below
from mrsr.scan.output import beside, own_name

MADE = "_mrsr"  # how the name of an enhanced scan ends


@dataclass(frozen=True)
class Outcome:
    """What became of a scan. result: done, kept or failed; text: the output, or why not."""

    scan: str
    result: str
    text: str


def enhance_folder(
    folder: Path,
    out: Path | None = None,
    *,
    bids: bool = False,
    series: str = "",
    overwrite: bool = False,
    **options: Any,
) -> list[Outcome]:
    """Enhance every scan below a folder; names and folders stay.

    Masks are left out by their names, and so are, of BIDS names, all but anatomical scans; it says
    which. An output that is there already is kept.

    Args:
        folder: that of the scans.
        out: the folder for the outputs; by default FOLDER_mrsr beside it or, of BIDS,
            derivatives/mrsr in it.
        bids: write BIDS derivatives.
        series: refused; DICOM folders go one by one.
        overwrite: replace outputs that exist.
        options: of `enhance`.

    Raises:
        UserError: there is no scan, the output cannot be there, or the options fit no scan.
    """
    if series:
        raise UserError(f"{folder} has NIfTI or MGH scans, and --series is for DICOM folders")
    if options.get("guide") is not None:
        raise UserError("a guide belongs to one scan; enhance the scans of the folder one by one")
    if options.get("quality") is not None:
        raise UserError("a quality map belongs to one scan; enhance those of the folder one by one")
    if not is_folder(folder):
        raise UserError(f"{folder} is no folder; --bids takes the root of a BIDS dataset")
    checked = {key: options[key] for key in applying.CHECKED if key in options}
    applying.check_options(**checked)
    device = compute.device_for(options.get("device", "auto"))
    choose(options.get("model", ""), options.get("scale", 0), device, guided=False)
    named = beside(folder, f"{own_name(folder)}{MADE}")
    target = out or (layout.default(folder) if bids else named)
    if is_scan(target) or (target.exists() and not target.is_dir()):
        raise UserError(f"output {target} must be a folder, because {folder} is one")
    if bids:
        layout.check(folder, target)
    outputs = _outputs(folder, target, layout.derived if bids else _plain)
    if bids:
        layout.describe(folder, target)
    found: list[Outcome] = []
    began = time.monotonic()
    for number, (inside, output) in enumerate(outputs.items(), 1):
        head = f"[{number}/{len(outputs)}] {inside}"
        if output.exists() and not overwrite:
            found.append(Outcome(inside, "kept", f"{output} exists; --overwrite replaces it"))
            say(f"{head}: kept, {output.name} exists")
            continue
        say(head)
        try:
            single.enhance(folder / inside, output, overwrite=overwrite, **options)
            if bids:
                layout.complete(folder, inside, output)
        except (UserError, OSError) as error:
            found.append(Outcome(inside, "failed", one_line(str(error))))
            say(f"{head}: failed: {one_line(str(error))}")
            continue
        each = (time.monotonic() - began) / number
        left = clock(each * (len(outputs) - number))
        say(f"{head}: done, {left} left")
        found.append(Outcome(inside, "done", str(output)))
    return found


def table(found: list[Outcome]) -> str:
    """One row for each scan, as text."""
    from tabulate import tabulate

    rows = [(one.scan, one.result, one.text) for one in found]
    return tabulate(rows, headers=["Scan", "Result", "Output, or why not"]) + "\n"


def check(found: list[Outcome]) -> None:
    """Raise a `UserError` if a scan failed."""
    failed = sum(one.result == "failed" for one in found)
    if failed:
        raise UserError(f"{failed} of {len(found)} scans failed; the table says why")


def _outputs(folder: Path, target: Path, name: Callable[[str], str]) -> dict[str, Path]:
    """The output of each scan, by the scan's path in the folder; says what is left out.

    Raises:
        UserError: there is none, or two have the same output.
    """
    outputs: dict[str, Path] = {}
    left_out = []
    # outputs in the folder itself are known by their names
    root, made = folder.resolve(), target.resolve()
    for path in sorted(files_below(folder)):
        inside = path.relative_to(folder).as_posix()
        if root in made.parents and (root / inside).is_relative_to(made):
            continue
        if not is_scan(path):
            if kind := format_of(path):
                left_out.append((inside, f"{kind}, which needs its own command or conversion"))
            continue
        reason = "made by mrsr" if _made(path) else _why_not(inside)
        if reason:
            left_out.append((inside, reason))
            continue
        output = target / name(inside)
        if twin := next((key for key, value in outputs.items() if value == output), ""):
            raise UserError(f"{folder}: {twin} and {inside} would both become {output.name}; "
                            "move one away")  # fmt: skip
        outputs[inside] = output
    account(own_name(folder), "files", len(outputs), left_out)
    if not outputs:
        raise UserError(f"{folder} has no scan to enhance; the lines above say what was left out")
    return outputs


def _why_not(inside: str) -> str:
    try:
        return why_not(inside, "any").replace("; name its contrast to use it", ", not anatomical")
    except UserError as error:  # folder and file name different subjects
        return one_line(str(error))


def _made(path: Path) -> bool:
    return is_nifti(path) and (stem(path).endswith(MADE) or "_desc-mrsr_" in path.name)


def _plain(inside: str) -> str:
    path = Path(inside)
    return str(path.with_name(f"{stem(path)}{MADE}.nii.gz"))
