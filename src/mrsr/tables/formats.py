"""One table, three formats: CSV for programs, LaTeX (booktabs) for a paper, Markdown for people.

pandas writes all three. Here stands how a cell reads and what surrounds a table;
`mrsr.tables.tables` decides what is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas

# metric -> (which of several values is the best, decimals shown)
METRICS = {"psnr": ("max", 2), "ssim": ("max", 4), "nmse": ("min", 4)}
ABLATIONS = "Ablation studies"  # heading between methods, as in the paper


@dataclass
class Table:
    """A table before it is written in any format.

    headings: of each (dataset, scale). caption: how the numbers were made. notes: what is missing
        or odd.
    cells: text, a line per method and source (`measured` here, or published in the `paper`).
        Columns: method, label, kind, source, parameters ('0.66 M'), reduced ('of 40.7 M' where the
        network is narrower than its full width, else 'no'), and `<dataset>_x<scale>_<metric>`.
    """

    name: str
    title: str
    headings: dict[tuple[str, int], str]
    cells: pandas.DataFrame
    caption: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def to_csv(frame: pandas.DataFrame) -> str:
    """CSV with one header line and Unix line ends; missing values are empty."""
    return frame.to_csv(index=False, lineterminator="\n")


def pipes(frame: pandas.DataFrame, align: str) -> str:
    """A Markdown table of text cells. align: `l` (left) or `r` (right) for each column."""
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return frame.to_markdown(index=False, disable_numparse=True, colalign=sides) + "\n"


def to_markdown(table: Table) -> str:
    """Title, table, how it was measured, notes."""
    frame = _shown(table, escape_markdown, "**{}**", "*{}*", "*paper*", "-")
    kind = table.cells["kind"]
    first = frame.index[(kind == "ablation") & (kind != kind.shift())]
    if len(first):
        heading = pandas.DataFrame({"Method": f"*{ABLATIONS}*"}, index=first - 0.5)
        frame = pandas.concat([frame, heading]).sort_index().fillna("")
    frame.columns = ["Method", "Parameters", "Reduced"] + [
        escape_markdown(heading) for heading in table.headings.values()
    ]
    align = "l" + "r" * (frame.shape[1] - 1)
    parts = [f"**{table.title}**\n", "" if frame.empty else pipes(frame, align)]
    parts += [escape_markdown(" ".join(table.caption)) + "\n"] if table.caption else []
    parts += ["".join(f"- {escape_markdown(note)}\n" for note in table.notes)]
    return "\n".join(part for part in parts if part)


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
    # braces: a label such as [30] after \\ would be taken for its argument
    frame = _shown(
        table, lambda text: f"{{{_tex(text)}}}", r"\textbf{{{}}}", r"\emph{{{}}}",
        r"\quad\emph{paper}", "--",
    )  # fmt: skip
    heading = rf"\multicolumn{{{frame.shape[1]}}}{{l}}{{\emph{{{ABLATIONS}}}}} \\" + "\n"
    kinds = table.cells["kind"].tolist()
    frame["Method"] = [  # pandas knows no rules within a table: they go before a line's first cell
        ("" if kind == last else "\\midrule\n" * bool(last) + heading * (kind == "ablation")) + name
        for last, kind, name in zip(["", *kinds], kinds, frame["Method"], strict=False)
    ]
    names = [_tex(name).removesuffix("x") + r"$\times$" for name in table.headings.values()]
    frame.columns = ["Method", "Parameters", "Reduced", *names]
    if not names:
        frame = frame[["Method"]]
    size = r"\scriptsize" if len(names) > 3 else r"\footnotesize"
    parts = [
        _HEAD + r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{_tex(' '.join([table.title, *table.caption]))}}}",
        rf"\label{{tab:{table.name}}}",
        size,
        r"\setlength{\tabcolsep}{3pt}",
        frame.to_latex(
            index=False, escape=False, column_format="lrr"[: frame.shape[1]] + "c" * len(names)
        ).rstrip(),
    ]
    if table.notes:
        notes = r" \\ ".join(f"{{{_tex(note)}}}" for note in table.notes)
        parts += ["", r"\vspace{2pt}", rf"\parbox{{\linewidth}}{{\raggedright {notes}}}"]
    return "\n".join([*parts, r"\end{table}", r"\mrsrend"]) + "\n"


def _shown(
    table: Table, escape: Callable[[str], str], bold: str, italic: str, paper: str, dash: str
) -> pandas.DataFrame:
    """Method, parameters, reduced, and a 'PSNR/SSIM/NMSE' column for each dataset and scale.

    The best measured values are bold; two that read the same are both best. bold, italic: format
    strings. paper: the name of a line of published values.
    """
    cells = table.cells
    measured = cells["source"] == "measured"
    frame = pandas.DataFrame({"Method": cells["label"].map(escape).where(measured, paper)})
    frame[["Parameters", "Reduced"]] = cells[["parameters", "reduced"]]
    for dataset, scale in table.headings:
        texts = []
        for metric, (best, _) in METRICS.items():
            text = cells[f"{dataset}_x{scale}_{metric}"]
            numbers = text.where(measured).astype(float)
            marked = text.map(bold.format, na_action="ignore")
            texts.append(text.mask(numbers == numbers.agg(best), marked))
        cell = texts[0].str.cat(texts[1:], sep="/")
        published = cell.map(italic.format, na_action="ignore")
        frame[f"{dataset} {scale}"] = cell.where(measured, published).fillna(dash)
    return frame


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(re.sub(r"[\\|*_`<]", r"\\\g<0>", text).split())


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
