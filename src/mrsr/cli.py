"""`mrsr ...`: every step by hand, and the tools for one's own scans.

Heavy packages are imported inside the commands, so that `mrsr --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mrsr.errors import UserError, guarded
from mrsr.settings import parse

app = typer.Typer(
    name="mrsr",
    help="Super-resolution of MR images: reproduce, trust, use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters' file.")]
ExperimentName = Annotated[
    str | None, typer.Option("--experiment", "-e", help="A block under experiments:.")
]
SettingsText = Annotated[str, typer.Option("--settings", help="A JSON object, or @file.")]
PARAMS = Path("params.yaml")
SCHEMA = Path("docs/params.schema.json")


@app.command()
def params(
    experiment: ExperimentName = None,
    file: ParamsFile = PARAMS,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
) -> None:
    """Print what is in force for an experiment, resolved."""
    import yaml

    from mrsr import config

    resolved = config.load(file, experiment).resolved()
    if as_json:
        print(json.dumps(resolved, indent=2))
    else:
        print(yaml.safe_dump(resolved, sort_keys=False, width=100), end="")


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="Where to.")] = SCHEMA,
) -> None:
    """Write the JSON schema of params.yaml, for editors."""
    from mrsr import config
    from mrsr.files import write_json

    write_json(out, config.schema())
    print(out)


@app.command()
def methods(
    experiment: ExperimentName = None,
    scale: Annotated[int, typer.Option(help="2, 3, 4 or 8.")] = 2,
    every: Annotated[bool, typer.Option("--all", help="Ablations and controls too.")] = False,
    file: ParamsFile = PARAMS,
) -> None:
    """List the methods: parameters, multiply-adds for a 240x240 output, scales, needs."""
    from mrsr import config
    from mrsr import methods as listing

    given = config.load(file, experiment)
    rows = given.rows if experiment else given.full_rows
    chosen = [r for r in rows.values() if every or r.kind not in ("ablation", "control")]
    print(listing.text(listing.entries(chosen, scale)), end="")


@app.command()
def raw(
    source: str,
    settings: SettingsText = "",
    out: Annotated[Path | None, typer.Option(help="data/raw/SOURCE/manifest.csv")] = None,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    file: ParamsFile = PARAMS,
) -> None:
    """Download or make a source's volumes, verify and list them."""
    from mrsr.raw import prepare

    given = parse(settings or json.dumps(_source_settings(file, source)))
    given.workers = workers
    manifest = out or Path("data/raw") / source / "manifest.csv"
    count = prepare(source, given, manifest)
    print(f"{manifest}: {count} files")


def _source_settings(file: Path, source: str) -> dict[str, Any]:
    from mrsr import config

    return config.load(file).source_settings(source)


@app.command()
def slices(
    manifest: Path,
    settings: SettingsText,
    out: Annotated[Path, typer.Option(help="Folder of the three stores.")],
    source_settings: Annotated[str, typer.Option(help="The source's settings.")] = "{}",
    workers: Annotated[int, typer.Option(min=1)] = 2,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Note bad volumes, go on.")] = False,
) -> None:
    """Cut volumes into one slice store per split, disjoint by subject."""
    from mrsr.slicing import slice_dataset

    given = parse(settings)
    given.skip_bad = given.skip_bad or skip_bad
    if not manifest.is_file():
        raise UserError(f"{manifest} does not exist; make it with `mrsr raw {given.source}`")
    report = slice_dataset(manifest.parent, given, out, parse(source_settings), workers=workers)
    print(json.dumps(report, indent=2))


@app.command()
def guides(
    manifest: Path,
    settings: SettingsText,
    slices: Annotated[Path, typer.Option(help="Folder of the stores that are guided.")],
    out: Annotated[Path, typer.Option(help="Folder of the guides' stores.")],
    source_settings: Annotated[str, typer.Option(help="The source's settings.")] = "{}",
) -> None:
    """Put the second contrast of the same scans on the grid of slice stores."""
    from mrsr.guides import make

    report = make(manifest.parent, parse(settings), parse(source_settings), slices, out)
    print(json.dumps(report, indent=2))


