"""One table, three formats: CSV for programs, LaTeX (booktabs) for a paper, Markdown for people.

Called by `mrsr.tables`, which decides what stands in the table. Nothing here knows a metrics file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# metric -> (its best value among several, printed decimals)
METRICS = {"psnr": (max, 2), "ssim": (max, 4), "nmse": (min, 4)}
ABLATIONS = "Ablation studies"  # heading between rows, as in the paper

# a cell: metric -> (value, decimals); None is a dash
Cell = dict[str, tuple[float, int]]


@dataclass
class Row:
    """A method's cells, measured here or printed in the paper; `bold` names metrics per cell."""

    key: str
    label: str
    kind: str
    source: str  # "measured" or "paper"
    cells: list[Cell | None]
    bold: list[set[str]]
    parameters: str = ""  # "0.66 M"
    reduced: str = ""  # "of 40.7 M" at full width, "no" where it is that


@dataclass
class Table:
    """A table before it is written in any format."""

    name: str
    title: str
    columns: list[tuple[str, int]]  # dataset, scale
    headings: list[str]
    rows: list[Row] = field(default_factory=list)
    caption: list[str] = field(default_factory=list)  # how the numbers were made
    notes: list[str] = field(default_factory=list)  # what is missing or odd


def cell_text(cell: Cell | None, bold: set[str], mark: str, dash: str) -> str:
    """'34.10/0.9512/0.0031' with `mark` (a format string) around the bold ones, or the dash."""
    if cell is None:
        return dash
    texts = {metric: f"{value:.{digits}f}" for metric, (value, digits) in cell.items()}
    return "/".join(mark.format(t) if metric in bold else t for metric, t in texts.items())


def csv_text(columns: list[str], rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_csv(table: Table) -> str:
    """One line per row, one column per dataset, scale and metric, numbers as printed."""
    names = [f"{dataset}_x{scale}" for dataset, scale in table.columns]
    columns = ["method", "label", "kind", "source", "parameters", "reduced"]
    columns += [f"{name}_{metric}" for name in names for metric in METRICS]
    lines = []
    for row in table.rows:
        line = {name: getattr(row, name) for name in ("label", *columns[2:6])} | {"method": row.key}
        for name, cell in zip(names, row.cells, strict=True):
            for metric, (value, digits) in (cell or {}).items():
                line[f"{name}_{metric}"] = f"{value:.{digits}f}"
        lines.append(line)
    return csv_text(columns, lines)


def to_markdown(table: Table) -> str:
    """Title, table, how it was measured, notes."""
    lines = [f"**{table.title}**", ""]
    if table.rows:
        lines += [_pipes(["Method", "Parameters", "Reduced", *map(_plain, table.headings)])]
        lines += [_pipes(["---", *["---:"] * (2 + len(table.headings))])]
    kind = ""
    for row in table.rows:
        if row.kind == "ablation" != kind:
            lines.append(_pipes([f"*{ABLATIONS}*", *[""] * (2 + len(row.cells))]))
        kind = row.kind
        cells = [
            cell_text(cell, bold, "**{}**", "-")
            for cell, bold in zip(row.cells, row.bold, strict=True)
        ]
        if row.source == "paper":
            cells = [cell if cell == "-" else f"*{cell}*" for cell in cells]
        name = _plain(row.label) if row.source == "measured" else "*paper*"
        lines.append(_pipes([name, row.parameters, row.reduced, *cells]))
    if table.caption:
        lines += ["", _plain(" ".join(table.caption))]
    if table.notes:
        lines += ["", *(f"- {_plain(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\|*_`<":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


# A file that \input takes inside a document, and that pdflatex takes by itself: LaTeX clears
# \@nodocument when a document begins.
_HEAD = r"""% Needs \usepackage{booktabs}. Give it to \input in a document, or to pdflatex as it is.
\makeatletter
\ifx\@nodocument\relax \let\mrsrend\relax \else \def\mrsrend{\end{document}}
\documentclass{article} \usepackage{booktabs} \begin{document}
\fi
\makeatother
"""


def to_latex(table: Table) -> str:
    """A complete table environment with booktabs rules and no other package."""
    size = r"\scriptsize" if len(table.columns) > 3 else r"\footnotesize"
    caption = " ".join([table.title, *table.caption])
    lines = [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{_tex(caption)}}}"]
    lines += [rf"\label{{tab:{table.name}}}", size, r"\setlength{\tabcolsep}{3pt}"]
    own = ["Parameters", "Reduced"] if table.columns else []
    columns = "l" + "r" * len(own) + "c" * len(table.columns)
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    headings = [heading.removesuffix("x") + r"$\times$" for heading in map(_tex, table.headings)]
    lines += [_line(["Method", *own, *headings]), r"\midrule"]
    kind = table.rows[0].kind if table.rows else ""
    for row in table.rows:
        if row.kind != kind:
            lines.append(r"\midrule")
            if row.kind == "ablation":
                width = len(table.columns) + 3
                lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{ABLATIONS}}}}} \\")
        kind = row.kind
        cells = [
            cell_text(cell, bold, r"\textbf{{{}}}", "--")
            for cell, bold in zip(row.cells, row.bold, strict=True)
        ]
        if row.source == "paper":
            cells = [rf"\emph{{{cell}}}" for cell in cells]
        # braces: a label such as [30] after \\ would be taken for its argument
        label = f"{{{_tex(row.label)}}}" if row.source == "measured" else r"\quad\emph{paper}"
        lines.append(_line([label, row.parameters, row.reduced, *cells]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = r" \\ ".join(f"{{{_tex(note)}}}" for note in table.notes)
        lines += ["", r"\vspace{2pt}", rf"\parbox{{\linewidth}}{{\raggedright {notes}}}"]
    return _HEAD + "\n".join([*lines, r"\end{table}", r"\mrsrend"]) + "\n"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


_TEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)
