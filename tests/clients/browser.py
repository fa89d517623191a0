"""Headless Chromium from Debian, driven by playwright, shut in with this machine's own addresses.

One browser serves all tests of a process, each in a profile of its own; a session's end closes it. It belongs to the
main thread: what runs in another one launches its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

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

RUNNING = ExitStack()
"""The browsers of this process and what drives them."""


@functools.cache
def driver() -> Playwright:
    """Start what drives browsers."""
    return RUNNING.enter_context(sync_playwright())


@functools.cache
def browser(name: str) -> Browser:
    """Start a browser that knows this host by another name, too, for all tests of this process."""
    started = launch(driver(), name)
    RUNNING.callback(started.close)
    return started


def launch(playwright: Playwright, name: str = "") -> Browser:
    """Start a browser that knows this host by another name, too."""
    rules = f"--host-resolver-rules={f'MAP {name} 127.0.0.1, ' if name else ''}{LOCAL_NAMES_ONLY}"
    chromium = program("chromium")
    return playwright.chromium.launch(executable_path=chromium, headless=True, args=[*ARGUMENTS, rules])


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
    profile = browser(name).new_context(viewport={"width": width, "height": height}, has_touch=touch, is_mobile=touch)
    try:
        page = profile.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
    finally:
        profile.close()
    assert not errors
