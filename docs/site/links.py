"""Links of Markdown files that work in the repository, led to the pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()#\s]*)(?P<anchor>#[^()\s]*)?\)")
IMAGE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]*)\)")
FENCED = re.compile(r"(^ *```.*?^ *```$)", flags=re.MULTILINE | re.DOTALL)


def rewritten(markdown: str, source: str, page: str, sources: dict[str, str]) -> str:
    """Markdown whose relative links fit the site.

    Args:
        markdown: of a file of the repository.
        source: its path in the repository, which its links start from.
        page: its path in the site.
        sources: page of the site -> path in the repository, for files outside docs/.

    A link to a file of `src/mrsr` leads to its code in the reference: with a text such as
    [`losses.vit`] to that function, otherwise to the module. A link to another file without a page
    becomes its text. A link that leads nowhere stays, so that mkdocs reports it.
    """
    pages = {path: name for name, path in sources.items()}

    def one(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = normpath(join(dirname(source), target))
        if path in pages or (path.startswith("docs/") and path.endswith((".md", ".svg", ".png"))):
            to = pages.get(path, path.removeprefix("docs/"))
            return f"[{text}]({relpath(to, dirname(page) or '.')}{anchor})"
        if path.startswith("src/mrsr/") and path.endswith(".py"):
            return f"[{text}][{identifier(path, text)}]"
        return text if (ROOT / path).exists() else match[0]

    def image(match: re.Match[str]) -> str:
        path = normpath(join(dirname(source), match["target"]))
        if "://" in match["target"] or not path.startswith("docs/"):
            return match[0]
        return f"![{match['text']}]({relpath(path.removeprefix('docs/'), dirname(page) or '.')})"

    def prose(text: str) -> str:
        return IMAGE.sub(image, LINK.sub(one, text))

    # every second piece is fenced code, which keeps what looks like a link
    pieces = FENCED.split(markdown)
    return "".join(text if n % 2 else prose(text) for n, text in enumerate(pieces))


def identifier(path: str, text: str) -> str:
    """'mrsr.method.losses.vit' of 'src/mrsr/method/losses.py' and '`losses.vit`'."""
    module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
    module = module.replace("/", ".")
    dotted = re.fullmatch(r"`([\w.]+)(?:\(\))?`", text)
    name = dotted[1].rpartition(".")[2] if dotted else ""
    # `losses.py` is the file, `losses.vit` a function of it
    return module if name in ("", "py") else f"{module}.{name}"
