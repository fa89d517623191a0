"""`wsbridge demo` as a person meets it: the page in a browser."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.clients.browser import browsing
from tests.clients.program import Program

MILLISECONDS = re.compile(r"^(\d|\d\d|\d\d\d)(\.\d+)? ms$")


@pytest.fixture
def demo() -> Iterator[Program]:
    """The demo at a free port."""
    with Program(sys.executable, "-m", "wsbridge", "demo", "--port", "0") as demo:
        yield demo


@pytest.fixture
def page(demo: Program) -> Iterator[Page]:
    """The demo's page in a browser."""
    url = demo.line(r"http://127\.0\.0\.1:\d+/")[0]
    with browsing(1120, 760) as page:
        page.goto(url)
        yield page


def say(page: Page, line: str) -> None:
    """Type a line and press Enter."""
    page.locator("#input").fill(line)
    page.locator("#input").press("Enter")


@pytest.mark.browser
def test_a_name_that_was_not_allowed(demo: Program, tmp_path: Path) -> None:
    """Behind a port forward, the browser shows why, and the option that allows the name."""
    url = demo.line(r"http://127\.0\.0\.1:(\d+)/")
    with browsing(390, 500, name="name-8080.app.example") as page:
        response = page.goto(f"http://name-8080.app.example:{url[1]}/")
        assert response is not None and response.status == 403
        expect(page.locator("body")).to_contain_text("The host name in the URL")
        expect(page.locator("body")).to_contain_text("host_not_allowed, id=")
        expect(page.locator("body")).to_contain_text("--host-name NAME")
        page.screenshot(path=tmp_path / "host.png")


@pytest.mark.browser
def test_page(demo: Program, page: Page, tmp_path: Path) -> None:
    """One types and is answered, sees the state, the round trip and the rates, and why the connection ended."""
    terminal = page.locator("#terminal")
    expect(page.locator("#state")).to_have_text("open")
    expect(terminal).to_contain_text("wsbridge demo service")
    expect(page.locator("#subprotocol")).to_have_text("resume")

    say(page, "flood 16")
    expect(terminal).to_contain_text("Done: 16.0 MiB")
    expect(page.locator("#bytes-in")).to_have_text(re.compile(r"^16(\.\d)? MiB$"))
    say(page, "help")
    expect(terminal).to_contain_text("markup and control codes")
    say(page, "echo through the bridge and back")
    expect(terminal).to_contain_text(re.compile(r"echo through the bridge and back\s+through the bridge and back"))
    page.get_by_role("button", name="date").click()
    page.get_by_role("button", name="unicode").click()
    expect(terminal).to_contain_text("👩‍🚀")
    expect(page.locator("#rtt")).to_have_text(MILLISECONDS)
    page.screenshot(path=tmp_path / "demo.png")

    say(page, "quit")
    expect(page.locator("#state")).to_have_text("closed")
    expect(page.locator("#reason-name")).to_have_text("1000 backend_closed")
    demo.line("backend_closed")

    page.locator("#reconnect").click()
    expect(page.locator("#state")).to_have_text("open")
    page.get_by_role("button", name="reset").click()
    expect(page.locator("#reason-name")).to_have_text("4012 backend_reset")

    say(page, "")
    expect(page.locator("#state")).to_have_text("open")
    page.locator("#disconnect").click()
    expect(page.locator("#reason-name")).to_have_text("1000 client_closed")


@pytest.mark.browser
def test_pull_the_plug(demo: Program, page: Page, tmp_path: Path) -> None:
    """The service counts on without the connection; what it sent is replayed, and so is what was typed meanwhile."""
    state = page.locator("#state")
    expect(state).to_have_text("open")
    page.locator("#pull").click()
    expect(state).to_have_text("reconnecting")
    expect(page.locator("#pull")).to_be_disabled()
    expect(page.locator(".numbers .live")).to_have_count(15)
    page.screenshot(path=tmp_path / "unplugged.png")
    expect(state).to_have_text("open")
    expect(page.locator("#plug-result")).to_contain_text("of 80, none is missing, none came twice")
    page.screenshot(path=tmp_path / "plugged.png")
    late = page.locator(".numbers .late").count()
    assert 30 <= late <= 50
    expect(page.locator("#plug-result")).to_contain_text(f" {late} numbers (")
    expect(page.locator(".numbers .live")).to_have_count(80 - late)
    demo.line("session.closed|connection.closed")


@pytest.mark.browser
def test_interrupt(demo: Program, page: Page) -> None:
    """Ctrl-C ends the demo at once, with a page open, and the page says so."""
    expect(page.locator("#state")).to_have_text("open")

    demo.process.send_signal(signal.SIGINT)

    assert demo.process.wait(30) in (0, 130)
    expect(page.locator("#state")).to_have_text("closed")


def test_busy_port(demo: Program) -> None:
    """A port in use is reported in a sentence that names --port."""
    port = demo.line(r"http://127\.0\.0\.1:(\d+)/")[1]
    with Program(sys.executable, "-m", "wsbridge", "demo", "--port", port) as second:
        second.line(rf"{port}.*already in use.*--port")
        assert second.process.wait(30) == 69


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone(demo: Program, width: int) -> None:
    """Nothing is wider than the screen, no label lies over a box, and what is touched is 44 pixels high."""
    url = demo.line(r"http://127\.0\.0\.1:\d+/")[0]
    with browsing(width, 800, touch=True) as page:
        page.goto(url)
        expect(page.locator("#state")).to_have_text("open")
        page.locator("summary").click()

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        heights = page.locator("button:visible, #input, summary").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().height)"
        )
        assert min(heights) >= 44
        expect(page.locator(".link.client span")).to_be_hidden()


@pytest.mark.browser
def test_the_side_that_broke_is_red(page: Page) -> None:
    """After a reset by the service the line to the service is red, and the one to this page is not."""
    expect(page.locator("#state")).to_have_text("open")
    page.get_by_role("button", name="reset").click()
    expect(page.locator("#state")).to_have_text("closed")

    colours = page.locator(".link").evaluate_all("all => all.map(each => getComputedStyle(each).borderBottomColor)")
    assert colours[0] != colours[1] == "rgb(185, 28, 28)"
