r"""A LaTeX document around an experiment's tables and figures, to hand to a co-author.

    mrsr tables --experiment demo --document

writes the folder `results/demo/document/`, which needs nothing outside itself:

- `document.tex`, written once: it is yours to edit, and later calls leave it alone;
- `facts.tex` (version, commits, command), `tables.tex` and `figures.tex`, written again each time,
  with copies of the tables' files and of the figures (PDF, else PNG).

`latexmk -pdf document.tex` makes the PDF. It needs booktabs, caption, geometry, graphicx,
hyperref, longtable and pdflscape, which every TeX distribution has.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from mrsr.errors import UserError
from mrsr.files import atomic, write_text
from mrsr.params.figures import caption_text
from mrsr.tables.formats import escape_latex
from mrsr.version import __version__

_DOCUMENT = r"""% Written once by `mrsr tables --document`; yours to edit.
% Every call writes tables.tex, figures.tex and facts.tex again.
\documentclass[a4paper]{article}
\usepackage[margin=20mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs,longtable}
\usepackage[font=footnotesize]{caption}
\usepackage{graphicx}
\usepackage{pdflscape}
\usepackage[hidelinks]{hyperref}
\input{facts}

\title{Super-resolution of MR images: experiment \texttt{\mrsrexperiment}}
\author{} % your names
\date{\today}

\begin{document}
\maketitle

% Yours: abstract, introduction, what the numbers mean.

\section{How it was made}

All methods were trained on the same slices with the same degradation, and evaluated by the same
code, mrsr \mrsrversion{}~\cite{mrsr} (commit \mrsrcommits). The captions give the metric
convention, the number of subjects and the length of the trainings. This command makes everything
again:
\begin{quote}\ttfamily\raggedright\mrsrcommand\end{quote}

\section{Results}
\input{tables}

\clearpage
\input{figures}

\begin{thebibliography}{9}
\bibitem{mrsr} The mrsr developers. \emph{mrsr}, version \mrsrversion. Software.
% Yours: the paper that the method is from, the publications of the methods you name (their numbers
% in brackets are those of that paper), and what the licences of the data ask for.
\end{thebibliography}
\end{document}
"""
_TABLE = r"\input{%s}"
_LANDSCAPE = r"\begin{landscape}\input{%s}\end{landscape}"
_FIGURE = r"""\begin{figure}[htbp]
\centering
\includegraphics[width=\linewidth,height=0.8\textheight,keepaspectratio]{%s}
\caption{%s}
\end{figure}
"""


def write_document(experiment: str, results: Path, commits: Iterable[str] = ()) -> list[Path]:
    """Write the folder `document/` of an experiment from its tables and figures.

    Args:
        results: the experiment's folder, with `tables/` and perhaps `figures/`.
        commits: of the code that made the metrics.

    Returns:
        The files written, `document.tex` first, which is left as it is if it exists.

    Raises:
        UserError: there are no tables with numbers in them.
    """
    results = Path(results)
    out = results / "document"
    tables = [file for file in sorted((results / "tables").glob("table*.tex")) if _filled(file)]
    if not tables:
        raise UserError(f"no tables in {results / 'tables'}; run the pipeline first")
    figures = _figures(results / "figures")
    known = ", ".join(sorted({commit[:7] for commit in commits if commit}))
    facts = {
        "experiment": escape_latex(experiment),
        "version": escape_latex(__version__),
        "commits": known or "unknown",
        "command":  # `--` would become a dash
        escape_latex(f"snakemake --cores 2 all --config experiment={experiment}").replace(
            "--", "-{}-"
        ),
    }
    texts = {
        "facts": "".join(rf"\newcommand{{\mrsr{n}}}{{{text}}}" + "\n" for n, text in facts.items()),
        "tables": "".join(
            (_LANDSCAPE if ",landscape]" in file.read_text("utf-8") else _TABLE) % file.stem + "\n"
            for file in tables
        ),
        "figures": "".join(
            _FIGURE % (f"figures/{_plain(file)}", escape_latex(_caption(file.stem)))
            for file in figures
        ),
    }
    document = out / "document.tex"
    if not document.exists():
        write_text(document, _DOCUMENT)
    for name, text in texts.items():
        write_text(out / f"{name}.tex", text)
    copies = {file: out / file.name for file in tables}
    copies |= {file: out / "figures" / _plain(file) for file in figures}
    for source, target in copies.items():
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)
    return [document, *(out / f"{name}.tex" for name in texts), *copies.values()]


def _filled(table: Path) -> bool:
    """Whether a table has rows: an experiment may have no dataset of Table 2."""
    return r"\midrule" in table.read_text(encoding="utf-8").split(r"\toprule")[-1]


def _figures(folder: Path) -> list[Path]:
    """The figures of an experiment: vectors where there are any, one file for each name."""
    found = {file.stem: file for kind in ("png", "pdf") for file in folder.glob(f"*.{kind}")}
    return [found[name] for name in sorted(found)]


def _plain(file: Path) -> str:
    """A file's name without the signs that mean something to LaTeX."""
    return re.sub(r"[^\w.-]", "-", file.name)


def _caption(figure: str) -> str:
    """The caption that the report uses, or the words of the figure's name."""
    text = caption_text(figure)
    return f"{text} ({figure})" if text else figure.replace("_", " ")
