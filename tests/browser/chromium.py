"""Debian's Chromium, driven by Playwright: where it is, and why it cannot be driven where it is missing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def path() -> str | None:
    """The browser's path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def missing() -> str | None:
    """Why no browser can be driven here, if so."""
    try:
        import playwright.sync_api  # noqa: F401, PLC0415 -- it may not be there
    except ImportError:
        return "playwright is not installed"
    return None if path() else "chromium is not installed"


def required() -> bool:
    """Whether it is a failure that it is missing."""
    return os.environ.get("REQUIRE_BROWSER") == "1"


@contextmanager
def running() -> Iterator["Browser"]:
    """A browser while the block lasts."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- it may not be there

    # root has no sandbox of its own
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()
