"""The command line: tools for your own scans, and every step of an experiment by hand.

Heavy packages are imported inside the commands, so that `mrsr --help` answers at once. Panels and
examples of the help are in commands/.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mrsr import __version__
from mrsr.commands import options as shared
from mrsr.commands.help import Panels
from mrsr.commands.options import (
    PARAMS,
    Device,
    Ensemble,
    ExperimentName,
    Model,
    Nan,
    Overwrite,
    ParamsFile,
    Results,
    Scale,
    SliceAxis,
    VolumeNumber,
)
from mrsr.commands.results import commands as of_results
from mrsr.commands.scans import commands as of_scans
from mrsr.commands.workflow import commands
from mrsr.errors import BAD_INPUT, UserError, end_tidily, guarded, one_line

app = typer.Typer(
    name="mrsr",
    cls=Panels,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ALL_CORES = ("enhance",)  # commands that a person waits for
app.add_typer(of_results)
app.add_typer(of_scans)
app.add_typer(commands)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mrsr {__version__}")
        raise typer.Exit


@app.callback()
def top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Super-resolution of MR images: reproduce the paper, check it, enhance your own scans."""
    gc.enable()
    if context.invoked_subcommand not in ALL_CORES:
        # one thread by default: jobs that run side by side must not compete for cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@app.command()
def params(
    experiment: ExperimentName = None,
    file: ParamsFile = PARAMS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not YAML.")] = False,
) -> None:
    """Print every parameter of an experiment, with its overrides applied."""
    import yaml

    from mrsr.params import loading

    resolved = loading.load(file, experiment).in_force()
    if as_json:
        print(json.dumps(resolved, indent=2))
    else:
        print(yaml.safe_dump(resolved, sort_keys=False, width=100), end="")


