"""The page of a finished run in a real browser. Run: pytest -m slow tests/report/test_page.py"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from browser import Seen, opened
from project import snakemake

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smoke")]
PATIENT = 120_000  # milliseconds: test machines are shared


@pytest.fixture(scope="module")
def page(smoke: Path) -> Path:
    return smoke / "results/smoke/report.html"


def show(seen: Seen, file: Path) -> None:
    """Open the file as a double-click does, and wait until its scripts have run."""
    seen.page.set_default_timeout(PATIENT)
    seen.page.goto(file.as_uri(), wait_until="domcontentloaded", timeout=PATIENT)
    seen.page.wait_for_selector("body[data-tables=ready]")
    seen.page.wait_for_selector("#stage[data-drawn]")
    seen.page.wait_for_selector("#chart .scatterlayer .trace")


def pixels(seen: Seen) -> str:
    return str(seen.page.evaluate("document.getElementById('stage').toDataURL()"))


def drawn_after(seen: Seen, act) -> None:
    """Do something and wait for the next drawing of the viewer."""
    before = seen.page.get_attribute("#stage", "data-drawn")
    act()
    seen.page.wait_for_function(
        "before => document.getElementById('stage').dataset.drawn !== before", arg=before
    )


def test_the_page_is_one_file_that_says_what_was_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 15e6
    # nothing is loaded from elsewhere: every src is in the file
    markup = re.sub(r"<script.*?</script>|<style>.*?</style>", "", text, flags=re.DOTALL)
    sources = re.findall(r'\b(?:src|href)="([^"]{0,40})', markup)
    assert sources and all(s.startswith(("data:", "#")) for s in sources)
    assert str(Path.home()) not in markup and str(page.parent) not in markup
    for words in (
        "every rule, two training steps each",
        "Energy was not measured.",
        "No ablation in this experiment",
        "snakemake --cores 2 all --config experiment=smoke",
        "fig2_comparison_phantom_t1_2x",
        "fig7_losses",
        "settings of phantom_t1/x2/proposed".capitalize(),
    ):
        assert words in text, words


def test_two_pages_of_one_run_are_alike(smoke: Path, page: Path, tmp_path: Path) -> None:
    from mrsr.params import jobs
    from mrsr.report.page import write

    settings = jobs.read(jobs.Report, f"@{smoke}/results/smoke/settings/report.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(smoke)  # CITATION.cff
        write(settings, smoke / "results/smoke", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == page.read_bytes()


def test_figures_are_there_as_pdf_and_png(smoke: Path) -> None:
    settings = json.loads((smoke / "results/smoke/settings/figures.json").read_text())
    assert {"fig2_comparison_phantom_t1_2x", "fig7_losses"} <= set(settings["figures"])
    for name in settings["figures"]:
        for suffix, start in (("pdf", b"%PDF-"), ("png", b"\x89PNG")):
            content = (smoke / f"results/smoke/figures/{name}.{suffix}").read_bytes()
            assert content.startswith(start) and len(content) > 5000, name
        # letters, not outlines: journals ask for fonts in the file
        assert b"/FontFile2" in (smoke / f"results/smoke/figures/{name}.pdf").read_bytes()


def test_examples_are_the_images_that_were_measured(smoke: Path) -> None:
    import numpy as np

    from mrsr.figures import choosing, example_file

    folder = smoke / "results/smoke"
    loaded = example_file.read(folder / "figures/examples/phantom_t1_x2.npz")
    first = loaded.slices[0]
    at = choosing.Slice(first["volume"], first["index"])
    reference = loaded.image(0, example_file.REFERENCE)
    for method in loaded.labels:
        psnr = choosing.psnr_by_slice(folder / f"metrics/phantom_t1/x2/{method}.csv")
        error = np.mean((loaded.image(0, method) - reference).astype(float) ** 2)
        ours = 10 * np.log10(float(reference.max()) ** 2 / error)
        assert first["psnr"][method] == psnr[at]
        assert abs(ours - psnr[at]) < 1e-2, method
    values = choosing.psnr_by_slice(folder / "metrics/phantom_t1/x2/proposed.csv")
    middle = float(np.median(list(values.values())))
    assert abs(values[at] - middle) == min(abs(value - middle) for value in values.values())


def test_snakemakes_own_report_has_tables_figures_and_captions(smoke: Path, tmp_path: Path) -> None:
    file = tmp_path / "snakemake.html"
    snakemake(smoke, "--report", str(file), "all", "--config", "experiment=smoke")
    text = file.read_text(encoding="utf-8")
    for words in (
        "fig2_comparison_phantom_t1_2x",
        "residual_spectra_phantom_t1_2x",
        "Loss curves",
        "differences.csv",
        "as in the paper",
        "ring by ring in the Fourier plane",
    ):
        assert words in text, words


def test_it_works_in_a_browser_without_network(page: Path) -> None:
    with opened() as seen:
        show(seen, page)

        # tables sort, by keyboard too
        rows = seen.page.locator("table.sortable").first.locator("tbody tr td:first-child")
        before = rows.all_inner_texts()
        heading = seen.page.locator("table.sortable").first.locator("thead th", has_text="SSIM")
        heading.click()
        seen.page.wait_for_selector("th[aria-sort=descending]")
        column = seen.page.locator("table.sortable").first.locator("tbody tr td:nth-child(4)")
        values = [float(value) for value in column.evaluate_all("c => c.map(x => x.dataset.order)")]
        assert values == sorted(values, reverse=True) and len(values) == len(before) == 4
        heading.get_by_role("button").press("Enter")
        seen.page.wait_for_selector("th[aria-sort=ascending]")
        values = [float(value) for value in column.evaluate_all("c => c.map(x => x.dataset.order)")]
        assert values == sorted(values)

        # the divider moves by keyboard and by pointer; the difference of a row with itself is black
        first = pixels(seen)
        drawn_after(seen, lambda: seen.page.locator("#divider").press("End"))
        assert pixels(seen) != first
        box = seen.page.locator("#stage").bounding_box()
        assert box
        seen.page.locator("#stage").scroll_into_view_if_needed()
        box = seen.page.locator("#stage").bounding_box()
        drawn_after(seen, lambda: seen.page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 20))
        assert 20 <= float(seen.page.locator("#divider").input_value()) <= 30
        drawn_after(seen, lambda: seen.page.locator("input[value=difference]").check())
        assert "root mean square" in seen.page.inner_text("#told")
        label = seen.page.locator("#left").input_value()
        drawn_after(seen, lambda: seen.page.locator("#right").select_option(label))
        assert "root mean square 0.00 %" in seen.page.inner_text("#told")
        drawn_after(seen, lambda: seen.page.locator("#right").select_option("0"))
        whole = pixels(seen)
        drawn_after(seen, lambda: seen.page.locator("#zoom").press("End"))
        assert pixels(seen) != whole

        # another training's curve, and a point's values under the pointer
        names = seen.page.locator("#training option").all_inner_texts()
        assert "vit/organ" in names and "phantom_t1/x2/autoencoder" in names
        seen.page.locator("#training").select_option(label="phantom_t1/x2/srcnn")
        assert "at step 2" in seen.page.inner_text("#latest")
        chart = seen.page.locator("#chart .nsewdrag").first
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        hover = seen.page.locator("#chart .hoverlayer text")
        for turn in range(50):  # a pointer that moves until the chart is ready for it
            share = 0.4 + 0.1 * (turn % 2)
            seen.page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
            seen.page.wait_for_timeout(200)
            if hover.count():
                break
        assert "training" in seen.page.locator("#chart .hoverlayer").inner_html()
        seen.check()


def test_a_keyboard_reaches_every_control(page: Path) -> None:
    with opened() as seen:
        show(seen, page)
        wanted = {"slice", "left", "right", "divider", "zoom", "stage", "training", "metric"}
        reached = set()
        for _ in range(150):
            seen.page.keyboard.press("Tab")
            reached.add(seen.page.evaluate("document.activeElement.id"))
            if wanted <= reached:
                break
        assert wanted <= reached, wanted - reached
        seen.check()


def test_it_is_readable_on_a_phone_and_in_the_dark(page: Path) -> None:
    with opened(400, 800, dark=True) as seen:
        show(seen, page)
        wide = seen.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 400
        colours = seen.page.evaluate(
            "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
        )
        back, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
        assert back < 150 and text > 550, colours
        cell = seen.page.locator("table.sortable tbody td").first
        shade = cell.evaluate("c => getComputedStyle(c).color")
        assert sum(map(int, re.findall(r"\d+", shade)[:3])) > 500, shade
        seen.check()