@app.command("tracking-init")
def tracking_init(settings: SettingsText, out: Annotated[Path, typer.Option()]) -> None:
    """Initialise the MLflow store, once, before any job logs."""
    from mrsr import tracking
    from mrsr.files import write_text

    if parse(settings).enabled:
        tracking.init_store()
    write_text(out, "ready\n")


@app.command()
def sync(
    experiment: ExperimentName = None,
    results: Annotated[Path, typer.Option(help="The results' folder.")] = Path("results"),
) -> None:
    """Deliver to MLflow what a tracker that was down did not get."""
    from mrsr import tracking

    folder = results / experiment if experiment else results
    delivered, failed = tracking.sync(folder)
    print(f"{delivered} delivered, {failed} failed")
    if failed:
        raise UserError("some records could not be delivered; start the tracker and run again")


@app.command()
def tables(
    metrics: Annotated[list[Path] | None, typer.Argument(help="Metrics JSONs.")] = None,
    settings: SettingsText = "",
    experiment: ExperimentName = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables.")] = None,
    from_mlflow: Annotated[
        bool, typer.Option("--from-mlflow", help="Take the metrics from the tracking store.")
    ] = False,
    summary: Annotated[Path | None, typer.Option(help="A JSON of the means, for DVC.")] = None,
    show: Annotated[bool, typer.Option("--print", help="Only print what lies there.")] = False,
    file: ParamsFile = PARAMS,
) -> None:
    """Make the tables from metrics files or from the tracking store, or print them."""
    from mrsr import config
    from mrsr import tables as making

    if settings:
        given = parse(settings)
    else:
        given = parse(json.dumps(config.load(file, experiment).table_settings()))
    folder = out or Path("results") / given.experiment / "tables"
    if show:
        making.print_table(folder)
        return
    if from_mlflow:
        from mrsr import tracking

        records = tracking.from_mlflow(given.experiment)
    else:
        files = metrics or sorted(Path("results", given.experiment, "metrics").rglob("*.json"))
        records = making.read_metrics(files)
    making.write_tables(records, given, folder, summary)
    making.print_table(folder)


@app.command()
def curves(
    logs: Annotated[list[Path], typer.Argument(help="log.jsonl files of trainings.")],
    out: Annotated[Path, typer.Option(help="A .png or .pdf.")],
) -> None:
    """Draw training, validation and test curves (Fig. 7)."""
    from mrsr import figures

    figures.curves({log.parent.name: log for log in logs}, out)
    print(out)