@app.command()
def experiments(
    own: Annotated[list[Path] | None, typer.Argument(help="Experiment files of your own.")] = None,
    file: ParamsFile = PARAMS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """List the experiments: what each runs, the data it needs, how long it took and on what."""
    from mrsr.commands import experiments as listing

    found, problems = listing.entries(file, own or [])
    if as_json:
        print(json.dumps(found, indent=2))
    elif found:
        listing.show(found)
    for problem in problems:
        print(f"mrsr: error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(BAD_INPUT)


@app.command()
def methods(
    experiment: ExperimentName = None,
    scale: Annotated[int, typer.Option(help="Scale: 2, 3, 4 or 8.")] = 2,
    every: Annotated[bool, typer.Option("--all", help="Include ablations and controls.")] = False,
    file: ParamsFile = PARAMS,
) -> None:
    """List the methods: parameters, multiply-adds for a 240x240 image, scales, requirements."""
    from mrsr.params import loading
    from mrsr.tables import network_sizes as listing

    given = loading.load(file, experiment)
    found = given.methods if experiment else given.full_methods
    chosen = [m for m in found.values() if every or m.kind not in ("ablation", "control")]
    print(listing.text(listing.entries(chosen, scale)), end="")


@app.command()
def sync(
    experiment: ExperimentName = None,
    results: Results = Path("results"),
) -> None:
    """Send to MLflow the records that it missed while it was down."""
    from mrsr.tracking import delivery

    folder = results / experiment if experiment else results
    delivered, failed = delivery.sync(folder)
    print(f"{delivered} delivered, {failed} failed")
    if failed:
        raise UserError(
            "MLflow did not accept every record; the warnings say why; then run this again"
        )


def _list_models(wanted: bool) -> None:
    if wanted:
        from mrsr.scan import catalogue

        print(catalogue.text(), end="")
        raise typer.Exit


@app.command()
def enhance(
    scan: Annotated[
        Path, typer.Argument(help="NIfTI or MGH file, DICOM folder, or folder of scans.")
    ],
    out: Annotated[
        Path | None, typer.Argument(help="Enhanced scan: .nii or .nii.gz; by default SCAN_mrsr.")
    ] = None,
    model: Model = "",
    scale: Scale = 0,
    device: Device = "auto",
    batch: Annotated[int, typer.Option(min=0, help="Slices at a time; 0: as is fast.")] = 0,
    overwrite: Overwrite = False,
    guide: Annotated[
        Path | None, typer.Option("--guide", help="Second contrast, for guided networks.")
    ] = None,
    ensemble: Ensemble = 1,
    axis: SliceAxis = None,
    tile: Annotated[
        int, typer.Option(min=0, help="Side of tiles (pixels), for large slices; 0: as needed.")
    ] = 0,
    volume: VolumeNumber = None,
    nan: Nan = "refuse",
    dtype: Annotated[
        str, typer.Option(help="float32, or same: the input's type, rounded and clipped.")
    ] = "float32",
    contrast: Annotated[
        str, typer.Option(help="Contrast of the scan, such as T1; else guessed, and said.")
    ] = "",
    series: Annotated[
        str, typer.Option(help="Series of a DICOM folder: its number or name.")
    ] = "",
    bids: Annotated[
        bool, typer.Option("--bids", help="Of a BIDS dataset: write BIDS derivatives.")
    ] = False,
    list_models: Annotated[
        bool,
        typer.Option("--list-models", callback=_list_models, is_eager=True,
                     help="List the networks of the package, and what they learned."),
    ] = False,
    through_plane: shared.ThroughPlane = None,
    slice_thickness: shared.SliceThickness = None,
    consistency: shared.Consistency = False,
    quality: shared.Quality = None,
) -> None:  # fmt: skip
    """Enhance scans with a trained network, on all cores (OMP_NUM_THREADS: on fewer)."""
    from mrsr.scan import many
    from mrsr.scan.enhance import enhance as run
    from mrsr.scan.input import holds_scans
    from mrsr.scan.output import default_output

    end_tidily()
    options: dict[str, Any] = {
        "model": model,
        "scale": scale,
        "device": device,
        "batch": batch,
        "overwrite": overwrite,
        "guide": guide,
        "ensemble": ensemble,
        "axis": axis,
        "tile": tile,
        "volume": volume,
        "nan": nan,
        "dtype": dtype,
        "contrast": contrast,
        "through_plane": through_plane,
        "slice_thickness": slice_thickness,
        "consistency": consistency,
        "quality": quality,
    }
    if bids or holds_scans(scan):
        found = many.enhance_folder(scan, out, bids=bids, series=series, **options)
        print(many.table(found), end="")
        many.check(found)
        return
    out = out or default_output(scan)
    run(scan, out, series=series, **options)
    print(out)


@app.command()
def degrade(
    scan: Annotated[Path, typer.Argument(help="NIfTI or MGH file, or DICOM folder.")],
    out: Annotated[Path, typer.Argument(help="Degraded volume: .nii or .nii.gz.")],
    scale: Annotated[int, typer.Option(help="Scale: 2, 3, 4 or 8.")] = 2,
    kind: Annotated[str, typer.Option(help="Degradation: bicubic or kspace.")] = "bicubic",
    overwrite: Overwrite = False,
    axis: SliceAxis = None,
    volume: VolumeNumber = None,
    nan: Nan = "refuse",
) -> None:
    """Lower the in-plane resolution of a scan, to test a network against a known reference."""
    from mrsr.scan.degrade import degrade as run

    end_tidily()
    run(scan, out, scale=scale, kind=kind, overwrite=overwrite, axis=axis, volume=volume, nan=nan)
    print(out)


@app.command()
def score(
    prediction: Annotated[Path, typer.Argument(help="Volume to score, from any tool.")],
    reference: Annotated[Path, typer.Argument(help="Reference of the same shape.")],
    preset: Annotated[str, typer.Option(help="Metric preset in params.yaml.")] = "slice",
    axis: SliceAxis = None,
    volume: VolumeNumber = None,
    file: ParamsFile = PARAMS,
) -> None:
    """Score a volume against a reference: PSNR, SSIM and NMSE."""
    from mrsr.params import jobs, loading
    from mrsr.params.schema import PRESETS
    from mrsr.scan.score import score as run

    own: dict[str, Any] = {}
    if file.is_file() or file != PARAMS:
        try:
            own = loading.load(file).params.metrics.presets
        except UserError as error:  # the folder may be of another project, with its own params.yaml
            if file != PARAMS or preset not in PRESETS:
                raise
            why = one_line(str(error))
            print(f"mrsr: built-in preset '{preset}'; not mrsr's settings: {why}", file=sys.stderr)
    print(json.dumps(run(prediction, reference, jobs.preset(preset, own), axis, volume), indent=2))


@app.command()
def adopt(experiment: ExperimentName = None) -> None:
    """After `dvc pull`: let Snakemake use the pulled results if they match dvc.lock."""
    from mrsr.ops.adopting import adopt as run

    print(f"{run(experiment)}: results accepted; nothing will be trained again")


@app.command()
def track() -> None:
    """Write dvc.yaml for the experiments under `tracked:` in params.yaml."""
    from mrsr.ops import tracked

    stages = tracked.write()
    print(f"{tracked.FILE}: {len(stages)} stages: {', '.join(stages)}")


@app.command()
def plan(
    target: Annotated[str, typer.Argument(help="Snakemake target or file.")] = "all",
    experiment: ExperimentName = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or a GPU such as V100.")] = "auto",
    cores: Annotated[int, typer.Option(min=1, help="Cores, as for snakemake --cores.")] = 2,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of this machine.")] = 1,
    jobs: Annotated[int, typer.Option(min=0, help="Cluster jobs at a time; 0: no cluster.")] = 0,
    measure: Annotated[bool, typer.Option("--measure", help="First time each network.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ignore existing results.")] = False,
    file: ParamsFile = PARAMS,
) -> None:
    """Estimate jobs, hours, disk space and wall time of a target."""
    from mrsr.ops.plan import estimate
    from mrsr.ops.plan.jobs import Place

    place = Place(device, cores, gpus, jobs)
    print(estimate.plan(target, experiment, place, fresh, measure, file), end="")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def resume(
    context: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Take over a dead run of another machine.")
    ] = False,
) -> None:
    """Continue after Snakemake was killed: cancel leftover jobs, unlock, run again.

    Arguments after `--` go to Snakemake; without them, those of the last run are used.
    """
    from mrsr.ops import cluster

    cluster.resume(context.args, force)


@guarded
def main() -> None:
    """Entry point: a user's mistake ends as one line on stderr and exit code 2 or more."""
    # building commands and help makes no garbage to speak of; looking for it takes a sixth of the
    # time of `mrsr --help`. `top` turns it on again before a command runs
    gc.disable()
    try:
        app(shared.alone(sys.argv[1:]), standalone_mode=True)
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())
