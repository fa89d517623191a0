"""The status page as an operator meets it, in a browser, with a real daemon behind it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.clients.browser import browsing
from tests.process.daemon import Daemon
from tests.serving import written
from tests.top.stub import STATUS, connection, ending, route

pytestmark = pytest.mark.browser

TOKEN = "let-me-in"
UPGRADE = (
    "GET /desk HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: binary\r\nUser-Agent: <b>bold</b>\r\n\r\n"
)


@contextmanager
def upgraded(daemon: Daemon) -> Iterator[socket.socket]:
    """Open a WebSocket connection whose backend says nothing."""
    with socket.create_connection(("127.0.0.1", daemon.port()), 10) as client:
        client.sendall(UPGRADE.encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        yield client


@contextmanager
def served(folder: Path, backend: int = 1, port: int = 0, *, token: bool = True) -> Iterator[tuple[Daemon, str]]:
    """Run a daemon with the page; give it and the page's URL."""
    secret = folder / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    admin: dict[str, Any] = {"bind": f"127.0.0.1:{port}", "token": {"file": str(secret)}, "page": True}
    routes = {
        "desk": {"match": {"path": "/desk"}, "backend": f"tcp://127.0.0.1:{backend}", "auth": "none"},
        "health": {"match": "any", "respond": 204, "auth": "none"},
    }
    with Daemon(written(routes=routes, admin=admin)) as daemon:
        yield daemon, f"http://{daemon.wait('listener.opened', listener='admin')['listen_address']}/"


@contextmanager
def opened(url: str, width: int = 1280, height: int = 860, *, touch: bool = False) -> Iterator[Page]:
    """Open the page; a violation of its policy fails the test."""
    complaints: list[str] = []
    with browsing(width, height, touch=touch) as page:
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(url)
        yield page
    assert not [text for text in complaints if "Security Policy" in text or "TrustedHTML" in text]


def log_in(page: Page, token: str = TOKEN) -> None:
    """Give the token."""
    page.locator("#token").fill(token)
    page.locator("#token").press("Enter")


def answering(page: Page, **answers: Any) -> None:
    """Answer the API in place of the daemon, with 0 connections unless told otherwise."""
    found: dict[str, Any] = {"status": STATUS, "routes": [], "listeners": []}
    found["connections"] = {"connections": [], "ended": [], "total": 0}
    found |= answers

    def fulfill(request: Route) -> None:
        name = request.request.url.rpartition("/")[2]
        request.fulfill(status=200, content_type="application/json", body=json.dumps(found[name]))

    page.route("**/v1/*", fulfill)


def test_the_token_is_asked_for_and_kept_in_memory(tmp_path: Path) -> None:
    """A wrong one is asked for again, and is one rejected request; after a reload of the page it is gone."""
    with served(tmp_path) as (daemon, url), opened(url) as page:
        expect(page.locator("#token")).to_be_focused()
        expect(page.locator("#main")).to_be_hidden()
        page.screenshot(path=tmp_path / "token.png")
        assert not daemon.log_lines("admin.denied")
        log_in(page, "let-me-out")
        expect(page.locator("#login-problem")).to_contain_text("not valid")
        page.screenshot(path=tmp_path / "wrong.png")
        assert len(daemon.log_lines("admin.denied")) == 1
        log_in(page, "nötig")
        expect(page.locator("#login-problem")).to_contain_text("ASCII")
        log_in(page)
        expect(page.locator("#state")).to_have_text("serving, ready")
        expect(page.locator("#empty")).to_have_text("No connections.")
        assert page.url == url
        assert page.context.cookies() == []
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        assert TOKEN not in page.content()
        page.reload()
        expect(page.locator("#token")).to_be_visible()


def test_connections_are_followed(tmp_path: Path) -> None:
    """One opens, moves bytes and ends; what its client sent is text."""
    with (
        socket.create_server(("127.0.0.1", 0)) as backend,
        served(tmp_path, backend.getsockname()[1]) as (daemon, url),
        opened(url) as page,
    ):
        log_in(page)
        with upgraded(daemon) as client:
            service, _ = backend.accept()
            row = page.locator("#rows tr")
            expect(row).to_contain_text("<b>bold</b>")
            expect(row).to_contain_text("relaying")
            assert row.locator("b").count() == 0
            service.sendall(b"x" * 300_000)
            left = 300_000
            while left > 0:
                left -= len(client.recv(65536))
            expect(row).to_contain_text("293 KiB")
            expect(page.locator("#connections")).to_have_text("1")
            page.screenshot(path=tmp_path / "connections.png")
        page.get_by_role("tab", name="Endings").click()
        expect(page.locator("#rows tr")).to_contain_text("client_lost")
        service.close()
        page.get_by_role("tab", name="Listeners").click()
        expect(page.locator("#rows tr")).to_contain_text(f"127.0.0.1:{daemon.port()}")


