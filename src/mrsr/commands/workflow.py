"""The commands that rules of the workflow, the Makefile and editors call; rarely used by hand."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from mrsr.commands.options import (
    PARAMS,
    ExperimentName,
    ParamsFile,
    Results,
    SettingsText,
    SourceSettings,
    Workers,
)
from mrsr.errors import UserError

commands = typer.Typer()


@commands.command()
def raw(
    source: Annotated[str, typer.Argument(help="Name of the source in params.yaml.")],
    settings: SettingsText = "",
    out: Annotated[
        Path | None, typer.Option(help="Manifest; by default data/raw/SOURCE/manifest.csv.")
    ] = None,
    workers: Workers = 2,
    file: ParamsFile = PARAMS,
) -> None:
    """Download (or simulate) the volumes of a source, verify them and write their manifest."""
    from mrsr import datasets
    from mrsr.console import account
    from mrsr.params import jobs, loading
    from mrsr.raw.prepare import prepare

    given = jobs.read_json(settings)[0] if settings else loading.load(file).source_settings(source)
    manifest = out or Path("data/raw") / source / "manifest.csv"
    chosen = SimpleNamespace(**given, workers=workers, key=source)
    brought = prepare(datasets.source(datasets.module(source, chosen)), chosen, manifest)
    account(source, "files", brought.used, brought.left_out)
    print(f"{manifest}: {brought.used} files")


@commands.command()
def slices(
    manifest: Annotated[Path, typer.Argument(help="Manifest that `mrsr raw` wrote.")],
    settings: SettingsText,
    out: Annotated[Path, typer.Option(help="Folder for the slice stores.")],
    source_settings: SourceSettings = "{}",
    workers: Workers = 2,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip unreadable volumes and list them.")
    ] = False,
) -> None:
    """Cut volumes into slices: one store per split, with no subject in two splits."""
    from mrsr.params import jobs
    from mrsr.slices.slicing import slice_dataset

    given = jobs.read(jobs.Slicing, settings)
    given = replace(given, skip_bad=given.skip_bad or skip_bad)
    if not manifest.is_file():
        raise UserError(f"{manifest} does not exist; create it with `mrsr raw {given.source}`")
    source = _source(source_settings, given.source)
    report = slice_dataset(manifest.parent, given, out, source, workers=workers)
    print(json.dumps(report, indent=2))


@commands.command()
def guides(
    manifest: Annotated[Path, typer.Argument(help="Manifest that `mrsr raw` wrote.")],
    settings: SettingsText,
    slices: Annotated[Path, typer.Option(help="Folder of the target contrast's slice stores.")],
    out: Annotated[Path, typer.Option(help="Folder for the guide contrast's slice stores.")],
    source_settings: SourceSettings = "{}",
) -> None:
    """Resample the second contrast of the same subjects onto the grid of their slices."""
    from mrsr.params import jobs
    from mrsr.slices.guides import make

    given = jobs.read(jobs.Guides, settings)
    report = make(manifest.parent, given, _source(source_settings, given.source), slices, out)
    print(json.dumps(report, indent=2))


@commands.command("tracking-init")
def tracking_init(
    settings: SettingsText,
    out: Annotated[Path, typer.Option(help="File that marks the store as ready.")],
) -> None:
    """Create the MLflow store before the first job logs to it."""
    from mrsr.files import write_text
    from mrsr.params.jobs import read
    from mrsr.params.schema import Tracking
    from mrsr.tracking import store

    if read(Tracking, settings).enabled:
        store.init_store()
    write_text(out, "ready\n")


@commands.command()
def frozen(
    sources: Annotated[list[Path], typer.Argument(help="ViT folders and probe files.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables.")],
) -> None:
    """Tabulate how well the frozen networks do on test subjects."""
    from mrsr.tables.frozen import frozen_table

    for row in frozen_table(sources, out):
        print(f"{row['network']}: {row['measure']} {row['value']:g}")


@commands.command()
def pack(
    experiment: ExperimentName = "best",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; without it, the package's own.")
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option("--other", help="A scan unlike the training's, to measure on; repeatable."),
    ] = None,
    results: Results = Path("results"),
    file: ParamsFile = PARAMS,
) -> None:
    """Put an experiment's network into the package, with its model card."""
    from mrsr.params import loading
    from mrsr.scan.packing import pack as run

    for path in run(loading.load(file, experiment), results, out, other or []):
        print(path)


def _source(text: str, key: str) -> SimpleNamespace:
    """The settings of a source, which its own file in datasets/ knows, and its key."""
    from mrsr.params import jobs

    return SimpleNamespace(**jobs.read_json(text)[0], key=key)


@commands.command()
def schema() -> None:
    """Print the JSON schema of params.yaml, which editors use to check and complete."""
    from mrsr.params import loading

    print(json.dumps(loading.json_schema(), indent=2))
