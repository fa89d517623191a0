"""Headless Chromium from Debian, driven by playwright, shut in with this machine's own addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from tests.clients.program import PATIENCE, program

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LOCAL_NAMES_ONLY = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


@contextmanager
def browsing(width: int = 1280, height: int = 800, *, touch: bool = False, name: str = "") -> Iterator[Page]:
    """Open an empty page; what its scripts throw fails the test at the end.

    Args:
        width: Of the window, in pixels.
        height: Of the window, in pixels.
        touch: Whether it is a phone.
        name: Another name of this host, for this browser.
    """
    errors: list[str] = []
    chromium = program("chromium")
    rules = f"--host-resolver-rules={f'MAP {name} 127.0.0.1, ' if name else ''}{LOCAL_NAMES_ONLY}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=[*ARGUMENTS, rules])
        page = browser.new_page(viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch)
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
    assert not errors
