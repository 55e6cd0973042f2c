"""The browser that other tests look at pages with sees what it must see."""

from __future__ import annotations

from pathlib import Path

import pytest

from browser import opened


@pytest.mark.slow
def test_it_tells_what_a_page_must_not_do(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>well</p><canvas></canvas>")
    with opened(width=400) as seen:
        seen.page.goto(page.as_uri())
        assert seen.page.inner_text("p") == "well"
        drawing = "!!document.querySelector('canvas').getContext('webgl2')"
        assert seen.page.evaluate(drawing), "no WebGL 2"
        seen.check()

    page.write_text("<script>console.error('ill')</script><img src='https://example.org/a.png'>")
    with opened() as seen:
        seen.page.goto(page.as_uri())
        assert any("ill" in error for error in seen.errors)
        assert seen.outside == ["https://example.org/a.png"]
        with pytest.raises(AssertionError):
            seen.check()
