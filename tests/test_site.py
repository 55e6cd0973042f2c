"""The documentation as a site: builds without warning and network, complete, no dead link.

pytest tests/test_site.py; pytest -m slow tests/test_site.py builds the site
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml

from mrsr import cli
from mrsr.params import loading
from project import ROOT

slow = [pytest.mark.slow, pytest.mark.xdist_group("site")]
SOURCE = ROOT / "src" / "mrsr"
# equations of the paper; 10 to 19 repeat earlier ones in its appendices
EQUATIONS = range(1, 22)


def _public(file: Path) -> list[str]:
    """Names of the public functions and classes of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return [node.name for node in body if isinstance(node, kinds) and node.name[0] != "_"]


def _code_links() -> list[tuple[str, str]]:
    """(text, path from the root) of each link of docs/concepts.md to code."""
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    return re.findall(r"\[`([\w.]+)`\]\(\.\./(src/mrsr/[\w/]+\.py)\)", text)


@pytest.mark.parametrize(("text", "path"), _code_links())
def test_functions_that_the_concepts_name_exist(text: str, path: str) -> None:
    module, _, name = text.partition(".")
    assert Path(path).stem == module
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    assigned = [
        target.id
        for node in body
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
        if isinstance(target, ast.Name)
    ]
    assert name in [*_public(ROOT / path), *assigned]


def test_the_concepts_have_every_equation_of_the_paper() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    found: set[int] = set()
    for line in re.findall(r"^\*\*Eq\..*?\*\*|\(Eq\. 9\)", text, flags=re.MULTILINE):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", line):
            found.update(range(int(first), int(last or first) + 1))
    assert found == set(EQUATIONS)
    assert len(_code_links()) > 30


def test_links_of_the_repository_become_links_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    import links

    sources = {"index.md": "README.md", "project/changelog.md": "CHANGELOG.md"}

    def of(text: str, source: str, page: str) -> str:
        return links.rewritten(text, source, page, sources)

    here = ("docs/concepts.md", "concepts.md")
    assert of("[a](results.md#b) c", *here) == "[a](results.md#b) c"
    assert of("[a](docs/cluster.md)", "README.md", "index.md") == "[a](cluster.md)"
    assert of("[a](../CHANGELOG.md)", *here) == "[a](project/changelog.md)"
    assert of("[a](../cluster.md)", "docs/howto/x.md", "howto/x.md") == "[a](../cluster.md)"
    assert of("![a](docs/flow.svg)", "README.md", "index.md") == "![a](flow.svg)"
    code = "[`losses.vit`](../src/mrsr/method/losses.py)"
    assert of(code, *here) == "[`losses.vit`][mrsr.method.losses.vit]"
    assert of("[code](../src/mrsr/tables/__init__.py)", *here) == "[code][mrsr.tables]"
    assert of("see [it](../Makefile)", *here) == "see it"
    # mkdocs reports what leads nowhere; fenced code and other sites stay
    for same in ("[a](../nowhere.txt)", "[a](https://x.org/b)", "```\n[a](../Makefile)\n```"):
        assert of(same, *here) == same


def test_badges_and_pictures_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ROOT / "docs" / "images"
    monkeypatch.syspath_prepend(str(images))
    import badges

    for name, text in badges.badges().items():
        assert (images / name).read_text(encoding="utf-8") == text, "python docs/images/badges.py"
        assert name in (ROOT / "README.md").read_text(encoding="utf-8")


