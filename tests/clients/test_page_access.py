"""A page in a real browser that has to say who it is: by cookie, by subprotocol, by ticket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.clients.browser import browsing
from tests.clients.servers import echo, serving
from tests.process.daemon import Daemon

TOKEN = "a-token-that-nobody-guesses-0123456789"
TOKENS = f"alice sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n"

SCRIPT = """
const coded = (token) => btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

// Say hello by a WebSocket; give what came back, or how it ended.
window.hello = (path, protocols, host = location.host) => new Promise((resolve) => {
  const socket = new WebSocket(`ws://${host}${path}`, protocols);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send("hello");
  socket.onmessage = ({ data }) => { resolve(new TextDecoder().decode(data)); socket.close(1000); };
  socket.onclose = ({ code }) => resolve(`closed ${code}`);
});
window.byToken = (path, token) => window.hello(path, ["binary", `wsbridge.token.${coded(token)}`]);
window.ticket = async (path) => {
  const answer = await fetch(path, { method: "POST", credentials: "same-origin" });
  return answer.ok ? (await answer.json()).ticket : `refused ${answer.status}`;
};
"""


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Daemon]:
    """A bridge with a page and an echo behind each authentication method."""
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text('<!doctype html><meta charset="utf-8"><script src="page.js"></script>\n')
    (page / "page.js").write_text(SCRIPT)
    for name, text in (("tokens", TOKENS), ("key", "k" * 40)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    key = {"file": str(tmp_path / "key")}
    cookie = {"kind": "bearer", "tokens": str(tmp_path / "tokens"), "sources": ["cookie:bridge"]}
    with serving(echo) as port:
        (tmp_path / "desks").write_text(f"{TOKEN}: 127.0.0.1:{port}\n")
        back = {"backend": f"tcp://127.0.0.1:{port}"}
        routes: dict[str, Any] = {
            "cookie": {"match": {"path": "/cookie"}, **back, "auth": cookie},
            "desk": {
                "match": {"path": "/desk"},
                "backend": {"tokens": str(tmp_path / "desks"), "token_from": "cookie.bridge"},
                "allowed_targets": {"networks": ["127.0.0.1/32"], "ports": [str(port)]},
                "auth": "none",
            },
            "token": {"match": {"path": "/token"}, **back, "auth": {**cookie, "sources": ["subprotocol"]}},
            "pass": {"match": {"path": "/pass"}, **back, "auth": {"kind": "ticket", "key": key}},
            "giving": {"match": {"path": "/pass"}, "auth": cookie, "issue_tickets": {"route": "pass", "key": key}},
            "page": {"match": {"path": "/*"}, "files": str(page), "auth": "none"},
        }
        listeners = {"web": {"bind": "127.0.0.1:0"}, "other": {"bind": "127.0.0.1:0"}}
        with Daemon(json.dumps({"listeners": listeners, "routes": routes})) as bridge:
            yield bridge


@pytest.fixture
def page(bridge: Daemon) -> Iterator[Page]:
    """The page, with no cookie yet."""
    with browsing() as page:
        page.goto(f"http://127.0.0.1:{bridge.port()}/")
        yield page


def remember(page: Page, token: str) -> None:
    """Give the browser the cookie, as a login page would."""
    page.context.add_cookies(
        [{"name": "bridge", "value": token, "url": page.url, "httpOnly": True, "sameSite": "Strict"}]
    )


def said_to_be(bridge: Daemon, route: str) -> str:
    """Return the identity in the log line of a connection that has ended."""
    identity = bridge.wait("connection.closed", route=route)["identity"]
    assert isinstance(identity, str)
    return identity


@pytest.mark.browser
def test_by_cookie(bridge: Daemon, page: Page) -> None:
    """A browser sends the cookie along with a WebSocket of the same page; without it, or with another, it stays out."""
    assert page.evaluate("hello('/cookie', ['binary'])") == "closed 1006"
    remember(page, "another-token")
    assert page.evaluate("hello('/cookie', ['binary'])") == "closed 1006"
    remember(page, TOKEN)
    assert page.evaluate("hello('/cookie', ['binary'])") == "hello"
    assert said_to_be(bridge, "cookie") == "alice"


@pytest.mark.browser
def test_a_cookie_chooses_the_target(bridge: Daemon, page: Page) -> None:
    """A page that has its target token in a cookie connects without having it in the URL."""
    assert page.evaluate("hello('/desk', ['binary'])") == "closed 1006"
    remember(page, TOKEN)
    assert page.evaluate("hello('/desk', ['binary'])") == "hello"
    assert bridge.wait("connection.closed", route="desk")["path"] == "/desk"


@pytest.mark.browser
@pytest.mark.parametrize("path", ["/cookie", "/desk"])
def test_a_cookie_is_not_for_the_pages_of_others(bridge: Daemon, page: Page, path: str) -> None:
    """A page of another port, for which the browser sends the same cookie, does not get in."""
    remember(page, TOKEN)
    page.goto(f"http://127.0.0.1:{bridge.port(1)}/")
    hello = f"(host) => hello('{path}', ['binary'], host)"
    assert page.evaluate(hello, f"127.0.0.1:{bridge.port()}") == "closed 1006"
    refused = bridge.wait("connection.rejected")
    assert (refused["reason"], refused["status"]) == ("origin_not_allowed", 403)


@pytest.mark.browser
def test_by_subprotocol(bridge: Daemon, page: Page) -> None:
    """A page that has the token offers it beside the protocol that is spoken."""
    assert page.evaluate("byToken('/token', 'another-token')") == "closed 1006"
    assert page.evaluate(f"byToken('/token', '{TOKEN}')") == "hello"
    assert said_to_be(bridge, "token") == "alice"
    assert bridge.log_lines("connection.closed", route="token")[0]["subprotocol"] == "binary"


@pytest.mark.browser
def test_by_ticket(bridge: Daemon, page: Page) -> None:
    """A page gets a ticket by HTTP, where its browser shows who the user is, and the ticket opens one WebSocket."""
    assert page.evaluate("ticket('/pass')") == "refused 401"
    remember(page, TOKEN)
    ticket = page.evaluate("ticket('/pass')")
    assert page.evaluate("(ticket) => hello(`/pass?ticket=${ticket}`, ['binary'])", ticket) == "hello"
    assert said_to_be(bridge, "pass") == "alice"
    assert page.evaluate("(ticket) => hello(`/pass?ticket=${ticket}`, ['binary'])", ticket) == "closed 1006"
    assert ticket not in str(bridge.log_lines("connection.closed")) + str(bridge.log_lines("connection.rejected"))
