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
# lines, with notes, that a page of A4 holds beside the caption: in portrait, in landscape (`wide`)
LINES = (55, 30)
ABLATIONS = "Ablation studies"  # heading between methods, as in the paper


@dataclass
class Table:
    """A table before it is written in any format.

    headings: by (dataset, scale). caption: how the numbers were made. notes: what is missing or
        odd.
    cells: text, one line per method and source (`measured` here, or published in the `paper`).
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
    parts = [f"**{escape_markdown(table.title)}**\n", "" if frame.empty else pipes(frame, align)]
    parts += [escape_markdown(" ".join(table.caption)) + "\n"] if table.caption else []
    parts += ["".join(f"- {escape_markdown(note)}\n" for note in table.notes)]
    return "\n".join(part for part in parts if part)


# A file that \input takes inside a document, and that pdflatex takes by itself: LaTeX clears
# \@nodocument when a document begins. A wide table needs a page in landscape.
_HEAD = r"""% Needs booktabs and longtable. For \input in a document, or for pdflatex by itself.
\makeatletter
\ifx\@nodocument\relax \let\mrsrend\relax \else \def\mrsrend{\end{document}}
\documentclass[a4paper%s]{article}
\usepackage[margin=15mm]{geometry} \usepackage{booktabs,longtable}
\begin{document}
\fi
\makeatother
"""


def to_latex(table: Table) -> str:
    """A complete table environment with booktabs rules; one of many lines may span pages.

    No package but booktabs, and longtable for more lines than `LINES`.
    """
    # braces: after \\ LaTeX would read a label such as [30] as an argument
    frame = _shown(
        table, lambda text: f"{{{escape_latex(text)}}}", r"\textbf{{{}}}", r"\emph{{{}}}",
        r"\quad\emph{paper}", "--",
    )  # fmt: skip
    heading = rf"\multicolumn{{{frame.shape[1]}}}{{l}}{{\emph{{{ABLATIONS}}}}} \\" + "\n"
    kinds = table.cells["kind"].tolist()
    frame[
        "Method"
    ] = [  # pandas has no rules within a table: they go before the first cell of a line
        ("" if kind == last else "\\midrule\n" * bool(last) + heading * (kind == "ablation")) + name
        for last, kind, name in zip(["", *kinds], kinds, frame["Method"], strict=False)
    ]
    names = [escape_latex(name).removesuffix("x") + r"$\times$" for name in table.headings.values()]
    frame.columns = ["Method", "Parameters", "Reduced", *names]
    if not names:
        frame = frame[["Method"]]
    size = r"\scriptsize" if len(names) > 3 else r"\footnotesize"
    title = escape_latex(" ".join([table.title, *table.caption]))
    columns = "lrr"[: frame.shape[1]] + "c" * len(names)
    notes = r" \\ ".join(f"{{{escape_latex(note)}}}" for note in table.notes)
    head = _HEAD.replace("%s", ",landscape" if wide(table) else "")
    tight = r"\setlength{\tabcolsep}{3pt}"
    if len(frame) + len(table.notes) > LINES[wide(table)]:
        parts = [
            head + rf"\begingroup {size} {tight} \setlength{{\LTcapwidth}}{{\linewidth}}",
            frame.to_latex(
                index=False, escape=False, column_format=columns, longtable=True, caption=title,
                label=f"tab:{table.name}",
            ).rstrip(),
            *([rf"\noindent {{\raggedright {notes}\par}}"] if notes else []),
            r"\par\endgroup",
        ]  # fmt: skip
    else:
        parts = [
            *(head + r"\begin{table}[htbp]", r"\centering", rf"\caption{{{title}}}"),
            *(rf"\label{{tab:{table.name}}}", size, tight),
            frame.to_latex(index=False, escape=False, column_format=columns).rstrip(),
        ]
        if notes:
            parts += ["", r"\vspace{2pt}", rf"\parbox{{\linewidth}}{{\raggedright {notes}}}"]
        parts.append(r"\end{table}")
    return "\n".join([*parts, r"\mrsrend"]) + "\n"


def wide(table: Table) -> bool:
    """Whether a LaTeX table needs a page in landscape: more than two columns of numbers."""
    return len(table.headings) > 2


def _shown(
    table: Table, escape: Callable[[str], str], bold: str, italic: str, paper: str, dash: str
) -> pandas.DataFrame:
    """Method, parameters, reduced, and a 'PSNR/SSIM/NMSE' column for each dataset and scale.

    The best measured values are bold; equal texts are equally good. bold, italic: format
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


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join(_TEX.get(sign, sign) for sign in text)