@app.command()
def frozen(
    sources: Annotated[list[Path], typer.Argument(help="ViT folders and probes' JSONs.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
) -> None:
    """Tabulate what the frozen networks have learned, on test subjects."""
    from mrsr.frozen_table import frozen_table

    for row in frozen_table(sources, out):
        print(f"{row['network']}: {row['measure']} {row['value']:g}")


@app.command("pretext-table")
def pretexts(
    trainings: Annotated[list[Path], typer.Argument(help="Folders of ViT trainings.")],
    out: Annotated[Path, typer.Option(help="Folder of the tables.")],
) -> None:
    """Tabulate the pre-texts over seeds, from their validation curves."""
    from mrsr.pretext_table import pretext_table

    print(pretext_table(trainings, out), end="")


@app.command()
def timings(
    experiment: ExperimentName = None,
    out: Annotated[Path | None, typer.Option(help="The CSV; Markdown goes beside it.")] = None,
    results: Annotated[Path, typer.Option(help="The results' folder.")] = Path("results"),
    device: Annotated[str, typer.Option()] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="0: as many as torch likes.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, help="The median of so many.")] = 5,
    file: ParamsFile = PARAMS,
) -> None:
    """Measure appendix D's times: with an experiment's networks, or at the paper's sizes."""
    from mrsr import config
    from mrsr import timings as timing

    given = config.load(file, experiment or "paper")
    folder = results / given.name if experiment else None
    target = out or (folder or results) / "timings.csv"
    for path in timing.run(given, folder, target, device=device, threads=threads, repeat=repeat):
        print(path)
    print(path.read_text(encoding="utf-8"), end="")


@app.command()
def enhance(
    scan: Annotated[Path, typer.Argument(help="A NIfTI file, 3D.")],
    out: Annotated[Path, typer.Argument(help="The enhanced volume, .nii or .nii.gz.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A best.pt; or bicubic.")],
    scale: Annotated[int, typer.Option(help="With bicubic: 2, 3, 4 or 8.")] = 0,
    device: Annotated[str, typer.Option()] = "auto",
    batch: Annotated[int, typer.Option(min=1)] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    guide: Annotated[
        Path | None, typer.Option("--guide", help="The second contrast, for guided networks.")
    ] = None,
) -> None:
    """Apply a trained network to a scan of one's own."""
    from mrsr.enhance import enhance as run

    given = {"scale": scale, "device": device, "batch": batch, "overwrite": overwrite}
    run(scan, out, model, **given, guide=guide)
    print(out)


@app.command()
def degrade(
    scan: Annotated[Path, typer.Argument(help="A NIfTI file, 3D.")],
    out: Annotated[Path, typer.Argument(help="The coarser volume, .nii or .nii.gz.")],
    scale: Annotated[int, typer.Option(help="2, 3, 4 or 8.")] = 2,
    kind: Annotated[str, typer.Option(help="bicubic or kspace.")] = "bicubic",
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Make a scan coarser in plane, to try a network where the truth is known."""
    from mrsr.coarsen import coarsen

    coarsen(scan, out, scale=scale, kind=kind, overwrite=overwrite)
    print(out)


@app.command()
def score(
    prediction: Path,
    reference: Path,
    preset: Annotated[str, typer.Option(help="A preset of params.yaml.")] = "slice",
    file: ParamsFile = PARAMS,
) -> None:
    """Rate any volume against a reference; also another tool's output."""
    from mrsr.score import score_files

    print(json.dumps(score_files(prediction, reference, _preset(preset, file)), indent=2))


def _preset(name: str, file: Path) -> Any:
    """A preset from params.yaml where there is one, else the built-in of that name."""
    from mrsr import metrics

    if file.is_file():
        from mrsr import config

        presets = config.load(file).params.metrics.presets
        if name not in presets:
            raise UserError(f"no preset '{name}' in {file}; known: {', '.join(presets)}")
        return metrics.preset({"name": name, **presets[name].model_dump()})
    if name not in metrics.PRESETS:
        raise UserError(f"no preset '{name}'; known: {', '.join(metrics.PRESETS)}")
    return metrics.PRESETS[name]


@app.command()
def adopt(experiment: ExperimentName = None) -> None:
    """After `dvc pull`: make Snakemake accept what lies there, when the ledger agrees."""
    from mrsr.adopt import adopt as run

    print(f"{run(experiment)}: adopted; nothing will be trained again")


@app.command()
def plan(
    target: Annotated[str, typer.Argument(help="A target of snakemake, or a file.")] = "all",
    experiment: ExperimentName = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or a GPU's name: V100")] = "auto",
    cores: Annotated[int, typer.Option(min=1, help="As snakemake --cores.")] = 2,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of this computer.")] = 1,
    jobs: Annotated[int, typer.Option(min=0, help="Jobs at a time on a cluster; 0: none.")] = 0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few steps of each network here, first.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="As if nothing were there yet.")] = False,
    file: ParamsFile = PARAMS,
) -> None:
    """Print what a target will cost: jobs, hours and disk by stage and method, and wall time."""
    from mrsr.plan import estimate

    place = {"device": device, "cores": cores, "gpus": gpus, "jobs": jobs}
    print(estimate.plan(target, experiment, place, fresh, measure, file), end="")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def resume(
    context: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="The run was on another machine, and is dead.")
    ] = False,
) -> None:
    """After a killed Snakemake: cancel what it left running, unlock, go on.

    Arguments after `--` go to Snakemake; without any, the last run's are used.
    """
    from mrsr import cluster

    cluster.resume(context.args, force)


@guarded
def main() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2 or more."""
    # one thread where nothing else is said: two jobs side by side must not fight for cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app(standalone_mode=True)


if __name__ == "__main__":
    sys.exit(main())
