"""The commands that make tables, comparisons and figures from what an experiment has measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mrsr.commands.options import (
    PARAMS,
    Device,
    ExperimentName,
    ParamsFile,
    Results,
    SettingsText,
)

commands = typer.Typer()


@commands.command()
def tables(
    metrics: Annotated[list[Path] | None, typer.Argument(help="Metrics files (JSON).")] = None,
    settings: SettingsText = "",
    experiment: ExperimentName = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    from_mlflow: Annotated[
        bool, typer.Option("--from-mlflow", help="Read the metrics from MLflow.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option(help="Folder for the means, a JSON for each row.")
    ] = None,
    bars: Annotated[Path | None, typer.Option(help="Figure of every row's PSNR.")] = None,
    show: Annotated[bool, typer.Option("--print", help="Only print existing tables.")] = False,
    document: Annotated[
        bool, typer.Option("--document", help="Write a LaTeX document around existing tables.")
    ] = False,
    file: ParamsFile = PARAMS,
) -> None:
    """Write the tables from metrics files or from MLflow, or print them."""
    from mrsr.params import jobs, loading
    from mrsr.tables import tables as making

    if settings:
        given = jobs.read(jobs.Tables, settings)
    else:
        given = loading.load(file, experiment).tables()
    folder = out or Path("results") / given.experiment / "tables"
    if document:
        _document(given.experiment)
        return
    if show:
        making.print_table(folder)
        return
    records: Sequence[Path | dict[str, Any]]
    if from_mlflow:
        from mrsr.tracking import reading

        records = reading.from_mlflow(given.experiment)
    else:
        records = metrics or sorted(Path("results", given.experiment, "metrics").rglob("*.json"))
    making.write_tables(records, given, folder, summary)
    if bars is not None:
        from mrsr.tables.bars import psnr_bars

        psnr_bars(folder / "results.csv", bars)
    making.print_table(folder)


def _document(experiment: str) -> None:
    from mrsr.tables import document
    from mrsr.tables.records import read_record

    results = Path("results", experiment)
    records = [read_record(file)[0] for file in sorted((results / "metrics").rglob("*.json"))]
    commits = [str(record.get("commit") or "") for record in records]
    kept = (results / "document" / "document.tex").exists()
    written = document.write_document(experiment, results, commits)
    print(written[0])
    if kept:
        print(f"mrsr: note: left {written[0]} as it was; tables, figures and facts are new")


@commands.command()
def compare(
    first: Annotated[str, typer.Argument(help="Metrics file, experiment, or runs:/<MLflow id>.")],
    second: Annotated[str, typer.Argument(help="What it is compared with: any of the same.")],
    out: Annotated[Path | None, typer.Option(help="CSV to write as well.")] = None,
) -> None:
    """Test whether two results differ: paired by subject, with interval, Wilcoxon and Holm."""
    from mrsr.files import write_text
    from mrsr.tables import comparison
    from mrsr.tables.formats import to_csv

    found = comparison.compare(first, second)
    if out is not None:
        write_text(out, to_csv(found))
    print(comparison.to_text(found), end="")


@commands.command()
def curves(
    logs: Annotated[list[Path], typer.Argument(help="log.jsonl of each training.")],
    out: Annotated[Path, typer.Option(help="Figure to write: .png or .pdf.")],
) -> None:
    """Plot training, validation and test losses (Fig. 7 of the paper)."""
    from mrsr import drawing

    drawing.curves({log.parent.name: log for log in logs}, out)
    print(out)


@commands.command()
def examples(
    settings: SettingsText,
    slices: Annotated[Path, typer.Option(help="The test store.")],
    out: Annotated[Path, typer.Option(help="File to write (.npz).")],
    guide: Annotated[Path | None, typer.Option(help="Test store of the second contrast.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the experiment; by default, that of --out.")
    ] = None,
) -> None:
    """Run every method on the few test slices that the figures show."""
    from mrsr.figures import examples as making
    from mrsr.figures.results import files_of
    from mrsr.params import jobs

    given = jobs.read(jobs.Examples, settings)
    metrics, checkpoints = files_of(given, results or out.parents[2])
    making.make(given, metrics, slices, checkpoints, out, guide)
    print(out)


@commands.command()
def figures(
    settings: SettingsText = "",
    experiment: ExperimentName = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the figures.")] = None,
    results: Results = Path("results"),
    file: ParamsFile = PARAMS,
) -> None:
    """Draw the paper's figures (2 to 5, 7) and others, from an experiment's results."""
    from mrsr.figures.draw import draw_all
    from mrsr.params import figures as names
    from mrsr.params import jobs, loading

    if settings:
        given = jobs.read(jobs.Figures, settings)
    else:
        given = names.figures(loading.load(file, experiment))
    folder = results / given.experiment
    for path in draw_all(given, folder, out or folder / "figures"):
        print(path)


@commands.command()
def report(
    settings: SettingsText = "",
    experiment: ExperimentName = None,
    out: Annotated[Path | None, typer.Option(help="Page to write (.html).")] = None,
    results: Results = Path("results"),
    file: ParamsFile = PARAMS,
) -> None:
    """Write an experiment's page: tables, images, figures, curves, provenance, in one file."""
    from mrsr.params import figures as names
    from mrsr.params import jobs, loading
    from mrsr.report.page import write

    if settings:
        given = jobs.read(jobs.Report, settings)
    else:
        given = names.report(loading.load(file, experiment))
    folder = results / given.experiment
    target = out or folder / "report.html"
    size = write(given, folder, target)
    print(f"{target}: {size / 1e6:.1f} MB; open it in a browser")


@commands.command("pretext-table")
def pretexts(
    trainings: Annotated[list[Path], typer.Argument(help="Folders of ViT trainings.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables.")],
) -> None:
    """Compare the pretext tasks over several seeds, from their validation curves."""
    from mrsr.tables.pretexts import pretext_table

    print(pretext_table(trainings, out), end="")


@commands.command()
def timings(
    experiment: ExperimentName = None,
    out: Annotated[Path | None, typer.Option(help="CSV to write, and a .md.")] = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch decides.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, help="Runs; the median is reported.")] = 5,
    file: ParamsFile = PARAMS,
) -> None:
    """Measure the times of the paper's appendix D, for an experiment or at the paper's sizes."""
    from mrsr.params import loading
    from mrsr.tables import timings as timing

    given = loading.load(file, experiment or "paper")
    folder = results / given.name if experiment else None
    target = out or (folder or results) / "timings.csv"
    for path in timing.run(given, folder, target, device=device, threads=threads, repeat=repeat):
        print(path)
    print(path.read_text(encoding="utf-8"), end="")
