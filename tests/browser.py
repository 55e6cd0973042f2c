"""A real headless Chromium for pages that people open; it reports what a page must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, sync_playwright

LOCAL = {"", "127.0.0.1", "localhost", "::1"}
# WebGL by software: test machines have no graphics card. Root needs --no-sandbox
SWITCHES = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@dataclass
class Seen:
    """A page, and what went wrong on it since it was opened.

    Args:
        page: of playwright: `page.goto(...)`, `page.locator(...)`, `page.screenshot(path=...)`.
        errors: what the page wrote to the console as an error, and exceptions it did not catch.
        outside: addresses that it asked for beyond this machine; none was answered.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raise AssertionError if the page erred or asked for anything outside."""
        assert not self.errors, self.errors
        assert not self.outside, self.outside


def executable() -> str:
    """Chromium's path; skips the test where there is none, and fails it in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    reason = "no Chromium here (Debian and Ubuntu: apt install chromium)"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)


@contextmanager
def opened(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Seen]:
    """An empty page of `width` x `height` pixels, closed at the end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=SWITCHES)
        try:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
            )
            seen = Seen(page)

            def refuse(route) -> None:
                if (urlsplit(route.request.url).hostname or "") in LOCAL:
                    route.continue_()
                else:
                    seen.outside.append(route.request.url)
                    route.abort()

            page.route("**/*", refuse)
            page.on("pageerror", lambda error: seen.errors.append(str(error)))
            page.on(
                "console",
                lambda message: (
                    seen.errors.append(message.text) if message.type == "error" else None
                ),
            )
            yield seen
        finally:
            browser.close()
