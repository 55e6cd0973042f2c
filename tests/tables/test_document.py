"""The LaTeX document of an experiment. Run: pytest tests/tables/test_document.py"""

from __future__ import annotations

import shutil
import subprocess
from itertools import chain
from pathlib import Path

import pytest
from matplotlib import pyplot
from typer.testing import CliRunner

from mrsr import __version__, cli
from mrsr.errors import UserError
from mrsr.params import loading
from mrsr.params.typed import plain
from mrsr.tables.document import write_document
from mrsr.tables.formats import escape_latex
from mrsr.tables.tables import write_tables
from project import ROOT
from tables.test_tables import record

COMMIT = "0123456789abcdef"


def results_of(experiment: str, folder: Path, reduced: bool = False) -> Path:
    """Tables of an experiment with every row that it can have, and two figures."""
    settings = loading.load(ROOT / "params.yaml", experiment).tables()
    spec = plain(settings)
    absent = {(each["dataset"], each["scale"], each["method"]) for each in spec["absent"]}
    size = {"parameters": 231_800, "full_parameters": 40_720_000} if reduced else {}
    records = [
        record(dataset, scale, method["key"], psnr=30 + n / 7, n=24, experiment=experiment, **size)
        for dataset in chain(*spec["tables"].values())
        for scale in spec["scales"]
        for n, method in enumerate(spec["methods"])
        if (dataset, scale, method["key"]) not in absent
    ]
    write_tables(records, settings, folder / "tables")
    (folder / "figures").mkdir()
    for name in ("fig2_comparison_openms_t1_2x.pdf", "100%_odd & name.png"):
        figure = pyplot.figure(figsize=(3, 2))
        figure.savefig(folder / "figures" / name)
        pyplot.close(figure)
    return folder


def compiled(folder: Path, name: str = "document") -> str:
    """The log of pdflatex, run twice for the references; skips where there is no TeX."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex here (Debian and Ubuntu: apt install texlive-latex-recommended)")
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:]
    return (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "reduced"),
    [("paper", False), ("paper", True), ("benchmark", True), ("openms_ablation", False)],
)
def test_it_compiles_with_every_row_and_nothing_too_wide_or_too_tall(
    tmp_path: Path, experiment: str, reduced: bool
) -> None:
    folder = results_of(experiment, tmp_path, reduced)
    out = write_document(experiment, folder, [COMMIT])[0].parent
    for log in (compiled(out), compiled(out, "table1")):
        for trouble in ("Overfull", "too large for page", "undefined", "multiply defined"):
            assert trouble not in log, log[log.index(trouble) - 200 :][:600]


def test_every_row_and_figure_is_in_the_folder(tmp_path: Path) -> None:
    folder = results_of("paper", tmp_path)
    written = write_document("paper", folder, [COMMIT, "", COMMIT])
    out = folder / "document"
    assert written[0] == out / "document.tex" and all(file.is_file() for file in written)
    table = (out / "table1.tex").read_text()
    assert table == (folder / "tables" / "table1.tex").read_text()
    for method in loading.load(ROOT / "params.yaml", "paper").methods.values():
        if method.key not in ("lyu", "minet"):  # Table 2 has these
            assert f"{{{escape_latex(method.label)}" in table, method.key
    assert (out / "figures" / "fig2_comparison_openms_t1_2x.pdf").is_file()
    figures = (out / "figures.tex").read_text()
    assert figures.count(r"\includegraphics") == 2
    assert r"figures/100--odd---name.png" in figures.replace("_", "-")
    facts = (out / "facts.tex").read_text()
    assert __version__ in facts and "{0123456}" in facts and "experiment=paper" in facts
    assert str(tmp_path) not in "".join(f.read_text() for f in out.glob("*.tex"))


def test_what_a_person_wrote_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = results_of("openms_ablation", tmp_path / "results" / "openms_ablation")
    arguments = ["tables", "--experiment", "openms_ablation", "--document"]
    arguments += ["--params", str(ROOT / "params.yaml")]
    first = CliRunner().invoke(cli.app, arguments)
    assert first.exit_code == 0, first.output
    document = folder / "document" / "document.tex"
    document.write_text("mine")
    (folder / "document" / "tables.tex").write_text("old")
    second = CliRunner().invoke(cli.app, arguments)
    assert document.read_text() == "mine" and "as it was" in second.output
    assert r"\input{table1}" in (folder / "document" / "tables.tex").read_text()


def test_without_tables_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tables in .*run the pipeline first"):
        write_document("demo", tmp_path)
    assert not list(tmp_path.iterdir())
