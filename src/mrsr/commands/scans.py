"""Commands for scans and networks of one's own that need an extra: the viewer and the exports."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mrsr.commands.options import Overwrite

commands = typer.Typer()


@commands.command()
def view(
    scans: Annotated[list[Path], typer.Argument(help="Two or three scans of the same head.")],
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the page to this .html, serve nothing.")
    ] = None,
    overwrite: Overwrite = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, or print the address.")
    ] = True,
) -> None:
    """See scans side by side in a browser: three planes, a slider, the difference."""
    from mrsr.files import write_text
    from mrsr.scan.view.page import page
    from mrsr.scan.view.serving import check_save, serve

    if save is None:
        serve(page(scans), port=port, browser=browser)
        return
    check_save(save, overwrite)
    write_text(save, page(scans))
    print(save)


class Kind(StrEnum):
    """What a network can be taken away as."""

    onnx = "onnx"
    bundle = "bundle"
    mlflow = "mlflow"


@commands.command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(help="best.pt, or x2, x4: of the package; x2 without one.")
    ] = "",
    out: Annotated[
        Path | None, typer.Argument(help="File or folder to write; mlflow registers without one.")
    ] = None,
    to: Annotated[Kind, typer.Option("--to", help="What to make of it.")] = Kind.onnx,
    name: Annotated[str, typer.Option("--name", help="Of the registered model (mlflow).")] = "",
    overwrite: Overwrite = False,
) -> None:
    """Take a network away: as ONNX, a MONAI bundle or a model of MLflow, with its card."""
    from mrsr.scan.export.exporting import export as run

    made, apart = run(checkpoint, to.value, out, name=name, overwrite=overwrite)
    print(made)
    print(f"onnxruntime and torch differ by at most {apart:.1g} of normalised intensities")