def test_numbers_of_the_readme_are_those_of_the_results() -> None:
    """Each PSNR, SSIM and NMSE of the README's table stands together in docs/results.md."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("## Results")[1]
    rows = re.findall(r"^\| [^|]+ \| (-?[\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert len(rows) >= 4
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").replace("*", "")
    for row in rows:
        assert "/".join(row) in results, row


def test_experiments_of_tutorial_and_answers_are_accepted(tmp_path: Path) -> None:
    found = 0
    for name in ("tutorial", "how-do-i"):
        page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            found += 1
            file = tmp_path / f"{name.replace('-', '_')}_{found}.yaml"
            whole = "description:" in block
            file.write_text(block if whole else f"description: x\nabout: x\nlike: demo\n{block}")
            assert loading.load(ROOT / "params.yaml", str(file)).cells
    assert found > 3


def test_the_catalogue_of_workflows_finds_its_files() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] is True and "experiment=demo" in usage["mandatory-flags"]["flags"]
    assert not any(usage["software-stack-deployment"].values())
    assert (ROOT / "config" / "README.md").is_file() and (ROOT / "Snakefile").is_file()


class _Page(HTMLParser):
    """Ids, links, and whatever the browser loads by itself."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.append(given.get("href", ""))
        self.loaded += [given[name] for name in ("src", "data", "poster") if given.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, where every connection fails."""
    folder = tmp_path_factory.mktemp("site")
    # no connection leaves this process: Python's own ones are refused as they are made
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(
        "import sys\n"
        "def watch(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        raise RuntimeError(f'the build opens a connection: {args}')\n"
        "sys.addaudithook(watch)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "html")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(folder / "watch"), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "WARNING" not in done.stderr, done.stderr[-5000:]
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {file: _Page(file) for file in site.rglob("*.html")}


class TestSite:
    pytestmark = slow

    def test_pages_load_nothing_from_the_network(self, pages: dict[Path, _Page]) -> None:
        assert len(pages) > 30
        for file, page in pages.items():
            outside = [each for each in page.loaded if urlsplit(each).netloc]
            assert not outside, f"{file.name}: {outside}"

    def test_style_sheets_load_nothing_from_the_network(self, site: Path) -> None:
        files = list(site.rglob("*.css"))
        assert files
        for file in files:
            for address in re.findall(r"url\(\s*['\"]?(.{0,80})", file.read_text("utf-8")):
                assert not address.startswith(("http:", "https:", "//")), f"{file.name}: {address}"

    def test_links_lead_somewhere(self, pages: dict[Path, _Page]) -> None:
        checked = 0
        for file, page in pages.items():
            if file.name == "404.html":  # its links start from the address of the site
                continue
            for link in [*page.links, *page.loaded]:
                parts = urlsplit(link)
                if parts.scheme or parts.netloc:
                    continue
                target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
                target = target / "index.html" if target.is_dir() else target
                assert target.is_file(), f"{file.name}: {link}"
                if parts.fragment and target.suffix == ".html":
                    assert unquote(parts.fragment) in pages[target].ids, f"{file.name}: {link}"
                checked += 1
        assert checked > 1000

    def test_every_public_function_is_in_the_reference(self, pages: dict[Path, _Page]) -> None:
        known = {each for page in pages.values() for each in page.ids}
        missing = []
        for file in sorted(SOURCE.rglob("*.py")):
            module = ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
            if not file.stem.startswith("_"):
                missing += [f"{module}.{n}" for n in _public(file) if f"{module}.{n}" not in known]
        assert not missing
        assert len([each for each in known if each.startswith("mrsr.")]) > 500

    def test_every_setting_and_command_is_in_the_reference(self, site: Path) -> None:
        settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
        schema = loading.json_schema()
        for section in (schema, *schema["$defs"].values()):
            for name in section["properties"]:
                assert f"<code>{name}</code>" in settings, name
        commands = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
        group = typer.main.get_command(cli.app)
        assert len(group.commands) > 15
        for name, command in group.commands.items():
            assert f"mrsr {name}" in commands, name
            for parameter in command.params:
                if parameter.param_type_name == "option" and parameter.name != "help":
                    assert parameter.opts[0] in commands, (name, parameter.opts)

    def test_every_how_to_is_in_the_navigation(self, site: Path) -> None:
        index = (site / "index.html").read_text(encoding="utf-8")
        for file in (ROOT / "docs" / "howto").glob("*.md"):
            assert f'href="howto/{file.stem}.html"' in index, file.name

    def test_equations_are_drawn(self, site: Path) -> None:
        page = (site / "concepts.html").read_text(encoding="utf-8")
        blocks = re.findall(r"```math\n(.*?)\n```", (ROOT / "docs/concepts.md").read_text(), re.S)
        assert page.count('<svg role="img"') == sum(len(b.split("\n")) for b in blocks)
        assert "```" not in page and "\\langle" in page  # the formula, for screen readers

    def test_search_works_from_a_file_in_a_browser(self, site: Path) -> None:
        from browser import opened

        with opened() as seen:
            page = seen.page
            page.goto((site / "concepts.html").as_uri())
            page.locator("input[name=query]").click()
            page.keyboard.type("centre-patch")
            found = page.locator(".md-search-result__item").first
            found.wait_for(timeout=60_000)
            assert "patch" in found.inner_text().lower()
            page.keyboard.press("Escape")
            page.goto((site / "reference" / "settings.html").as_uri())
            assert page.locator("h2#optimizer").count() == 1
            seen.check()
