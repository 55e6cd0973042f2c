"""```math blocks as SVG, drawn by Matplotlib: no script and no font from the network."""

from __future__ import annotations

import html
import io
import re

BLOCK = re.compile(r"^```math\n(.*?)\n```$", flags=re.MULTILINE | re.DOTALL)
# of Matplotlib's file; its style sheet would act on the whole page
EXTRAS = re.compile(
    r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>|<style.*?</style>", flags=re.DOTALL
)


def drawn(markdown: str) -> str:
    """Markdown with an inline SVG for each block; a line of a block is an equation of its own."""
    return BLOCK.sub(lambda block: "\n\n".join(map(svg, block[1].split("\n"))), markdown)


def svg(formula: str) -> str:
    """One formula in Matplotlib's subset of LaTeX, in the colour of the text around it.

    Raises:
        ValueError: Matplotlib cannot parse the formula.
    """
    from matplotlib import rc_context
    from matplotlib.mathtext import math_to_image

    file = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "mathtext.fontset": "cm", "svg.hashsalt": formula}):
        math_to_image(f"${formula}$", file, dpi=72, format="svg", prop=None)
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>|<style.*?</style>",
        "",
        text,
        flags=re.S,
    )
    text = re.sub(r"(width|height)=\"([\d.]+)pt\"", _larger, text, count=2)
    # the page's style decides the colour; Matplotlib's own white background and black go
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, flags=re.S)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(formula)}" ', 1)
    return f'<span class="equation">{" ".join(text.split())}</span>'


def _larger(match: re.Match[str]) -> str:
    return f'{match[1]}="{1.7 * float(match[2]):.1f}"'