def test_the_daemon_is_restarted(tmp_path: Path) -> None:
    """While it is gone, the page says so and keeps what it had; then it goes on without being asked."""
    with served(tmp_path) as (daemon, url), opened(url) as page:
        log_in(page)
        expect(page.locator("#state")).to_have_text("serving, ready")
        first = page.locator("#about").inner_text()
        daemon.kill()
        expect(page.locator("#problem")).to_contain_text("Not reachable, retrying: wsbridge does not answer.")
        expect(page.locator("#state")).to_have_text("not reachable")
        expect(page.locator("#main")).to_be_visible()
        page.screenshot(path=tmp_path / "gone.png")
        with served(tmp_path, port=int(url.rstrip("/").rpartition(":")[2])):
            expect(page.locator("#state")).to_have_text("serving, ready")
            expect(page.locator("#problem")).to_be_hidden()
            expect(page.locator("#about")).not_to_have_text(first)


def test_two_thousand_connections(tmp_path: Path) -> None:
    """The fastest 200 are shown, and the number of all; the page stays quick, and hostile text stays text."""
    hostile = "<img src=x onerror=alert(1)>\u202e\u0000"
    rows = [connection(number, identity=hostile, bytes_to_client=number * 1000) for number in range(1, 2001)]
    with served(tmp_path) as (_, url), opened(url) as page:
        live = {"connections": rows, "ended": [ending(1, detail=hostile)], "total": 2000}
        routes = [route(f"route{number}") for number in range(300)]
        answering(page, connections=live, routes=routes)
        page.evaluate(
            "new PerformanceObserver(list => (window.slow ??= []).push(...list.getEntries().map(one => one.duration)))"
            ".observe({entryTypes: ['longtask']})"
        )
        log_in(page)
        expect(page.locator("#note")).to_have_text("200 of 2000 rows are shown, the first by client/s.")
        expect(page.locator("#rows tr")).to_have_count(200)
        expect(page.get_by_role("tab", name="Connections")).to_contain_text("2000")
        page.get_by_role("button", name="to client").click()
        expect(page.locator("#rows tr").first).to_contain_text("192.0.2.0:42000")
        page.locator("#filter").fill("192.0.2.77:41577")
        expect(page.locator("#rows tr")).to_have_count(1)
        expect(page.locator("#note")).to_have_text("")
        page.locator("#filter").fill("nothing has this")
        expect(page.locator("#empty")).to_have_text("No row contains this text.")
        page.locator("#filter").fill("")
        page.get_by_role("tab", name="Routes").click()
        expect(page.locator("#note")).to_contain_text("200 of 300 rows")
        assert page.locator("#rows img").count() == 0
        assert max(page.evaluate("window.slow ?? [0]")) < 2000


def test_keyboard(tmp_path: Path) -> None:
    """Arrows choose a table, Enter sorts by a column, and again the other way."""
    with served(tmp_path) as (_, url), opened(url) as page:
        live = {"connections": [connection(1), connection(2)], "ended": [ending(9)], "total": 2}
        answering(page, connections=live)
        log_in(page)
        page.get_by_role("tab", name="Connections").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name="Endings")).to_be_focused()
        expect(page.get_by_role("tab", name="Endings")).to_have_attribute("aria-selected", "true")
        expect(page.locator("#rows tr")).to_contain_text("backend_closed")
        page.keyboard.press("ArrowLeft")
        page.get_by_role("button", name="id", exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
        expect(page.locator("#rows tr").first).to_contain_text("40002")
        page.keyboard.press("Enter")
        expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
        expect(page.locator("#rows tr").first).to_contain_text("40001")
        page.get_by_role("button", name="Pause").press("Enter")
        expect(page.get_by_role("button", name="Resume")).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("width", [390, 320])
def test_on_a_phone(tmp_path: Path, width: int) -> None:
    """Nothing is wider than the screen, and what is touched is 44 pixels high."""
    live = {"connections": [connection(n, user_agent="x" * 300) for n in range(60)], "ended": [], "total": 60}
    with served(tmp_path) as (_, url), opened(url, width, 800, touch=True) as page:
        answering(page, connections=live, routes=[route("a-rather-long-name-of-a-route-with-many-words")])
        page.screenshot(path=tmp_path / "token.png")
        log_in(page)
        expect(page.locator("#rows tr")).to_have_count(40)
        page.screenshot(path=tmp_path / "phone.png")
        for name in ("Routes", "Endings", "Listeners", "Connections"):
            page.get_by_role("tab", name=re.compile(name)).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        heights = page.locator("button:visible, input:visible, select:visible").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().height)"
        )
        assert min(heights) >= 44
        page.locator("#sort").select_option("age")
        expect(page.locator("#rows tr").first).to_contain_text("2m39s")


def test_a_daemon_in_trouble(tmp_path: Path) -> None:
    """Not ready, slow, a failed reload: each is marked."""
    trouble = {
        **STATUS,
        "ready": False,
        "connections": 1000,
        "loop_lag_seconds": 0.5,
        "last_reload": {"time": "2026-01-31T11:00:00Z", "generation": 2, "error": "line 3: <b>bad</b>", "problems": []},
    }
    with served(tmp_path) as (_, url), opened(url) as page:
        answering(page, status=trouble)
        log_in(page)
        expect(page.locator("#state")).to_have_text("not ready: connection limit reached")
        expect(page.locator("#reload")).to_contain_text("line 3: <b>bad</b>")
        expect(page.locator(".meters > .bad")).to_have_count(3)
        page.screenshot(path=tmp_path / "trouble.png")
