"""Options that several commands share, each with its help."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file.")]
ExperimentName = Annotated[
    str | None, typer.Option("--experiment", "-e", help="Name of the experiment.")
]
SettingsText = Annotated[str, typer.Option("--settings", help="Settings: JSON, or @FILE.")]
SourceSettings = Annotated[str, typer.Option(help="Settings of the source: JSON, or @FILE.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]
SliceAxis = Annotated[
    int | None,
    typer.Option(
        "--axis",
        min=0,
        max=2,
        help="Axis of the file that slices are stacked along; else length 1, or thickest voxels.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that share the work.")]
Results = Annotated[Path, typer.Option(help="Folder of the results.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="best.pt, bicubic or pseudo_inverse; without it, the package's network.",
    ),
]
Scale = Annotated[int, typer.Option(help="Scale; 2 without one. A checkpoint has its own.")]
Ensemble = Annotated[
    int, typer.Option(help="8: average over flips and turns, in 8 times the time.")
]
VolumeNumber = Annotated[
    int | None, typer.Option("--volume", min=0, help="Volume of a 4D scan, from 0; else all.")
]
Nan = Annotated[
    str, typer.Option("--nan", help="zero: read NaN as 0; else such scans are refused.")
]
ThroughPlane = Annotated[
    float | None,
    typer.Option(
        "--through-plane",
        min=0,
        metavar="[MM]",
        help="Thin thick slices to so many mm, by what the scan teaches; alone: as the plane's.",
    ),
]
SliceThickness = Annotated[
    float | None,
    typer.Option(help="Thickness of the slices (mm), for --through-plane; else estimated."),
]
Consistency = Annotated[
    bool, typer.Option("--consistency", help="Degraded again, the output gives the input back.")
]
Quality = Annotated[
    Path | None,
    typer.Option("--quality", help="Write where eight estimates disagree: a NIfTI file."),
]
PARAMS = Path("params.yaml")


def alone(arguments: list[str]) -> list[str]:
    """Give `--through-plane` its 0 where no number follows it."""
    found = []
    for here, after in pairwise([*arguments, ""]):
        found.append(here)
        if here == "--through-plane" and not after.replace(".", "", 1).isdigit():
            found.append("0")
    return found
